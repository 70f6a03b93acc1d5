"""Removes the window from the folder that it had before ``window.dir`` was changed.

run, once its window is made ──► [leave] ──► the former folder loses its files, and the progress says so

Every start fills the window from a checkpoint or the topic, so nobody reads the former files. They only take
room on a disk, or in the memory behind /dev/shm.
"""

from __future__ import annotations

import logging
from pathlib import Path

from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import Progress
from driftgraph.stream import disk
from driftgraph.stream.window import former_files
from driftgraph.stream.window.shared_files import WindowError

RECORD = "window_dir"  # in data_dir: the window.dir of the newest start, if it was set

log = logging.getLogger(__name__)


def leave(settings: Settings, folder: Path, progress: Progress) -> None:
    """Remove the files of the window that this updater had in another folder, and remember ``folder``."""
    record, now = settings.data_dir / RECORD, folder.absolute()
    former = {(settings.data_dir / "window").absolute()}
    try:
        former.add(Path(record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read (%s): a former folder of the window may be left", record, error)
    for one in sorted(former):
        if one.resolve() != now.resolve():
            _remove(one, now, progress)
    if settings.window.dir is None:
        record.unlink(missing_ok=True)
    else:
        disk.write_synced(record, str(now).encode())


def _remove(one: Path, now: Path, progress: Progress) -> None:
    try:
        if former_files.remove(one):
            progress.note(f"the window is in {now} now: its former files in {one} are removed")
    except (WindowError, OSError) as error:
        log.warning("the window is in %s now, and its former files stay: %s", now, error)
