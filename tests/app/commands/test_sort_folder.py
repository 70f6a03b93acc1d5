"""Where the runs of a file that is being sorted are written, and what happens if nothing can be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from driftgraph.app.commands.sort_folder import folder_for_sorting


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only root file system without a folder for temporary files."""
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", list)


def test_it_is_on_the_disk_of_the_data_dir_also_before_that_is_made(tmp_path: Path) -> None:
    assert folder_for_sorting(tmp_path / "var" / "of" / "shop") == tmp_path


def test_where_no_folder_can_be_written_a_file_that_is_in_order_is_still_read(
    read_only: None, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        tempfile.gettempdir()
    assert folder_for_sorting(tmp_path) == tmp_path
