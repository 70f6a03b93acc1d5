"""Checkpoints: whole or not there, whatever dies and whatever the disk does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint, CheckpointError, latest, write

FILES = {"state.bin": b"0123456789" * 20, "names.json": b'["a","b"]'}


def contents(found: Checkpoint) -> dict[str, bytes]:
    return {name: found.read(name) for name in found.files}


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, 7, FILES.items(), {"watermark_ms": 12, "name": "x"})
    found, damaged = latest(tmp_path)
    assert found is not None
    assert (found.number, contents(found), dict(found.facts)) == (
        7,
        FILES,
        {"watermark_ms": 12, "name": "x"},
    )
    assert damaged == []


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(1, 12):
        write(tmp_path, number, FILES.items(), {}, keep=3)
    assert sorted(os.listdir(tmp_path)) == ["10", "11", "9"]


def test_what_did_not_change_is_linked_and_stays_when_the_one_before_goes(tmp_path: Path) -> None:
    first = write(tmp_path, 1, FILES.items(), {})
    second = write(tmp_path, 2, [("state.bin", b"new")], {}, before=first, unchanged=["names.json"])
    assert os.path.samefile(second.folder / "names.json", first.folder / "names.json")
    write(tmp_path, 3, [], {}, before=second, unchanged=second.files, keep=1)
    found, damaged = latest(tmp_path)
    assert (found and contents(found), damaged) == (
        {"state.bin": b"new", "names.json": FILES["names.json"]},
        [],
    )


def test_one_that_does_not_suit_is_passed_over(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path, number, FILES.items(), {"odd": number % 2})
    found, damaged = latest(tmp_path, lambda one: one.facts["odd"] == 0)
    assert (found and found.number, damaged) == (2, [])


def test_none_is_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path / "nothing") == (None, [])


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path: Path, name: str) -> None:
    """Cut each file at every byte, and flip a bit of each byte."""
    write(tmp_path, 1, FILES.items(), {})
    write(tmp_path, 2, FILES.items(), {})
    path = tmp_path / "2" / name
    whole = path.read_bytes()
    variants = [whole[:cut] for cut in range(len(whole))]
    variants += [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    for variant in variants:
        path.write_bytes(variant)
        found, damaged = latest(tmp_path)
        assert found is not None
        assert contents(found) == FILES, "whatever is used is whole"
        if name != "manifest.json":  # a flip inside the manifest's spaces leaves the same manifest
            assert found.number == 1
            assert name in damaged[0].reason


class Died(Exception):  # noqa: N818  # an event of the test, not an error
    """The process ends here."""


def test_a_crash_at_any_step_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die at each fsync and rename in turn; the next start must find a whole one and no leftovers."""
    steps = 0

    def run(die_at: int) -> None:
        nonlocal steps
        steps = 0

        def step(*_: object) -> bool:
            nonlocal steps
            steps += 1
            if steps == die_at:
                raise Died
            return True

        with monkeypatch.context() as patch:
            fsync, link, rename = os.fsync, os.link, Path.rename
            patch.setattr(os, "fsync", lambda d: (step(), fsync(d)))
            patch.setattr(os, "link", lambda a, b: (step(), link(a, b)))
            patch.setattr(Path, "rename", lambda self, to: (step(), rename(self, to))[1])
            new = {"state.bin": b"new"}
            write(tmp_path, 2, new.items(), {}, before=first, unchanged=["names.json"])

    first = write(tmp_path, 1, FILES.items(), {})
    die_at = 1
    while True:
        try:
            run(die_at)
            break
        except Died:
            found, damaged = latest(tmp_path)
            assert found is not None
            assert found.number in (1, 2)
            assert contents(found) == (FILES if found.number == 1 else FILES | {"state.bin": b"new"})
            assert damaged == []
            assert not list(tmp_path.glob("*.partial"))
            die_at += 1
    assert die_at == 7, (
        "file, link, manifest, folder, rename, root: the steps of the docstring, then none is left"
    )


def test_a_full_disk_is_said_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1, FILES.items(), {})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; free some space"):
        write(tmp_path, 2, FILES.items(), {})
    monkeypatch.undo()
    found, _ = latest(tmp_path)
    assert found is not None
    assert found.number == 1
    assert sorted(os.listdir(tmp_path)) == ["1"]
