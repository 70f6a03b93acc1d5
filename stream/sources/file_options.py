"""How a file of events is to be read, and which format its name tells.

configuration, options of a command ──► [FileOptions] ──► FileSource
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from driftgraph.stream.errors import SourceError
from driftgraph.stream.formats.event_rules import ERASE, Decoder, EventRules, Others
from driftgraph.stream.sources.part_files import Part
from driftgraph.stream.time.clock import REPLAY_TIMES, TimeRules
from driftgraph.stream.wording import BY_KEY, Wording

FORMATS: Final = ("csv", "taobao", "json", "parquet")
_FORMAT_OF_SUFFIX: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".parq": "parquet",  # Impala
}
_COMPRESSED: Final = (".gz", ".zst", ".zstd")


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How a file is to be read."""

    format: str | None = None  # one of FORMATS; None: the file's name tells
    # user, item, behavior, ts → name, or position from 0
    columns: Mapping[str, str] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()  # the columns of attributes, of the item and then of the user
    no_header: bool = False  # CSV: the first line is an event, and columns are numbers
    relations: tuple[str, ...] | None = None  # None: those found in the file
    others: Others = Others.IGNORE  # what happens to events whose behavior is not in relations
    impressions: tuple[str, ...] = ()  # behaviors that make no edge; they come behind the relations
    ignore: tuple[str, ...] = ("impression",)  # seeing an item is no behavior
    times: TimeRules = REPLAY_TIMES
    erase: str = ERASE  # the behavior that asks to forget the user
    decoder: Callable[[EventRules], Decoder] | None = None  # of JSON lines; None: that of canonical JSON
    separator: str | None = None  # of CSV; None: a comma, in a file called .tsv a tab
    span_ms: int | None = None  # of the window: rows far ahead of all others are rejected; None: no row is
    sort_in: Path | None = None  # a folder for sorting; None: events come in the order of the file
    empty_is_fine: bool = False  # True: a file without a good event is no error
    wording: Wording = BY_KEY


def format_of(path: Path, parts: Sequence[Part], wording: Wording) -> str:
    """The format that the names of all files tell, or the name of their folder."""
    found = {_suffix_format(part.path) for part in parts}
    if found == {None} or len(found) > 1:
        found = {_suffix_format(path)}
    named = found.pop()
    if named is None:
        raise SourceError(
            f"cannot tell the format of {path} from its name; {wording.format} one of {', '.join(FORMATS)}"
        )
    return named


def _suffix_format(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return _FORMAT_OF_SUFFIX.get(next((s for s in reversed(suffixes) if s not in _COMPRESSED), ""))
