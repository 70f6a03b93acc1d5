"""A file of events, or a folder of part files, as a source: CSV, JSON lines or Parquet, plain, gzip or zstd.

    file ──► blocks ──► format ──► [FileSource] ──► Decoded
                                       ├ first_pass: relations and times, by one first pass
                                       └ event_sort: if the file is to be put in order of time

A bad line is rejected alone. The file as a whole is refused only if it cannot be read or lacks a column that
was named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats import CSV_NAMES, JSON_NAMES, FieldNames
from driftgraph.stream.formats.event_rules import (
    Behaviors,
    EventRules,
    Others,
    Reason,
    TooManyBehaviorsError,
)
from driftgraph.stream.sources.block_decoder import BlockDecoder
from driftgraph.stream.sources.event_sort import EventSort, Sorting
from driftgraph.stream.sources.file_options import FORMATS, FileOptions, format_of
from driftgraph.stream.sources.file_times import minute_of
from driftgraph.stream.sources.first_pass import FirstPass, behaviors_there, first_pass_of
from driftgraph.stream.sources.line_blocks import TextFile, line_blocks
from driftgraph.stream.sources.parquet_rows import ParquetRows
from driftgraph.stream.sources.part_files import part_files
from driftgraph.stream.sources.source import Position


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
        self.format = self._options.format or format_of(self._path, self._part_files, self._options.wording)
        if self.format not in FORMATS:
            raise SourceError(f"{self.format!r} is no format of a file; there are: {', '.join(FORMATS)}")
        self._options = replace(self._options, format=self.format)
        self._names = self._field_names()
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
        decoder: BlockDecoder | None = None
        for first, block in line_blocks(file, self._part.path):
            if decoder is None:
                decoder = BlockDecoder(self._part, rules, self._options, self._names, block)
            skipped = max(0, (start if first > 1 else max(start, decoder.head_lines)) - (first - 1))
            lines = block.count(b"\n") + (not block.endswith(b"\n"))
            is_read = skipped >= lines  # by a run before
            fresh = None if is_read else decoder.decode(_without_lines(block, skipped), first + skipped)
            yield fresh, first - 1 + lines
        file.close()


def _without_lines(block: bytes, count: int) -> bytes:
    """The block after its first ``count`` lines."""
    start = 0
    for _ in range(count):
        start = block.index(b"\n", start) + 1
    return block[start:]
