"""A process that fills a disk of 20 MB with a window, while another process reads it.

Starts itself again inside a mount namespace of its own, where it may make such a disk.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.heterograph import Heterograph, HeterographView
from driftgraph.stream.window.shared_files import WindowError
from driftgraph.stream.window.writer import USER, Relation

BATCH = 5_000


def fill(folder: Path) -> None:
    """Append until the disk is full; print what was said, and how many events a reader then finds."""
    graph = Heterograph.create(
        folder, [Relation("click", 1 << 40, 1 << 22)], user_rows=1 << 20, item_rows=1 << 20
    )
    said, applied = "", 0
    reader = subprocess.Popen(
        [sys.executable, "-m", "tests.window_on_small_disk", "read", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for start in range(0, 100 * BATCH, BATCH):
        number = range(start, start + BATCH)
        users, items = Strings.of([f"u{n}" for n in number]), Strings.of([f"i{n % 997}" for n in number])
        times = np.arange(start, start + BATCH, dtype=np.int64) + 1
        try:
            graph.apply(EventBatch(users, items, np.zeros(BATCH, np.uint8), times))
        except WindowError as error:
            said = str(error)
            break
        applied += BATCH
    out, _ = reader.communicate("now\n", timeout=60)
    print(applied, reader.returncode, out.strip(), said, sep="\n", flush=True)


def read(folder: Path) -> None:
    """Ask about rows that are there and rows that never were."""
    sys.stdin.readline()
    view = HeterographView.attach(folder)
    cut = view.window.cut()
    rows = np.array([0, 1, 1 << 19, (1 << 20) - 1], np.uint32)
    near = view.window.recent(USER, rows, np.full(4, 1 << 39), 3, cut)
    print(len(view.window.events(cut)), near.count_BR.ravel().tolist())


if __name__ == "__main__":
    if sys.argv[1] == "mount":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "small", sys.argv[2]], check=True)
        fill(Path(sys.argv[2]))
    else:
        read(Path(sys.argv[2]))
