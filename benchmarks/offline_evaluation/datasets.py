"""The event files that quality is measured on, and how each is read.

A name means a folder of the real files: ``DRIFTGRAPH_SHARED``, or ``shared`` beside the repository. They are
not part of the repository. Anything else is the path of an event file in the canonical columns.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.offline_evaluation.prequential import Stream, read_stream
from driftgraph.stream.time.durations import Duration

BESIDE = Path(__file__).resolve().parents[3] / "shared"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file, the behaviors that count, how long an event stays in the window, and the peers' windows."""

    name: str
    path: Path
    relations: tuple[str, ...]  # empty: all of the file
    span: str
    every: str  # length of a window: peers that are trained anew are so at its start
    fit: str = "auto"  # event time between two fits of the product; "auto" is its default
    repeats: bool = False  # lists that may name what the user has touched are asked for, too

    @property
    def every_ms(self) -> int:
        """Milliseconds of a window."""
        return Duration.parse(self.every).ms

    def read(self) -> Stream:
        """The events of the behaviors that count."""
        return read_stream(self.path, self.relations)


KUAIRAND = ("click", "long_view", "profile_enter", "like", "comment", "follow", "forward", "hate")
REAL = {  # relations, span, every, repeats
    "taobao_9d": (("buy", "cart", "fav"), "9d", "12h", False),
    "kuairand": (KUAIRAND, "14d", "24h", False),  # an impression is what was shown, not what was done
    "tmall2013": (("click", "buy", "fav", "cart"), "400d", "5d", True),
}


def find_dataset(name: str, every: str | None = None) -> Dataset:
    """A dataset by its name or path; ``every`` sets both the windows and the time between fits.

    Raises:
        SystemExit: There is no such file.
    """
    if name in REAL:
        relations, span, usual, repeats = REAL[name]
        folder = Path(os.environ["DRIFTGRAPH_SHARED"]) if os.environ.get("DRIFTGRAPH_SHARED") else BESIDE
        path = folder / "data" / name / "events.csv.gz"
    else:
        relations, span, usual, repeats, path = (), "400d", "1d", False, Path(name)
    if not path.is_file():
        raise SystemExit(
            f"there is no {path}: name {', '.join(REAL)} with DRIFTGRAPH_SHARED set, or an event file"
        )
    return Dataset(name, path, relations, span, every or usual, every or "auto", repeats)
