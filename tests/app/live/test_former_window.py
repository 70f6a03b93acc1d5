"""A window whose folder was changed: the files before go, and nothing else does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from driftgraph.app.config.settings import Settings, load
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.live import former_window
from driftgraph.app.live.run import window_folder
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation


class Notes(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def configured(root: Path, window: str | None) -> Settings:
    own = {"dir": str(root / window)} if window else {}
    (root / "var").mkdir(exist_ok=True)
    return load(options={"data_dir": str(root / "var"), "window": own, "relations": {"click": {}}})


def started(root: Path, window: str | None) -> list[str]:
    """A start of an updater with its window there, and what it said."""
    settings, notes = configured(root, window), Notes()
    folder = window_folder(settings)
    graph = Heterograph.create(folder, [Relation("click", 1_000, 16)], user_rows=8, item_rows=8)
    former_window.leave(settings, folder, notes)
    assert (folder / "window.json").exists()
    graph.window.close()
    return notes.lines


@pytest.mark.parametrize(("before", "after"), [(None, "a"), ("a", None), ("a", "b"), ("var/w", "a")])
def test_the_files_of_the_folder_before_are_removed_and_it_is_said(
    tmp_path: Path, before: str | None, after: str | None
) -> None:
    assert started(tmp_path, before) == []
    folder = window_folder(configured(tmp_path, before))
    [said] = started(tmp_path, after)
    assert f"its former files in {folder} are removed" in said
    assert not folder.exists()
    assert started(tmp_path, after) == []


def test_the_same_folder_stays(tmp_path: Path) -> None:
    for _ in range(3):
        assert started(tmp_path, "a") == []
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert started(tmp_path, "link") == []


def test_what_is_not_a_window_stays(tmp_path: Path) -> None:
    started(tmp_path, None)
    mine = tmp_path / "var" / "window" / "notes.txt"
    mine.write_text("mine", encoding="utf-8")
    [said] = started(tmp_path, "a")
    assert "are removed" in said
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]
    assert started(tmp_path, "a") == []


def test_a_window_that_another_process_writes_stays_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "var" / "window"
    other = Heterograph.create(folder, [Relation("click", 1_000, 16)], user_rows=8, item_rows=8)
    with caplog.at_level(logging.WARNING):
        assert started(tmp_path, "a") == []
    assert (folder / "window.json").exists()
    assert f"the window in {folder} is written by the process with pid" in caplog.text
    other.window.close()
