"""One process writes, two read: every answer is the log's at its cut, or the cut is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from driftgraph.stream.window import writer as windows
from driftgraph.stream.window.shared_files import WindowError, WindowInUseError
from tests.window_writer import RELATIONS

ROOT = Path(__file__).resolve().parents[3]


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tests.{module}", *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_two_readers_get_exact_answers_while_the_writer_goes_on(tmp_path: Path) -> None:
    with start("window_writer", str(tmp_path), "3") as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        readers = [start("window_reader", str(tmp_path), "3", str(seed)) for seed in (1, 2)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
        for reader in readers:
            out, err = reader.communicate(timeout=120)
            assert reader.returncode == 0, err
            answers, _ = map(int, out.split())
            assert answers > 1_000
        writer.communicate(timeout=60)
        assert writer.returncode == 0


def test_a_second_writer_is_refused_with_the_pid_of_the_first_and_harms_nothing(tmp_path: Path) -> None:
    with start("window_writer", str(tmp_path), "3") as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(WindowInUseError, match=f"pid {writer.pid}; stop it"):
            windows.create(tmp_path, RELATIONS, user_rows=4, item_rows=4)
        assert windows.attach(tmp_path).row_capacity == (30, 20)
        writer.kill()
    window = windows.create(tmp_path, RELATIONS, user_rows=4, item_rows=4)  # its lock went with it
    assert window.cut().next == (0, 0)


def test_a_reader_of_a_window_that_was_replaced_keeps_its_own(tmp_path: Path) -> None:
    first = windows.create(tmp_path, RELATIONS, user_rows=4, item_rows=4)
    windows.describe(tmp_path, first)
    row = np.zeros(1, np.uint32)
    first.append(row, row, np.zeros(1, np.uint8), np.ones(1, np.int64))
    reader = windows.attach(tmp_path)
    first.close()
    second = windows.create(tmp_path, RELATIONS, user_rows=4, item_rows=4)
    windows.describe(tmp_path, second)
    assert reader.cut().next == (1, 0)
    assert windows.attach(tmp_path).cut().next == (0, 0)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("window.json", b"{", "is not a window description"),
        ("window.json", b'{"format":9,"relations":[],"rows":[1,1]}', "format 9, this version reads 3"),
        ("events", b"short", "has 5 bytes, expected"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, file: str, content: bytes, said: str) -> None:
    window = windows.create(tmp_path, RELATIONS, user_rows=4, item_rows=4)
    windows.describe(tmp_path, window)
    (tmp_path / file).unlink()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WindowError, match=said):
        windows.attach(tmp_path)


def test_no_window_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WindowError, match="is the updater running with this data_dir"):
        windows.attach(tmp_path / "nothing")


def test_a_full_disk_stops_the_writer_with_a_sentence_and_kills_nobody(tmp_path: Path) -> None:
    """The pages of a sparse file that the disk has no room for would kill whoever touches them."""
    probe = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("no mount namespace may be made here, so no small disk")
    command = ["unshare", "-rm", sys.executable, "-m", "tests.window_on_small_disk", "mount", str(tmp_path)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    applied, reader_code, seen, said = done.stdout.splitlines()
    assert int(applied) > 50_000
    assert reader_code == "0"
    assert seen == f"{applied} [1, 1, 0, 0]"
    assert "No space left on device" in said
    assert "set window.dir to a larger disk" in said


def test_a_disk_that_takes_no_more_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = windows.create(tmp_path, RELATIONS, user_rows=4, item_rows=4)
    row = np.zeros(1, np.uint32)

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WindowError, match=r"no room for \d+ more bytes of .*: free some"):
        window.append(row, row, np.zeros(1, np.uint8), np.ones(1, np.int64))
    assert window.cut().next == (0, 0)
