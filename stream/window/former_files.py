"""Removes the files of a window that no process writes any more; no start reads them.

app/live/former_window.py ──► [remove] ──► the files of the window, its ids and its attributes
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from driftgraph.stream.window import writer as windows
from driftgraph.stream.window.heterograph import KINDS
from driftgraph.stream.window.shared_files import DESCRIPTION, LOCK, WindowError, claim


def remove(directory: Path) -> bool:
    """Remove the files of a window that nobody writes, and its folder if nothing else is in it.

    A window is filled from a checkpoint or the topic at every start, so nothing is lost. Returns whether
    there was one.

    Raises:
        WindowError: A process writes it, or a file cannot be removed.
    """
    if not (directory / DESCRIPTION).exists():
        return False
    ids = [f"{kind}_id_{column}" for kind in KINDS for column in ("offsets", "lengths", "hashes", "bytes")]
    let_go = claim(directory)
    try:
        attributes = [path.name for kind in KINDS for path in directory.glob(f"{kind}_attribute_*")]
        for name in (*windows.FILES, *ids, *attributes, f"{DESCRIPTION}.new", DESCRIPTION, LOCK):
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise WindowError(f"cannot remove the window in {directory}: {error.strerror or error}") from error
    finally:
        let_go()
    with suppress(OSError):  # what is not ours stays
        directory.rmdir()
    return True
