"""Sorts any number of events by time in bounded memory: writes sorted runs to disk and merges them.

    Decoded in any order ──► [EventSort.add] ──► runs ──► [EventSort.sorted] ──► Decoded in order of time

Events of one time keep the order in which they came, so the result does not depend on where the runs end.
Runs are Arrow IPC streams in files without a name, which the kernel removes when the process ends.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa

from driftgraph.stream.arrays import I64
from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import EMPTY, Decoded, Erasure, EventBatch, Strings

RUN_BYTES: Final = 64 << 20  # size of a run; sorting one takes three times that in memory
BATCH_BYTES: Final = 4 << 10  # about the memory of a record batch beside its rows
PIECE_BYTES: Final = 512 << 10  # the part of a run that is read at once while runs are merged
RUNS_MAX: Final = 64  # merged at once; more are merged in steps
BATCH_ROWS_MAX: Final = 65_536  # as FileSource gives them
_ERASE: Final = 255  # in the column of relations: a request to erase; the codes of relations end below
_SCHEMA: Final = pa.schema(
    [
        ("time_ms", pa.int64()),
        ("relation", pa.uint8()),
        ("user", pa.large_binary()),
        ("item", pa.large_binary()),
        ("event_id", pa.large_binary()),  # empty: the event has no id
    ]
)


@dataclass(slots=True)
class Sorting:
    """What sorting a file took."""

    out_of_order: int  # events that are older than one before them
    rows: int = 0
    seconds: float = 0.0

    def said(self) -> str:
        """For people."""
        return f"the file is not in order of time: sorted {self.rows:,} rows in {self.seconds:.1f} s"


class EventSort:
    """Takes events in any order, then returns them in order of time. One object sorts once.

    A request to erase is sorted by its own time. A request without a time is sorted behind the newest event
    that came before it, so that it applies to all events before it.

    Raises:
        SourceError: If the disk is full or cannot be written; from ``add`` and ``sorted``.
    """

    def __init__(self, folder: Path, *, attributes: int = 0) -> None:
        """``attributes``: how many columns of attributes the events have."""
        self._folder = folder
        columns = [(f"attribute_{n}", pa.large_binary()) for n in range(attributes)]
        self._schema = pa.schema([*_SCHEMA, *(pa.field(*column) for column in columns)])
        self._waiting: list[Any] = []  # record batches that are in no run yet
        self._waiting_bytes = 0
        self._levels: list[list[_Run]] = [[]]  # a run is made of RUNS_MAX runs of the level below
        self._high_ms = 0
        self.count = 0  # events and requests taken

    def add(self, decoded: Decoded) -> None:
        """Take the events and requests to erase of one read, not its rejected rows, which have no time."""
        start = 0
        for erasure in decoded.erased:
            self._add_events(decoded.batch.slice(start, erasure.place))
            time_ms = self._high_ms if erasure.time_ms is None else erasure.time_ms
            self._add(_request(erasure.user, time_ms, self._schema))
            start = erasure.place
        self._add_events(decoded.batch.slice(start, len(decoded.batch)))

    def sorted(self) -> Iterator[Decoded]:
        """All events and requests in order of time, in batches of at most ``BATCH_ROWS_MAX``."""
        if len(self._levels) > 1 or self._levels[0]:
            self._end_run()
            # the older a run, the higher its level: so ties keep their order
            pieces = _merged([run for level in reversed(self._levels) for run in level])
        else:
            pieces = iter([_in_order(self._taken())])
        for piece in pieces:
            for start in range(0, piece.num_rows, BATCH_ROWS_MAX):
                yield _decoded(piece.slice(start, BATCH_ROWS_MAX))

    def close(self) -> None:
        """Free the disk space. May be called twice."""
        self._waiting = []
        for level in self._levels:
            for run in level:
                run.close()
        self._levels = [[]]

    def _add_events(self, batch: EventBatch) -> None:
        if len(batch):
            self._high_ms = max(self._high_ms, int(batch.time_ms.max()))
            self._add(_table(batch, self._schema))

    def _add(self, rows: Any) -> None:
        self.count += rows.num_rows
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes + BATCH_BYTES
        if self._waiting_bytes >= RUN_BYTES:
            self._end_run()

    def _taken(self) -> Any:
        rows = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_bytes = [], 0
        return rows

    def _end_run(self) -> None:
        """Write the waiting events as a run, and merge the runs of a level once it has many."""
        if not self._waiting:
            return
        self._levels[0].append(self._write([_in_order(self._taken())]))
        for number, level in enumerate(self._levels):
            if len(level) < RUNS_MAX:
                return
            merged = self._write(_merged(level))
            for run in level:
                run.close()
            level.clear()
            if number + 1 == len(self._levels):
                self._levels.append([])
            self._levels[number + 1].append(merged)

    def _write(self, pieces: Iterable[Any]) -> _Run:
        """Write one run from batches that are in order."""
        file: IO[bytes] | None = None
        try:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  the run closes it
            with pa.ipc.new_stream(pa.PythonFile(file, "w"), self._schema) as stream:
                for piece in pieces:
                    rows = max(1, PIECE_BYTES * piece.num_rows // max(1, piece.nbytes))
                    for start in range(0, piece.num_rows, rows):
                        stream.write_table(piece.slice(start, rows).combine_chunks())
            file.flush()
        except OSError as error:
            if file is not None:
                with suppress(OSError):  # closing tries once more to write the buffered bytes
                    file.close()
            raise SourceError(self._refused(error)) from error
        return _Run(file)

    def _refused(self, error: OSError) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why, do = "the disk is full", "free some space there, about as much as the file takes unpacked,"
        else:
            why, do = str(error.strerror or error), "make that folder writable"
        return (
            f"the file is not in order of time and cannot be sorted in {self._folder}: {why}; "
            f"{do} or set data_dir to another disk"
        )


@dataclass(frozen=True, slots=True)
class _Run:
    file: IO[bytes]

    def pieces(self) -> Iterator[Any]:
        self.file.seek(0)
        with pa.ipc.open_stream(pa.PythonFile(self.file, "r")) as stream:
            for piece in stream:
                yield pa.Table.from_batches([piece])

    def close(self) -> None:
        self.file.close()


def _table(batch: EventBatch, schema: Any) -> Any:
    """Events as rows; the bytes of the ids are shared."""
    none = Strings(np.zeros(len(batch) + 1, np.int64), EMPTY.user.data)
    columns = [
        pa.array(batch.time_ms),
        pa.array(batch.relation),
        _binary(batch.user),
        _binary(batch.item),
        _binary(batch.event_id or none),
        *map(_binary, batch.attributes),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _request(user: str, time_ms: int, schema: Any) -> Any:
    row: dict[str, Any] = dict.fromkeys(schema.names, b"")
    row |= {"time_ms": time_ms, "relation": _ERASE, "user": user.encode()}
    return pa.RecordBatch.from_pylist([row], schema)


def _binary(column: Strings) -> Any:
    buffers = [None, pa.py_buffer(column.offsets), pa.py_buffer(column.data)]
    return pa.Array.from_buffers(pa.large_binary(), len(column), buffers)


def _strings(column: Any) -> Strings:
    array = column.combine_chunks()
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return Strings(ends.copy(), np.frombuffer(data, np.uint8) if data else EMPTY.user.data)


def _times(rows: Any) -> I64:
    times: I64 = rows.column("time_ms").to_numpy()
    return times


def _in_order(rows: Any) -> Any:
    """The rows sorted by time; rows of one time keep their order."""
    return rows.combine_chunks().take(pa.array(np.argsort(_times(rows), kind="stable")))


def _merged(runs: list[_Run]) -> Iterator[Any]:
    """The rows of all runs sorted by time; rows of one time in the order of the runs.

    Each step takes the rows up to the last time of the piece that ends first, since no row that is still to
    be read is older. Memory: one piece of each run.
    """
    sources = [run.pieces() for run in runs]
    pieces = [next(source, None) for source in sources]
    while any(piece is not None for piece in pieces):
        ends = [int(_times(piece)[-1]) for piece in pieces if piece is not None]
        limit_ms = min(ends)
        taken: list[Any] = []
        passed = False  # a run whose piece ends at the limit may have more rows of that time: later runs wait
        for number, piece in enumerate(pieces):
            if piece is None:
                continue
            times = _times(piece)
            count = int(np.searchsorted(times, limit_ms, side="left" if passed else "right"))
            passed = passed or int(times[-1]) == limit_ms
            taken.append(piece.slice(0, count))
            pieces[number] = piece.slice(count) if count < len(times) else next(sources[number], None)
        yield _in_order(pa.concat_tables(taken))


def _decoded(rows: Any) -> Decoded:
    """Rows in order as events, and the requests to erase between them."""
    relation = rows.column("relation").to_numpy()
    times = _times(rows)
    requests = np.flatnonzero(relation == _ERASE)
    places = (requests - np.arange(len(requests))).tolist()  # events before each
    users = rows.column("user").take(pa.array(requests)).to_pylist()
    erased = tuple(
        Erasure(user.decode(), place, int(times[row]) or None)
        for user, place, row in zip(users, places, requests.tolist(), strict=True)
    )
    if len(requests):
        rows = rows.take(pa.array(np.flatnonzero(relation != _ERASE)))
    event_id = _strings(rows.column("event_id"))
    batch = EventBatch(
        _strings(rows.column("user")),
        _strings(rows.column("item")),
        rows.column("relation").to_numpy().copy(),  # writable, as those of every source: kernels are
        _times(rows).copy(),  # compiled for one or the other
        event_id=event_id if event_id.offsets[-1] > event_id.offsets[0] else None,
        attributes=tuple(_strings(rows.column(name)) for name in rows.schema.names[len(_SCHEMA) :]),
    )
    return Decoded(batch, erased=erased)
