"""Erasure on a real Kafka and Redis: nothing of a user is left anywhere, and nothing brings the user back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.app.cli.test_cli import Shell
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_live import fill, recent_shop
from tests.services.updaters import RunningUpdater, configured, model_served, until

pytestmark = pytest.mark.services

ANN = "ann-to-be-forgotten"
GONE_WITHIN_S = 90.0
ANN_COUNT = 12


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    """A shop's events and, some minutes old, those of Ann: good ones in both partitions, and two bad ones."""
    name = f"erase-{uuid4().hex[:8]}"
    shop = recent_shop()
    fill(real_kafka, name, shop)
    old_ms = SystemClock().now_ms() - 600_000
    good = [
        {
            "value": event(ANN, shop.item_ids[n], time_ms=old_ms + n),
            "key": ANN,
            "partition": n % 2,
            "timestamp": old_ms + n,
        }
        for n in range(ANN_COUNT)
    ]
    bad = [
        {"value": event(ANN, behavior="stares"), "key": ANN, "timestamp": old_ms},
        {"value": event(ANN, behavior="shouts"), "timestamp": old_ms},  # without a key: found by its payload
        {"value": event("bob", behavior="stares"), "key": "bob", "timestamp": old_ms},
    ]
    produce(real_kafka.address, name, [*good, *bad])
    return name


@pytest.fixture
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


def configured_for(folder: Path, kafka: RealKafka, topic: str, redis: str) -> Path:
    """With a checkpoint each second: an older one has the user, until three were made."""
    config = configured(folder, kafka=kafka.address, topic=topic, redis=redis)
    config.write_text(config.read_text(encoding="utf-8") + '[checkpoint]\nevery = "1s"\n', encoding="utf-8")
    return config


def holding(client: redis_py.Redis, user: str) -> list[str]:
    """Every key that is named by the user or has the id anywhere in its value."""
    found = []
    for key in client.scan_iter(count=10_000):
        kind, parts = client.type(key), [key]
        if kind == b"hash":
            parts += [part for pair in client.hgetall(key).items() for part in pair]
        elif kind in (b"list", b"zset"):
            parts += client.lrange(key, 0, -1) if kind == b"list" else client.zrange(key, 0, -1)
        if any(user.encode() in part for part in parts):
            found.append(key.decode())
    return found


