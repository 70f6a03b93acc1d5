"""A file of events, or a folder of part files, as a source: CSV, JSON lines or Parquet, plain, gzip or zstd.

    file ──► blocks ──► format ──► [FileSource] ──► Decoded
                                       ├ first_pass: relations and times, by one first pass
                                       └ event_sort: if the file is to be put in order of time

A bad line is rejected alone. The file as a whole is refused only if it cannot be read or lacks a column that
was named.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats import CSV_NAMES, JSON_NAMES, FieldNames
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.delimited import (
    Delimited,
    Layout,
    NoColumnError,
    layout_of_header,
    layout_of_positions,
    layout_of_taobao,
)
from driftgraph.stream.formats.event_rules import (
    ERASE,
    Behaviors,
    Decoder,
    EventRules,
    Others,
    Reason,
    RowOrigin,
    Rows,
    TooManyBehaviorsError,
    shown,
)
from driftgraph.stream.sources.event_sort import EventSort, Sorting
from driftgraph.stream.sources.file_times import minute_of
from driftgraph.stream.sources.first_lines import check_json_lines, head_of
from driftgraph.stream.sources.first_pass import FirstPass, behaviors_there, first_pass_of
from driftgraph.stream.sources.line_blocks import TextFile, line_blocks
from driftgraph.stream.sources.parquet_rows import ParquetRows
from driftgraph.stream.sources.part_files import Part, part_files
from driftgraph.stream.sources.source import Position
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


class FileSource:
    """Reads one file, or the part files of a folder by name, once.

    Always true: ``format`` (one of ``FORMATS``) and ``relations`` are known from the start; a batch has at
    most 65,536 events. The position counts the lines (rows of Parquet) that were read; in a file that is
    being sorted, the rows that were returned. Memory is bounded, see ``first_pass`` and ``event_sort``.

    Args:
        path: The file.
        options: How to read it.
        start: The position to go on from. Only for events in the order of the file.
        say: Called with each sentence that the user should know about the file.
    """

    def __init__(
        self,
        path: Path | str,
        options: FileOptions | None = None,
        *,
        start: Position | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._path = Path(path)
        self._options = options or FileOptions()
        self._part_files = part_files(self._path)
        self._part = self._part_files[0]  # the file that is being read
        self.format = self._options.format or _format_of(self._path, self._part_files, self._options.wording)
        if self.format not in FORMATS:
            raise SourceError(f"{self.format!r} is no format of a file; there are: {', '.join(FORMATS)}")
        self._names = self._field_names()
        self._separator = self._options.separator or ("\t" if ".tsv" in self._part.path.suffixes else ",")
        self._done = (start or {}).get(self._path.name, 0)
        self._say = say
        self._file: TextFile | ParquetRows | None = None
        self._share: Callable[[], float] = lambda: 0.0
        self._sort: EventSort | None = None
        self.sorting: Sorting | None = None  # None: the file is in order of time, or need not be
        self.warnings: list[str] = []  # what may be wrong with its events, although they are given
        self._times = replace(self._options.times, fixed=self._options.times.bounds())
        self.is_usable = True  # False, with ``empty_is_fine`` only: no event, and no request to erase
        self.first_pass: FirstPass | None = self._first_pass()
        self.relations: tuple[str, ...] = self._options.relations or ()
        if self.first_pass is not None and self._options.relations is None:
            found = self.first_pass.relations
            self.relations = tuple(name for name in found if name not in self._options.impressions)
        self.relations = (*self.relations, *self._options.impressions)
        self._given = 0  # rows of all kinds
        self._held: Decoded | None = None
        self._decoded = self._parts()
        if self.first_pass is None:
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
        self._given += decoded.read_count
        return decoded

    def position(self) -> Position:
        """The number of lines that were read, all kinds of lines; of a sorted file, of rows returned."""
        return {self._path.name: self._done}

    def read_share(self) -> float:
        """The share of the file that has been returned, 0 to 1: for a progress bar."""
        if self.first_pass is not None:
            return self._given / max(1, self.first_pass.rows)
        return (self._part_files.index(self._part) + self._share()) / len(self._part_files)

    def close(self) -> None:
        """Close the file."""
        self._decoded, self._held = iter(()), None
        if self._file is not None:
            self._file.close()
        if self._sort is not None:
            self._sort.close()

    def _peek(self) -> None:
        """Read the first batch now, so that a wrong file or column fails before anything else starts."""
        self._held = next(self._decoded, None)
        if self._held is None and self._done == 0:
            raise SourceError(f"{self._path} has no events: it is empty")

    def _field_names(self) -> FieldNames:
        names = JSON_NAMES if self.format == "json" else CSV_NAMES
        try:
            return replace(names.with_columns(self._options.columns), attributes=self._options.attributes)
        except ValueError as error:
            raise SourceError(f"cannot read {self._path} so: {error}") from error

    def _first_pass(self) -> FirstPass | None:
        """Read the whole file once, if its relations are not known or its times matter."""
        options = self._options
        if options.relations is not None and options.span_ms is None and options.sort_in is None:
            return None
        found = self._read_once()
        ceiling_ms = None if options.span_ms is None else found.times.ceiling_ms(options.span_ms)
        if ceiling_ms is not None:
            self._believe_up_to(ceiling_ms, found.times.rows_after(ceiling_ms))
            # rows that are refused now count neither for relations nor for the order
            found = self._read_once()
        if not found.rows:
            raise SourceError(f"{self._path} has no events: it is empty")
        self.is_usable = bool(found.counts or (found.erased and options.relations is not None))
        if not self.is_usable and not options.empty_is_fine:
            raise SourceError(f"{self._path} has no event that can be used{self._fault(found)}")
        gap = None if options.span_ms is None else found.times.lonely(options.span_ms)
        doubts = [] if gap is None else [gap.said()]
        for said in [*doubts, *found.absent(options.impressions)]:
            self.warnings.append(said)
            self._say(said)
        return found

    def _read_once(self) -> FirstPass:
        options, behaviors = self._options, self._behaviors(self._options.relations or ())
        try:
            return first_pass_of(self._read(behaviors, 0), behaviors)
        except TooManyBehaviorsError as error:
            raise SourceError(
                f"{self._path} has {error}; is behavior the right column? If not, "
                f"{options.wording.columns}; if it is, {options.wording.relations}"
            ) from error
        finally:
            if self._file is not None:
                self._file.close()

    def _behaviors(self, relations: tuple[str, ...]) -> Behaviors:
        # behaviors that the first pass did not find occur in bad rows only, which have another fault to tell
        others = Others.LEARN if self._options.relations is None else self._options.others
        names = dict.fromkeys((*relations, *self._options.impressions))
        return Behaviors(names, ignore=self._options.ignore, others=others)

    def _believe_up_to(self, ceiling_ms: int, rows: int) -> None:
        end = minute_of(ceiling_ms + 1)
        self._say(
            f"{rows:,} of the file's rows are dated far beyond all others, which end before {end}: "
            "a wrong clock, so they are kept as dead letters, time_in_future"
        )
        beyond = f"the time is far beyond the rest of the file, which ends before {end}"
        self._times = replace(
            self._times, fixed=replace(self._times.bounds(), ceiling_ms=ceiling_ms, beyond=beyond)
        )

    def _fault(self, found: FirstPass) -> str:
        first, options, advice = found.first_reject, self._options, ""
        if first is None and not found.ignored:
            return ""
        if first is None or first.reason == Reason.UNKNOWN_BEHAVIOR:
            ignore = (*options.ignore, *options.impressions)
            advice = behaviors_there(lambda one: self._read(one, 0), ignore, options.wording.these_relations)
        elif first.reason == Reason.MISSING_FIELD and options.decoder is None:
            advice = f"; {options.wording.columns}"
        if first is not None:
            return f": {found.rejected:,} rejected, {first.origin} since {first.detail}{advice}"
        return f": {found.of_others(options.relations or ())}{advice}"

    def _parts(self) -> Iterator[Decoded]:
        """The file, from memory or read again, in its own order or in that of time."""
        found, folder = self.first_pass, self._options.sort_in
        kept = None if found is None or self._done else found.in_memory(self.relations)
        parts = self._read(self._behaviors(self.relations), self._done) if kept is None else iter(kept)
        if found is None or folder is None or found.times.in_order:
            return parts
        self.sorting = Sorting(found.times.out_of_order)
        return self._sorted(parts, self.sorting, folder)

    def _sorted(self, parts: Iterator[Decoded], sorting: Sorting, folder: Path) -> Iterator[Decoded]:
        """First the rejected rows, which have no time; then the events and requests in order of time."""
        self._sort = sort = EventSort(folder, attributes=len(self._options.attributes))
        began_s, done = time.monotonic(), 0
        for part in parts:
            sort.add(part)
            if part.rejected or part.ignored:
                sorting.seconds += time.monotonic() - began_s
                done += len(part.rejected) + part.ignored
                yield replace(part, batch=EMPTY, erased=(), position={self._path.name: done})
                began_s = time.monotonic()
        pieces = sort.sorted()
        piece = next(pieces, None)
        sorting.rows, sorting.seconds = sort.count, sorting.seconds + time.monotonic() - began_s
        self._say(sorting.said())
        while piece is not None:
            done += piece.read_count
            yield replace(piece, position={self._path.name: done})
            began_s = time.monotonic()
            piece = next(pieces, None)
            sorting.seconds += time.monotonic() - began_s

    def _read(self, behaviors: Behaviors, start: int) -> Iterator[Decoded]:
        rules = EventRules(behaviors, self._times, self._options.erase)
        behind = 0  # lines of the part files that were read before
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
        """Decoded batches, each with the number of rows up to its end; None for one that was read before."""
        zoned = rules.times.zone is not None
        rows = ParquetRows(self._part, self._names, zoned=zoned, wording=self._options.wording)
        self._file, self._share = rows, rows.read_share
        yield from rows.decoded(rules, start)
        rows.close()

    def _text(self, rules: EventRules, start: int) -> Iterator[tuple[Decoded | None, int]]:
        """Decoded blocks, each with the number of its last line; None for a block that was read before."""
        file = TextFile(self._part.path)
        self._file, self._share = file, file.read_share
        decode: Callable[[bytes, int], Decoded] | None = None
        head_lines = 0
        for first, block in line_blocks(file, self._part.path):
            if decode is None:
                decode, head_lines = self._block_decoder(rules, block)
            skipped = max(0, (start if first > 1 else max(start, head_lines)) - (first - 1))
            lines = block.count(b"\n") + (not block.endswith(b"\n"))
            fresh = decode(_without_lines(block, skipped), first + skipped) if skipped < lines else None
            yield fresh, first - 1 + lines
        file.close()

    def _block_decoder(self, rules: EventRules, block: bytes) -> tuple[Callable[[bytes, int], Decoded], int]:
        """What decodes the blocks of a file, by its first one, and how many lines stand before its events."""
        if self.format == "json":
            check_json_lines(block, self._part.path)
            make = self._options.decoder
            json = CanonicalJson(rules, self._names) if make is None else make(rules)
            return lambda block, first: json.decode(_rows_of(block, first, self._origin)), 0
        head = head_of(block, self._part.path)
        separator = self._options.separator or head.separator or self._separator
        delimited = Delimited(rules, self._layout(head.line, separator), separator)
        has_header = self.format == "csv" and not self._options.no_header
        return lambda block, first: delimited.decode(block, first, self._origin), head.skipped + has_header

    def _layout(self, first_line: bytes, separator: str) -> Layout:
        path = self._part.path
        try:
            if self.format == "taobao":
                return layout_of_taobao(self._options.attributes)
            if self._options.no_header:
                own = self._options
                return layout_of_positions(first_line, own.columns, separator, own.attributes)
            return layout_of_header(first_line, self._names, separator)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{path} is no text in UTF-8 ({error}); convert it, or if it is no CSV "
                f"{self._options.wording.format} {', '.join(FORMATS)}"
            ) from error
        except (ValueError, csv.Error) as error:
            meant = error.meant if isinstance(error, NoColumnError) else {}
            what_to_do = self._way_out(first_line, separator, meant)
            raise SourceError(f"cannot read {path}: {error}; {what_to_do}") from error

    def _way_out(self, first_line: bytes, separator: str, meant: Mapping[str, str]) -> str:
        """What to do about a first line that does not name the columns."""
        say = self._options.wording
        other = next((sign for sign in (b";", b"\t", b"|", b",") if first_line.count(sign) >= 3), None)
        if other is not None and other.decode() != separator:
            return f"{say.separator} {shown(other.decode())}"
        if self._options.no_header:
            return say.positions
        if meant:
            return say.these_columns(meant)
        return f"{say.columns}, or {say.no_header} if the first line is an event"

    def _origin(self, line: int) -> str:
        return f"{self._part.name}:{line}"


def _format_of(path: Path, parts: Sequence[Part], wording: Wording) -> str:
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


def _without_lines(block: bytes, count: int) -> bytes:
    """The block after its first ``count`` lines."""
    start = 0
    for _ in range(count):
        start = block.index(b"\n", start) + 1
    return block[start:]


def _rows_of(block: bytes, first_line: int, origin: Callable[[int], str]) -> Rows:
    """JSON lines as rows, without the blank lines."""
    lines = block.removesuffix(b"\n").split(b"\n")
    kept = [at for at, line in enumerate(lines) if line and line != b"\r"]
    payloads = lines if len(kept) == len(lines) else [lines[at] for at in kept]
    return Rows(payloads, lambda row: RowOrigin(origin(first_line + kept[row])))
