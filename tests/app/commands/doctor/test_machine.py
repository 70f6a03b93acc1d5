"""What doctor says of the machine and of clocks: each answer, yes and no, with what to do."""

from __future__ import annotations

import resource
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from driftgraph.app.commands.doctor import machine
from driftgraph.app.commands.doctor.clock import record_skew, redis_clock, redis_skew
from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.commands.doctor.machine import (
    PROCESSES_BYTES,
    Needed,
    disk_space,
    memory,
    memory_limit,
    open_files,
    port,
    shared_memory,
    versions,
)
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.console.status_files import write_json
from driftgraph.stream.time.clock import SystemClock

GB = 10**9
NOTHING = Needed(0, 0, 0)


def settings(folder: Path, **tables: object) -> Settings:
    return load(options={"data_dir": str(folder), "relations": {"click": {}}, **tables})


# --- clocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redis_ms", "state", "said"),
    [
        (10_050, State.OK, "that of Redis, to 0.0 s"),
        (9_000, State.OK, "that of Redis, to 1.0 s"),
        (8_000, State.WARN, "2.0 s ahead of that of Redis"),
        (13_100, State.WARN, "3.0 s behind that of Redis"),
    ],
)
def test_the_clock_of_redis(redis_ms: int, state: State, said: str) -> None:
    check = redis_skew(redis_ms, 10_000, 10_100)
    assert (check.state, said in check.detail) == (state, True), check
    assert state is State.OK or "NTP" in check.detail


@pytest.mark.parametrize(
    ("ahead_ms", "state"),
    [(-86_400_000, State.OK), (900, State.OK), (2_000, State.WARN), (300_001, State.FAIL)],
)
def test_the_newest_record(ahead_ms: int, state: State) -> None:
    check = record_skew(ahead_ms, 300_000)
    assert check.state is state
    assert state is State.OK or "NTP" in check.detail


def test_a_redis_that_is_not_there_is_said_once_as_unknown(tmp_path: Path) -> None:
    [check] = redis_clock(settings(tmp_path, redis={"url": "redis://127.0.0.1:1/0"}), SystemClock())
    assert (check.state, "did not say its time" in check.detail) == (State.WARN, True)


def test_a_real_redis_has_our_clock(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    [check] = redis_clock(settings(tmp_path, redis={"url": redis_server.url}), SystemClock())
    assert check.state is State.OK, check


# --- memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroup", "limits", "wanted"),
    [
        ("0::/\n", {}, (8_000_000 * 1024, "this machine")),
        ("0::/\n", {"memory.max": "max"}, (8_000_000 * 1024, "this machine")),
        ("0::/\n", {"memory.max": "5000"}, (5000, "the control group")),
        ("0::/a/b\n", {"a/b/memory.max": "7000", "memory.max": "9000"}, (7000, "the control group")),
        (
            "4:memory:/x\n1:cpu:/y\n",
            {"memory/x/memory.limit_in_bytes": "6000", "memory/memory.limit_in_bytes": str(2**63)},
            (6000, "the control group"),
        ),
    ],
)
def test_the_least_limit_counts(
    tmp_path: Path, cgroup: str, limits: dict[str, str], wanted: tuple[int, str]
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8000000 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, limit in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit)
    assert memory_limit(tmp_path) == wanted


@pytest.mark.parametrize(
    ("needed", "limit", "state"),
    [
        (NOTHING, 4 * GB, State.OK),
        (NOTHING, PROCESSES_BYTES, State.WARN),
        (Needed(GB, GB, 4), 20 * GB, State.OK),
        (Needed(GB, GB, 4), 4 * GB, State.WARN),
        (Needed(GB, GB, 4), 3 * GB, State.FAIL),
    ],
)
def test_window_ids_and_processes_are_held_against_the_limit(
    needed: Needed, limit: int, state: State
) -> None:
    assert memory(needed, limit, "the control group").state is state


