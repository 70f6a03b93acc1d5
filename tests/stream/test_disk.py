"""What a volume cannot do is done another way, and what it will not do is said."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from driftgraph.app.console.status_files import write_json
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.erasures import ErasureList, PendingErasures
from driftgraph.stream import disk
from driftgraph.stream.dead_letters.files import FileDeadLetters, FileLetterBox
from driftgraph.stream.dead_letters.outgoing import KeptLetters
from driftgraph.stream.events import Rejected, Strings
from driftgraph.stream.window.heterograph import Heterograph, HeterographView
from driftgraph.stream.window.shared_files import WindowError, WindowInUseError
from driftgraph.stream.window.writer import Relation
from tests import volumes

RELATIONS = [Relation("click", 1_000, 1_024)]


@pytest.mark.parametrize("code", volumes.NO_LINKS, ids=lambda code: errno.errorcode[code])
def test_checkpoints_are_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    first = checkpoint.write(tmp_path, 1, [("a", b"same"), ("b", b"old")], {})
    volumes.without_links(monkeypatch, code)
    before = first
    for number in range(2, 7):
        before = checkpoint.write(
            tmp_path, number, [("b", b"%d" % number)], {}, before=before, unchanged=["a"], keep=2
        )
        assert before.copied_bytes == 4
    found, damaged = checkpoint.latest(tmp_path)
    assert found is not None
    assert (found.number, found.read("a"), found.read("b"), damaged) == (6, b"same", b"6", [])
    assert sorted(os.listdir(tmp_path)) == ["5", "6"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_or_broken_disk_is_no_reason_to_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    first = checkpoint.write(tmp_path, 1, [("a", b"same")], {})
    volumes.without_links(monkeypatch, code)
    with pytest.raises(checkpoint.CheckpointError, match=os.strerror(code)):
        checkpoint.write(tmp_path, 2, [], {}, before=first, unchanged=["a"])
    assert sorted(os.listdir(tmp_path)) == ["1"]


LACKS = [
    volumes.without_links, volumes.without_folder_fsync, volumes.without_open_folders,
    volumes.without_replacing, volumes.without_folder_renames, volumes.without_locks, volumes.without_room,
    volumes.without_modes, volumes.poor,
]  # fmt: skip


@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: lack.__name__)
def test_everything_that_is_kept_is_kept_on_a_poor_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: object
) -> None:
    """Checkpoints, erasures, dead letters and which are kept, the status, the window; three times."""
    lack(monkeypatch)  # type: ignore[operator]
    before = None
    for number in (1, 2, 3):
        unchanged: list[str] = [] if before is None else ["a"]
        files = [("b", b"%d" % number)] + ([("a", b"same")] if before is None else [])
        before = checkpoint.write(
            tmp_path / "kept", number, files, {}, before=before, unchanged=unchanged, keep=2
        )
        write_json(tmp_path / "status" / "updater.json", {"n": number})
        folder = tmp_path / "erasures"
        listed = ErasureList(folder)
        users = listed.load()
        listed.append(users.hashes(Strings.of([f"u{number}"])), np.array([[number, number]]))
        pending = PendingErasures(folder)
        pending.begin()
        pending.release(pending.write([f"u{number}"]))
        letters = FileDeadLetters(tmp_path / "letters")
        letters.put(Rejected("bad", "it is", b"{}", "events[0]@1", key=None, headers=(), timestamp_ms=number))
        letters.close()
        kept = KeptLetters(tmp_path / "letters", kept_max=1)
        kept.add([number])
        graph = Heterograph.create(tmp_path / "window", RELATIONS, user_rows=64, item_rows=64)
        assert HeterographView.attach(tmp_path / "window").moment().cut.next == (0,)
        graph.window.close()
    found, damaged = checkpoint.latest(tmp_path / "kept")
    assert found is not None
    assert (found.number, found.read("a"), found.read("b"), damaged) == (3, b"same", b"3", [])
    assert (tmp_path / "status" / "updater.json").read_bytes() == b'{"n":3}'
    assert len(ErasureList(tmp_path / "erasures").load()) == 3
    assert [users for _, users in PendingErasures(tmp_path / "erasures").waiting(".letters")] == [
        ["u1"],
        ["u2"],
        ["u3"],
    ]
    box = FileLetterBox(tmp_path / "letters")
    ids = [letter.id for letter in box.letters()]
    assert len(ids) == 3
    box.purge(ids[:2])
    assert [letter.id for letter in box.letters()] == ids[2:]
    assert KeptLetters(tmp_path / "letters").knows(3)


def test_a_crash_between_the_two_steps_of_a_rename_costs_no_erasure(tmp_path: Path) -> None:
    """Where a rename replaces nothing, the list is away for a moment; a start then finds its new form."""
    listed = ErasureList(tmp_path)
    users = listed.load()
    for time_ms in (1, 2):  # the same user two times: the next start rewrites the list
        listed.append(users.hashes(Strings.of(["u"])), np.array([[time_ms, time_ms]]))
    (tmp_path / "list").rename(tmp_path / "list.new")
    assert len(ErasureList(tmp_path).load()) == 1


class Died(Exception):  # noqa: N818  # an event of the test, not an error
    """The process ends here."""


def test_a_crash_at_any_step_leaves_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die before each step in turn. The steps are those of the docstring, in its order."""
    path, taken = tmp_path / "file", list[str]()

    def run(die_at: int) -> None:
        taken.clear()

        def step(name: str) -> None:
            taken.append(name)
            if len(taken) == die_at:
                raise Died

        with monkeypatch.context() as patch:
            fsync, rename = os.fsync, Path.rename

            def synced(descriptor: int) -> None:
                found = os.fstat(descriptor)
                assert stat.S_ISDIR(found.st_mode) or found.st_size == len(b"new")
                step("folder" if stat.S_ISDIR(found.st_mode) else "fsync")
                fsync(descriptor)

            def renamed(self: Path, to: Path) -> Path:
                assert self.read_bytes() == b"new"
                step("rename")
                return rename(self, to)

            patch.setattr(os, "fsync", synced)
            patch.setattr(Path, "rename", renamed)
            disk.write_whole(path, b"new")

    for die_at in (1, 2, 3):
        path.write_bytes(b"old")
        with pytest.raises(Died):
            run(die_at)
        assert path.read_bytes() == (b"new" if die_at == 3 else b"old")
        assert os.listdir(tmp_path) == ["file"]
    run(4)
    assert taken == ["fsync", "rename", "folder"]
    taken.clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", volumes.refusing(errno.EIO))
        disk.write_whole(path, b"status", synced=False)
    assert path.read_bytes() == b"status"


