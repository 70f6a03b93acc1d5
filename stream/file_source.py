"""A file of events, or a folder of part files, as a source: CSV, JSON lines or Parquet, plain, gzip or zstd.

    file ──► blocks ──► format ──► [FileSource] ──► Decoded
                                       └ relations: given, or found by one first pass

Events come in the order of the file. A bad line costs itself; the file as a whole is refused only if it
cannot be read or has not the columns that were named.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from driftgraph.stream._file_readers import TextFile, line_blocks
from driftgraph.stream._parquet_rows import ParquetRows
from driftgraph.stream._part_files import Part, part_files
from driftgraph.stream.clock import REPLAY_TIMES, TimeRules
from driftgraph.stream.decode import (
    ERASE,
    Behaviors,
    Decoder,
    EventRules,
    Others,
    RowOrigin,
    Rows,
    TooManyBehaviorsError,
)
from driftgraph.stream.events import Decoded, Rejected
from driftgraph.stream.formats import CSV_NAMES, JSON_NAMES, FieldNames
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.delimited import (
    TAOBAO,
    Delimited,
    Layout,
    layout_of_header,
    layout_of_positions,
)
from driftgraph.stream.source import Position, SourceError

FORMATS: Final = ("csv", "taobao", "json", "parquet")
_FORMAT_OF_SUFFIX: Final = {
    ".csv": "csv",
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

    format: str | None = None  # one of FORMATS; None: after the name
    columns: Mapping[str, str] = field(
        default_factory=dict
    )  # user, item, behavior, ts → name, or position from 0
    no_header: bool = False  # CSV: the first line is an event, and columns are positions
    relations: tuple[str, ...] | None = None  # None: those found in the file
    others: Others = Others.IGNORE  # what becomes of behaviors that are not in relations
    ignore: tuple[str, ...] = ("impression",)  # exposure is no behavior
    times: TimeRules = REPLAY_TIMES
    erase: str = ERASE  # the behavior that asks to forget the user
    decoder: Callable[[EventRules], Decoder] | None = None  # of JSON lines; None: that of canonical JSON


class FileSource:
    """Reads one file, or the part files of a folder by name, once.

    Always true: ``format`` (one of ``FORMATS``) and ``relations`` are known from the start; the position
    counts lines (rows of Parquet) that are behind, and a batch has at most 65,536 of them.
    """

    def __init__(
        self, path: Path | str, options: FileOptions | None = None, *, start: Position | None = None
    ) -> None:
        self._path = Path(path)
        self._options = options or FileOptions()
        self._part_files = part_files(self._path)
        self._part = self._part_files[0]  # the one that is being read
        self.format = self._options.format or _format_of(self._path, self._part_files)
        if self.format not in FORMATS:
            raise SourceError(f"{self.format!r} is no format of a file; there are: {', '.join(FORMATS)}")
        self._names = self._field_names()
        self._done = (start or {}).get(self._path.name, 0)
        self._file: TextFile | ParquetRows | None = None
        self._share: Callable[[], float] = lambda: 0.0
        self.relations: tuple[str, ...] = (
            self._find_relations() if self._options.relations is None else self._options.relations
        )
        # found ones: what is not among them occurs in bad rows only, which are to be told by their own fault
        others = Others.LEARN if self._options.relations is None else self._options.others
        self._decoded = self._read(
            Behaviors(self.relations, ignore=self._options.ignore, others=others), self._done
        )
        self._held: Decoded | None = None
        self._peek()

    def next_batch(self, timeout_s: float = 0.0) -> Decoded | None:  # noqa: ARG002  a file never waits
        """The next at most 65,536 lines, None at the end."""
        decoded, self._held = self._held, None
        if decoded is None:
            decoded = next(self._decoded, None)
        if decoded is None:
            self.close()
            return None
        self._done = decoded.position[self._path.name]
        return decoded

    def position(self) -> Position:
        """Lines behind, the header and blank ones included."""
        return {self._path.name: self._done}

    def read_share(self) -> float:
        """How much of the file has been read, 0 to 1: for a progress bar."""
        return (self._part_files.index(self._part) + self._share()) / len(self._part_files)

    def close(self) -> None:
        """Close the file."""
        self._decoded, self._held = iter(()), None
        if self._file is not None:
            self._file.close()

    def _peek(self) -> None:
        """Read the first batch now, so that a wrong file or column is told before anything is built."""
        self._held = next(self._decoded, None)
        if self._held is None and self._done == 0:
            raise SourceError(f"{self._path} has no events: it is empty")

    def _field_names(self) -> FieldNames:
        names = JSON_NAMES if self.format == "json" else CSV_NAMES
        try:
            return names.with_columns(self._options.columns)
        except ValueError as error:
            raise SourceError(f"cannot read {self._path} so: {error}") from error

    def _find_relations(self) -> tuple[str, ...]:
        """The behaviors of the good events, the most frequent first: one pass over the file."""
        behaviors = Behaviors(ignore=self._options.ignore, others=Others.LEARN)
        counts: Counter[int] = Counter()
        first_reject: Rejected | None = None
        rejected_count = 0
        try:
            for decoded in self._read(behaviors, 0):
                found = np.bincount(decoded.batch.relation)
                counts.update({code: count for code, count in enumerate(found.tolist()) if count})
                rejected_count += len(decoded.rejected)
                first_reject = first_reject or next(iter(decoded.rejected), None)
        except TooManyBehaviorsError as error:
            raise SourceError(
                f"{self._path} has {error}; is behavior the right column? "
                "Name it with columns behavior=…, or name the relations that count"
            ) from error
        finally:
            if self._file is not None:
                self._file.close()
        if not counts:
            bad = (
                f": {rejected_count} rejected, {first_reject.origin} since {first_reject.detail}"
                if first_reject
                else ""
            )
            raise SourceError(f"{self._path} has no event that can be used{bad}")
        names = behaviors.names
        return tuple(sorted((names[code] for code in counts), key=lambda n: (-counts[names.index(n)], n)))

    def _read(self, behaviors: Behaviors, start: int) -> Iterator[Decoded]:
        rules = EventRules(behaviors, self._options.times, self._options.erase)
        behind = 0  # lines of the part files before
        for part in self._part_files:
            self._part, done = part, 0
            after = max(0, start - behind)
            for decoded, done in (
                self._parquet(rules, after) if self.format == "parquet" else self._text(rules, after)
            ):
                if decoded is not None:
                    yield replace(decoded, position={self._path.name: behind + done})
            behind += done

    def _parquet(self, rules: EventRules, start: int) -> Iterator[tuple[Decoded | None, int]]:
        """Decoded batches, each with the number of rows before its end; None for one that is behind."""
        rows = ParquetRows(self._part, self._names, zoned=rules.times.zone is not None)
        self._file, self._share = rows, rows.read_share
        yield from rows.decoded(rules, start)
        rows.close()

    def _text(self, rules: EventRules, start: int) -> Iterator[tuple[Decoded | None, int]]:
        """Decoded blocks, each with the number of its last line; None for one that is behind."""
        file = TextFile(self._part.path)
        self._file, self._share = file, file.read_share
        decode: Callable[[bytes, int], Decoded] | None = None
        for first, block in line_blocks(file, self._part.path):
            if decode is None:
                decode = self._block_decoder(rules, block.partition(b"\n")[0])
            skipped = max(0, (start if first > 1 else max(start, self._header_lines())) - (first - 1))
            lines = block.count(b"\n") + (not block.endswith(b"\n"))
            fresh = decode(_without_lines(block, skipped), first + skipped) if skipped < lines else None
            yield fresh, first - 1 + lines
        file.close()

    def _header_lines(self) -> int:
        return int(self.format == "csv" and not self._options.no_header)

    def _block_decoder(self, rules: EventRules, first_line: bytes) -> Callable[[bytes, int], Decoded]:
        if self.format == "json":
            make = self._options.decoder
            json = CanonicalJson(rules, self._names) if make is None else make(rules)
            return lambda block, first: json.decode(_rows_of(block, first, self._origin))
        delimited = Delimited(rules, self._layout(first_line))
        return lambda block, first: delimited.decode(block, first, self._origin)

    def _layout(self, first_line: bytes) -> Layout:
        try:
            if self.format == "taobao":
                return TAOBAO
            if self._options.no_header:
                return layout_of_positions(first_line, self._options.columns)
            return layout_of_header(first_line, self._names)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self._path} is no text in UTF-8 ({error}); convert it or name its format"
            ) from error
        except (ValueError, csv.Error) as error:
            raise SourceError(
                f"cannot read {self._path}: {error}; name the columns with columns "
                "user=…, item=…, behavior=…, ts=…, and say so if there is no header"
            ) from error

    def _origin(self, line: int) -> str:
        return f"{self._part.name}:{line}"


def _format_of(path: Path, parts: Sequence[Part]) -> str:
    """The format that the names of all files have, or that of their folder."""
    found = {_suffix_format(part.path) for part in parts}
    if found == {None} or len(found) > 1:
        found = {_suffix_format(path)}
    named = found.pop()
    if named is None:
        raise SourceError(
            f"cannot tell the format of {path} from its name; name it as one of: {', '.join(FORMATS)}"
        )
    return named


def _suffix_format(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return _FORMAT_OF_SUFFIX.get(next((s for s in reversed(suffixes) if s not in _COMPRESSED), ""))


def _without_lines(block: bytes, count: int) -> bytes:
    """The block after its first ``count`` lines."""
    start = 0
    for _ in range(count):
        start = block.index(b"\n", start) + 1
    return block[start:]


def _rows_of(block: bytes, first_line: int, origin: Callable[[int], str]) -> Rows:
    """JSON lines as rows; blank lines are none."""
    lines = block.removesuffix(b"\n").split(b"\n")
    kept = [at for at, line in enumerate(lines) if line and line != b"\r"]
    payloads = lines if len(kept) == len(lines) else [lines[at] for at in kept]
    return Rows(payloads, lambda row: RowOrigin(origin(first_line + kept[row])))