def files_holding(folder: Path, user: str) -> list[str]:
    """Files of data_dir with the id in them as it is, or as the dead letters write it."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and user.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return found


def letters_of(shell: Shell, config: Path) -> list[str]:
    """Keys and payloads of the letters that ``dlq`` knows."""
    ids = [
        line["id"]
        for reason in ("unknown_behavior", "late")
        for line in json.loads(shell("dlq", "ls", "--reason", reason, "-c", str(config), "--json").out)
    ]
    return [shell("dlq", "show", one, "-c", str(config), "--json").out for one in ids]


def test_a_tombstone_reaches_everything_and_nothing_brings_the_user_back(
    real_kafka: RealKafka, topic: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = configured_for(tmp_path, real_kafka, topic, redis_url)
    var, shell = tmp_path / "var", Shell(capsys, monkeypatch)
    with contextlib.closing(connect(redis_url)) as client:
        reader = EmbeddingReader(client, namespace="shop")
        with RunningUpdater(config) as updater:
            until("it is published", lambda: updater.status() and model_served(client) == 2, 120)
            updater.terminate()
        with RunningUpdater(config) as updater:
            until("it goes on", lambda: "serves generation 2" in updater.output(), 120)
            until("the checkpoint", lambda: files_holding(var / "trainer", ANN))
            assert {k.split(":")[2] for k in holding(client, ANN)} == {"1", "2"}
            assert sum(ANN in one for one in letters_of(shell, config)) == 2

            newest = str(max(checkpoint.numbers(var / "checkpoints")))  # which is there for two seconds more
            shutil.copytree(var / "checkpoints" / newest, tmp_path / "of before" / newest)
            asked = shell("erase", ANN, "-c", str(config), "--json")
            assert json.loads(asked.out)["partitions"] == 2
            until("gone from Redis", lambda: not holding(client, ANN), GONE_WITHIN_S)
            until("gone from the disk", lambda: not files_holding(var, ANN), GONE_WITHIN_S)
            until("done", lambda: updater.status()["erasures"]["pending"] == 0, GONE_WITHIN_S)
            left = letters_of(shell, config)
            assert len(left) == 1
            assert "bob" in left[0]
            assert [g.number for g in GenerationStore(client, namespace="shop", epoch=9).generations()] == [
                1,
                2,
            ]
            assert len(reader.recommend(recent_shop().user_ids[0], 5).items) == 5
            updater.terminate()

        shutil.rmtree(var / "checkpoints")
        shutil.move(tmp_path / "of before", var / "checkpoints")  # someone takes an older one from a backup
        assert files_holding(var, ANN)
        with RunningUpdater(config) as updater:
            updater.wait_for(
                "it goes on", lambda s: "serves generation 2" in updater.output() and "events" in s, 120
            )
            counts = updater.status()["events"]
            assert (counts["forgotten"], counts["erased"]) == (0, 2), counts
            assert counts["read"] == sum(counts[k] for k in counts if k != "read")
            assert "goes on from checkpoint" in updater.output()
            assert holding(client, ANN) == []
            until("gone from the disk", lambda: not files_holding(var, ANN), GONE_WITHIN_S)

            late = event(ANN, time_ms=SystemClock().now_ms() - 300_000)
            bad = event(ANN, behavior="stares", time_ms=SystemClock().now_ms() - 300_000)
            old = SystemClock().now_ms() - 300_000
            produce(
                real_kafka.address,
                topic,
                [{"value": v, "key": ANN, "timestamp": old} for v in (late, bad)],
            )
            updater.wait_for("the late one is dropped", lambda s: s["events"]["forgotten"] == 1)
            updater.wait_for("the bad one is counted", lambda s: s["events"]["rejected"] == 1)
            assert (holding(client, ANN), files_holding(var, ANN)) == ([], [])
            assert len(letters_of(shell, config)) == 1

            new_ms = SystemClock().now_ms()
            produce(real_kafka.address, topic, [{"value": event(ANN, "i-new", time_ms=new_ms), "key": ANN}])
            until("a new user", lambda: reader.recommend(ANN, 1).event_ms == new_ms, GONE_WITHIN_S)
            [touched] = [client.hget(f"shop:emb:2:user:{ANN}", "touched")]
            assert touched is not None
            assert json.loads(touched) == ["i-new"]


def test_what_a_killed_updater_has_not_removed_is_removed_after_its_restart(
    real_kafka: RealKafka, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis stands still while the request comes, so that the window alone has done it; then kill -9."""
    port = free_port()
    config = configured_for(tmp_path, real_kafka, topic, f"redis://127.0.0.1:{port}/0")
    var = tmp_path / "var"
    monkeypatch.setattr("driftgraph.app.commands.embedded.free_port", lambda: port)
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        with RunningUpdater(config) as updater:
            until("it is published", lambda: updater.status() and model_served(client) == 2, 120)
            until("the checkpoint", lambda: files_holding(var / "trainer", ANN))
            pid = client.info("server")["process_id"]
            os.kill(pid, signal.SIGSTOP)
            try:
                now_ms = SystemClock().now_ms()
                produce(
                    real_kafka.address,
                    topic,
                    [{"value": None, "key": ANN, "partition": p, "timestamp": now_ms} for p in (0, 1)],
                )
                updater.wait_for("it is noted", lambda s: s["erasures"]["users"] == 1)
                updater.wait_for("ingestion goes on", lambda s: sum(s["lag"].values()) == 0)
                until("it is pending", lambda: files_holding(var / "erasures", ANN))
                assert all(path.stat().st_mode & 0o077 == 0 for path in (var / "erasures").iterdir())
                worker = updater.status()["worker"]["pid"]
                os.kill(worker, signal.SIGKILL)
                updater.process.kill()
                updater.process.wait(10)
            finally:
                os.kill(pid, signal.SIGCONT)
        assert holding(client, ANN)
        assert files_holding(var / "trainer", ANN)
        shutil.rmtree(var / "checkpoints")  # so that all of the topic is read again
        with RunningUpdater(config) as updater:
            updater.wait_for("none comes back", lambda s: s["events"]["forgotten"] == ANN_COUNT, 90)
            until("gone from Redis", lambda: updater.status() and not holding(client, ANN), 90)
            until("gone from the disk", lambda: not files_holding(var, ANN), GONE_WITHIN_S)
            until("done", lambda: updater.status()["erasures"]["pending"] == 0, GONE_WITHIN_S)


def test_a_replay_of_the_past_leaves_an_erased_user_out(
    real_kafka: RealKafka, topic: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = configured(tmp_path, kafka=real_kafka.address, topic=topic, redis=redis_url)
    shell = Shell(capsys, monkeypatch)
    with RunningUpdater(config) as updater:
        updater.wait_for("all is read", lambda s: s["state"] == "running", 90)
        assert shell("erase", ANN, "-c", str(config)).code == 0
        updater.wait_for("it is noted", lambda s: s["erasures"]["users"] == 1)
        until("and on the disk", lambda: updater.status()["erasures"]["waiting"] == 0)
        updater.terminate()
    old_ms = SystemClock().now_ms() - 600_000
    file = tmp_path / "past.jsonl"
    lines = [event(user, f"i{n}", time_ms=old_ms + n) for n in range(40) for user in (ANN, "bob", "cy")]
    file.write_bytes(b"\n".join(lines))
    done = shell("replay", str(file), "-c", str(config), "--redis", "none", "--json")
    report = json.loads(done.out)
    assert (report["events_forgotten"], report["events_applied"]) == (40, 80)


def test_erase_without_a_topic_is_one_sentence(
    real_kafka: RealKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, kafka=real_kafka.address, topic="never-made", redis="redis://127.0.0.1:1/0")
    shell = Shell(capsys, monkeypatch)
    failed = shell("erase", ANN, "-c", str(config))
    assert failed.code == 1
    assert "has no topic 'never-made'" in failed.sentence()
    failed = shell("erase", " ann", "-c", str(config))
    assert "white space" in failed.sentence()