def test_what_is_written_whole_is_for_whom_it_is_said_and_a_failure_leaves_the_old_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    disk.write_whole(path, b"old", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def half() -> None:
        with disk.written_whole(path) as file:
            file.write(b"half")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        half()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])


def test_a_rename_of_two_steps_that_fails_at_the_second_keeps_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is gone then: to remove the new one as well would lose an erasure list."""
    path, renames = tmp_path / "file", iter([errno.EEXIST, errno.EIO])
    disk.write_whole(path, b"old")

    def rename(self: Path, _: Path) -> Path:
        raise OSError(next(renames), "no")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no"):
        disk.write_whole(path, b"new")
    assert os.listdir(tmp_path) == ["file.new"]
    assert (tmp_path / "file.new").read_bytes() == b"new"


def test_room_is_made_by_writing_where_it_cannot_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes.without_room(monkeypatch)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10 + bytes(3_000_000))
    with path.open("r+b") as file:
        os.truncate(path, 10)
        disk.make_room(file.fileno(), 10, 2_500_000)
    assert path.read_bytes() == b"x" * 10 + bytes(2_500_000)
    monkeypatch.setattr(os, "pwrite", volumes.refusing(errno.ENOSPC))
    graph = Heterograph.create(None, RELATIONS, user_rows=64, item_rows=64)
    assert graph.window.cut().next == (0,)
    with pytest.raises(WindowError, match=r"set window\.dir to a larger disk"):
        Heterograph.create(tmp_path / "window", RELATIONS, user_rows=64, item_rows=64)


def test_a_volume_that_maps_no_files_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes.without_mapping(monkeypatch)
    with pytest.raises(
        WindowError, match=r"its volume does not allow it .* set window\.dir to a folder of a local disk"
    ):
        Heterograph.create(tmp_path, RELATIONS, user_rows=64, item_rows=64)


def _claims(folder: Path, without_locks: bool) -> str:
    with pytest.MonkeyPatch.context() as patch:
        if without_locks:
            volumes.without_locks(patch)
        try:
            Heterograph.create(folder, RELATIONS, user_rows=64, item_rows=64)
        except WindowInUseError as error:
            return str(error)
    return "claimed"


@pytest.mark.parametrize("without_locks", [False, True])
def test_one_process_of_a_machine_writes_a_window_also_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_locks: bool
) -> None:
    if without_locks:
        volumes.without_locks(monkeypatch)
    with multiprocessing.get_context("spawn").Pool(1) as other:
        graph = Heterograph.create(tmp_path, RELATIONS, user_rows=64, item_rows=64)
        assert f"is written by the process with pid {os.getpid()}" in other.apply(
            _claims, (tmp_path, without_locks)
        )
        graph.window.close()
        assert other.apply(_claims, (tmp_path, without_locks)) == "claimed"


def test_a_lock_of_a_volume_is_told_from_one_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease may be taken from a dead process only if the volume's own lock says that it is dead."""
    path = tmp_path / "lock"
    with path.open("a") as one, path.open("a") as other:
        held = disk.lock(one.fileno(), path)
        assert held.by_volume
        with pytest.raises(BlockingIOError):
            disk.lock(other.fileno(), path)
    volumes.without_locks(monkeypatch)
    with path.open("a") as one, path.open("a") as other:
        held = disk.lock(one.fileno(), path)
        assert not held.by_volume
        with pytest.raises(BlockingIOError):
            disk.lock(other.fileno(), path)
        held.close()
        disk.lock(other.fileno(), path, wait=True).close()