@pytest.mark.parametrize(
    ("kind", "size", "states"),
    [("ext4", 64 << 20, []), ("tmpfs", 2 * GB, [State.OK]), ("tmpfs", 64 << 20, [State.FAIL])],
)
def test_a_window_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int, states: list[State]
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none / overlay rw 0 0\nnone {tmp_path} {kind} rw 0 0\nnone /elsewhere tmpfs rw 0 0\n")
    monkeypatch.setattr(machine, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(total=size)))
    found = list(shared_memory(tmp_path / "not" / "there", GB, mounts))
    assert [check.state for check in found] == states
    assert all(check.state is State.OK or "--shm-size" in check.detail for check in found)


# --- disk, files, port, versions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "state"), [(8 * GB, State.OK), (5 * GB, State.WARN), (GB // 2, State.FAIL), (0, State.FAIL)]
)
def test_what_grows_in_data_dir_is_held_against_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: State
) -> None:
    """Four checkpoints of a gigabyte, and a gigabyte of letters but for a quarter that is there."""
    letters = tmp_path / "dead_letters"
    letters.mkdir()
    (letters / "dead-letters-000001.jsonl").write_bytes(bytes(100_000))
    monkeypatch.setattr(machine, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free)))
    check = disk_space(settings(tmp_path), Needed(GB, 0, 1))
    assert check.state is state, check
    assert state is State.OK or "free some space" in check.detail


def test_a_checkpoint_that_is_there_is_measured_and_its_links_count_once(tmp_path: Path) -> None:
    for number in ("1", "2", "3"):
        folder = tmp_path / "checkpoints" / number
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        file = folder / "stretch"
        if number == "1":
            file.write_bytes(b"x" * 30_000_000)
        else:
            file.hardlink_to(tmp_path / "checkpoints" / "1" / "stretch")
    assert "checkpoints of 0.03 GB" in disk_space(settings(tmp_path), NOTHING).detail
    assert 30_000_000 <= machine._bytes_in(tmp_path / "checkpoints") < 31_000_000


def test_the_limit_of_open_files(tmp_path: Path) -> None:
    own = settings(tmp_path, web={"listen": "off"})
    assert open_files(own, 30, 324).state is State.OK
    few = open_files(own, 31, 324)
    assert (few.state, "ulimit -n 326" in few.detail) == (State.WARN, True)
    assert open_files(settings(tmp_path, web={"listen": "127.0.0.1:0"}), 30, 324).state is State.WARN
    assert open_files(own, 31, resource.RLIM_INFINITY).state is State.OK


def test_the_port_is_free_taken_or_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        own = settings(tmp_path, web={"listen": f"127.0.0.1:{number}"})
        [check] = port(own)
        assert (check.state, "set another address" in check.detail) == (State.WARN, True)
        write_json(tmp_path / "status" / "web.json", {"pid": 1, "state": "running", "port": number})
        [check] = port(own)
        assert (check.state, "served by process 1" in check.detail) == (State.OK, True)
        write_json(tmp_path / "status" / "web.json", {"pid": 1, "state": "failed", "port": number})
        [check] = port(own)
        assert check.state is State.WARN
    [check] = port(own)
    assert (check.state, "is free" in check.detail) == (State.OK, True)
    assert list(port(settings(tmp_path, web={"listen": "off"}))) == []


@pytest.mark.parametrize(
    ("python", "dgl", "backend", "state"),
    [
        ("3.11.7", "1.1.3", "dgl", State.OK),
        ("3.12.1", None, "torch", State.OK),
        ("3.12.1", None, "dgl", State.FAIL),
        ("3.14.0", None, "torch", State.WARN),
    ],
)
def test_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str, dgl: str | None, backend: str, state: State
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: python)
    monkeypatch.setattr(machine, "_version", lambda _: dgl)
    check: Check = versions(settings(tmp_path, model={"backend": backend, "custom": "a:B"}))
    assert check.state is state
