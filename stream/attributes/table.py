"""The attributes of one side: the newest values of each id and field, each with the time it holds from.

    [AttributeTable.put] ──► files beside the window ──► [AttributeView.tokens], as of a time, for any process

Ids have rows of their own here, since an attribute outlives the events of its id and may come before them. A
row of the window leads to one of these by ``link``; a link counts only while both rows have ids of one hash,
so nobody has to mend links when rows change hands.

Layout, for A rows, F fields whose values have W tokens together, and ``VERSIONS`` values a field:
  * ``times``: A × F × VERSIONS times in ms from which a value holds, the newest first; 0: there is none;
  * ``last``: A × F times in ms at which the newest value was last said;
  * ``tokens``: A × VERSIONS × W, the tokens of these values;
  * ``turn``: A counters, odd while a row is written: a reader that sees one reads the row again.
Beside them, for each row of the window: its link, and whether its id has the row without an event (``cold``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from driftgraph.stream.arrays import I64, U32, U64, Mask
from driftgraph.stream.attributes.fields import Field
from driftgraph.stream.events import Strings
from driftgraph.stream.kernels.atomics import fence, load_acquire, store_release
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.ids import IdTable, IdTableFullError, IdView
from driftgraph.stream.window.shared_files import Folder

VERSIONS = 4  # of a field's value that are kept; older ones go
EVICTED_SHARE = 16  # a full table loses this part of its ids, those that were longest without a value
TRIES_MAX = 1 << 20  # of reading a row that is being written
MIXED_WITH = "attribute"  # in the names of the files


class Store(NamedTuple):
    """The values of all rows; see the module for the layout."""

    times: I64
    last: I64
    tokens: U32
    turn: U32
    first: I64  # [F + 1] where each field's tokens begin among the W


class HasHashes(Protocol):
    """Who owns the rows of the window: a ``HeterographView``."""

    def hashes(self, side: int, rows: U32) -> U64:
        """A 64-bit hash of the id of each row."""
        ...


@kernel
def _put(store: Store, field: int, rows: U32, time_ms: I64, tokens: U32) -> None:  # pragma: no cover
    for n in range(len(rows)):
        _put_one(store, field, np.int64(rows[n]), time_ms[n], tokens, n)


@helper
def _equal(store: Store, row: int, version: int, field: int, tokens: U32, n: int) -> bool:  # pragma: no cover
    begin = store.first[field]
    at = (row * VERSIONS + version) * store.first[len(store.first) - 1]
    differ = 0
    for k in range(begin, store.first[field + 1]):
        differ += store.tokens[at + k] != tokens[n, k - begin]
    return differ == 0


@helper
def _write(store: Store, row: int, version: int, field: int, tokens: U32, n: int) -> None:  # pragma: no cover
    begin = store.first[field]
    at = (row * VERSIONS + version) * store.first[len(store.first) - 1]
    for k in range(begin, store.first[field + 1]):
        store.tokens[at + k] = tokens[n, k - begin]


@helper
def _shift(store: Store, row: int, field: int, place: int, t: int) -> None:  # pragma: no cover - compiled
    """Make room for a value at a place, from a time on; the oldest goes."""
    fields = len(store.first) - 1
    width = store.first[fields]
    at = (row * fields + field) * VERSIONS
    for version in range(VERSIONS - 1, place, -1):
        store.times[at + version] = store.times[at + version - 1]
        base = (row * VERSIONS + version) * width
        for k in range(store.first[field], store.first[field + 1]):
            store.tokens[base + k] = store.tokens[base - width + k]
    store.times[at + place] = t


@helper
def _put_one(store: Store, field: int, row: int, t: int, tokens: U32, n: int) -> None:  # pragma: no cover
    fields = len(store.first) - 1
    at, last = (row * fields + field) * VERSIONS, store.last[row * fields + field]
    place = 0
    while place < VERSIONS and store.times[at + place] > t:
        place += 1
    if place == VERSIONS:  # older than all that is kept
        return
    if store.times[at + place] and _equal(store, row, place, field, tokens, n):
        if place == 0:  # the value that holds already
            store.last[row * fields + field] = max(last, t)
        return
    turn = store.turn[row]
    store_release(store.turn, row, np.uint32(turn + np.uint32(1)))
    fence()
    if place == 0 and last > t:  # late: the newest value was said again since, and holds from then on
        _shift(store, row, field, 0, last)
        place = 1
    if store.times[at + place] == t:  # of two values at one time the later to come counts
        _write(store, row, place, field, tokens, n)
    elif place and _equal(store, row, place - 1, field, tokens, n):
        store.times[at + place - 1] = t  # the same value, known earlier
    else:
        _shift(store, row, field, place, t)
        _write(store, row, place, field, tokens, n)
    if place == 0:
        store.last[row * fields + field] = t
    store_release(store.turn, row, np.uint32(turn + np.uint32(2)))


@kernel
def _clear(store: Store, rows: U32) -> None:  # pragma: no cover - compiled
    fields = len(store.first) - 1
    for n in range(len(rows)):
        row = np.int64(rows[n])
        turn = store.turn[row]
        store_release(store.turn, row, np.uint32(turn + np.uint32(1)))
        fence()
        for at in range(row * fields * VERSIONS, (row + 1) * fields * VERSIONS):
            store.times[at] = 0
        for at in range(row * fields, (row + 1) * fields):
            store.last[at] = 0
        for at in range(row * VERSIONS * store.first[fields], (row + 1) * VERSIONS * store.first[fields]):
            store.tokens[at] = 0
        store_release(store.turn, row, np.uint32(turn + np.uint32(2)))


@kernel
def _read(store: Store, rows: I64, before_ms: I64, found: U32) -> None:  # pragma: no cover - compiled
    """The tokens of each row's values as of strictly before a time; row −1 and a row without: zeros."""
    fields = len(store.first) - 1
    width = store.first[fields]
    for n in range(len(rows)):
        row = rows[n]
        if row < 0:
            continue
        for _ in range(TRIES_MAX):
            turn = load_acquire(store.turn, row)
            for field in range(fields):
                at, version = (row * fields + field) * VERSIONS, 0
                while version < VERSIONS and store.times[at + version] >= before_ms[n]:
                    version += 1
                is_there = version < VERSIONS and store.times[at + version] > 0
                base = (row * VERSIONS + version) * width
                for k in range(store.first[field], store.first[field + 1]):
                    found[n, k] = store.tokens[base + k] if is_there else np.uint32(0)
            fence()
            if turn % 2 == 0 and load_acquire(store.turn, row) == turn:
                break
        else:
            for k in range(width):
                found[n, k] = 0


class AttributeView:
    """The attributes of one side, for any process.

    Always true: what is read as of a time came strictly before it, by the times of the events that said it.
    """

    def __init__(
        self, side: int, kind: str, fields: Sequence[Field], folder: Folder, *, rows: int, of: HasHashes
    ) -> None:
        """``rows``: how many ids the window has room for; so many have room here, too."""
        self.side, self.fields, self.rows_max = side, tuple(fields), rows
        self._of = of
        name = f"{kind}_{MIXED_WITH}"
        self.first = np.cumsum([0, *(field.width for field in fields)]).astype(np.int64)
        width = int(self.first[-1])
        self._store = Store(
            folder.array(f"{name}_times", rows * len(fields) * VERSIONS, np.int64),
            folder.array(f"{name}_last", rows * len(fields), np.int64),
            folder.array(f"{name}_tokens", rows * width * VERSIONS, np.uint32),
            folder.array(f"{name}_turns", rows, np.uint32),
            self.first,
        )
        self._link = folder.array(f"{name}_links", rows, np.uint32)
        self._cold = folder.array(f"{name}_cold", rows, np.uint8)
        self._ids = self._open(name, folder)

    def _open(self, name: str, folder: Folder) -> IdView:
        return IdView(self.rows_max, folder, name)

    def tokens(self, rows: U32, before_ms: int | I64) -> U32:
        """[N, W] of rows of the window, as of strictly before a time (or N times); 0: no token.

        The tokens of field f are columns ``first[f]`` to ``first[f + 1]``.
        """
        own = self._link[rows].astype(np.int64) - 1
        own[~self._is_of(own, rows)] = -1
        times_ms = np.broadcast_to(np.asarray(before_ms, np.int64), len(rows))
        found = np.zeros((len(rows), int(self.first[-1])), np.uint32)
        _read(self._store, own, np.ascontiguousarray(times_ms), found)
        found[~self._is_of(own, rows)] = 0  # another id got the row here or in the window meanwhile
        return found

    def _is_of(self, own: I64, rows: U32) -> Mask:
        """[N] whether the row ``own`` here, −1 for none, and the row of the window have ids of one hash."""
        linked = own >= 0
        hashes = self._ids.hashes(own[linked].astype(np.uint32))
        linked[linked] = hashes == self._of.hashes(self.side, rows[linked])
        return linked

    def cold(self, versions: U32) -> U32:
        """Rows of the window that ids got for their attributes, ascending; some may have events since.

        ``versions`` are those of the window's rows: one that has no owner is left out.
        """
        marked = self._cold[: len(versions)].astype(np.bool_)
        rows: U32 = np.flatnonzero(marked & (versions % 2 == 1)).astype(np.uint32)
        return rows[self._is_of(self._link[rows].astype(np.int64) - 1, rows)]


class AttributeTable(AttributeView):
    """The attributes of one side, for the writer.

    Always true: at most ``rows_max`` ids have attributes. When more come, those go that were longest without
    a value, a sixteenth of the room at once, and ``evicted`` counts them.
    """

    def __init__(
        self, side: int, kind: str, fields: Sequence[Field], folder: Folder, *, rows: int, of: HasHashes
    ) -> None:
        super().__init__(side, kind, fields, folder, rows=rows, of=of)
        name = f"{kind}_{MIXED_WITH}"
        self._rooms = [
            (folder.room(f"{name}_{column}", 0, array.nbytes), array.nbytes // rows)
            for column, array in (
                ("times", self._store.times), ("last", self._store.last),
                ("tokens", self._store.tokens), ("turns", self._store.turn),
            )
        ]  # fmt: skip
        for column, array in (("links", self._link), ("cold", self._cold)):
            folder.room(f"{name}_{column}", 0, array.nbytes).provide(array.nbytes)
        self._newest_ms: I64 = np.zeros(rows, np.int64)
        self.evicted = 0

    def _open(self, name: str, folder: Folder) -> IdTable:
        self._table = IdTable(self.rows_max, folder, name)
        return self._table

    def __len__(self) -> int:
        """Ids that have attributes."""
        return len(self._table)

    def find(self, ids: Strings) -> I64:
        """The row of each id here, −1 for one without attributes."""
        return self._table.find(ids)

    def fitting(self, ids: Strings) -> int:
        """How many of these ids, from the first on, there is room for."""
        room, new = self.rows_max - len(self._table), np.flatnonzero(self._table.find(ids) < 0)
        if len(new) <= room:
            return len(ids)
        names = set[bytes]()
        for place in new.tolist():
            names.add(ids.bytes_at(place))
            if len(names) > room:
                return int(place)
        return len(ids)

    def assign(self, ids: Strings, time_ms: I64) -> U32:
        """The row of each id here, which gets one if it has none; there is room for them.

        Raises:
            IdTableFullError: They are too long for the memory of ids.
            WindowError: The disk is full; nothing has changed.
        """
        try:
            rows, _ = self._table.assign(ids)
        except IdTableFullError:  # the memory of long ids is full before the rows are
            self.evict()
            rows, _ = self._table.assign(ids)
        for room, size in self._rooms:
            room.provide((int(rows.max(initial=0)) + 1) * size)
        np.maximum.at(self._newest_ms, rows, time_ms)
        return rows

    def put(self, field: int, rows: U32, time_ms: I64, tokens: U32) -> None:
        """From these times on, N rows have these values [N, width] of a field; in order of arrival.

        A value that is older than all ``VERSIONS`` that are kept changes nothing.
        """
        _put(self._store, field, rows, time_ms, tokens)

    def link(self, rows: U32, own: I64) -> None:
        """Rows of the window are those of ids that have the rows ``own`` here; −1: they have none."""
        self._link[rows] = (own + 1).astype(np.uint32)

    def have_cold(self, rows: U32, own: U32) -> None:
        """These rows of the window, and no others, are those of ids without events, rows ``own`` here."""
        self.have_cold_also(rows, own, np.flatnonzero(self._cold).astype(np.uint32))

    def have_cold_also(self, rows: U32, own: U32, instead_of: U32) -> None:
        """As ``have_cold``, beside those that are so; the rows ``instead_of`` are so no more."""
        self._cold[instead_of] = 0
        self.link(rows, own.astype(np.int64))
        self._cold[rows] = 1

    def cold_by_age(self) -> U32:
        """Rows of the window of ids without events, those with the oldest values first."""
        rows: U32 = np.flatnonzero(self._cold).astype(np.uint32)
        return rows[np.argsort(self.newest_ms(self._link[rows].astype(np.int64) - 1), kind="stable")]

    def newest_ms(self, own: I64) -> I64:
        """[N] when something was last said of the ids of rows here; 0 for −1."""
        return np.where(own < 0, 0, self._newest_ms[np.maximum(own, 0)])

    def newest(self, most: int, without: Strings) -> tuple[U32, Strings]:
        """Rows and ids of those with the newest values that are not among ``without``, the newest first."""
        used = self._table.rows_in_use()
        found = self._table.find(without)
        used = np.setdiff1d(used, found[found >= 0].astype(np.uint32), assume_unique=True)
        order = np.lexsort((self._table.hashes(used), -self._newest_ms[used]))  # a tie is no matter of rows
        chosen = used[order[: max(most, 0)]]
        return chosen, self._table.strings(chosen)

    def erase(self, ids: Strings) -> None:
        """Forget all that was said of these ids."""
        found = self._table.find(ids)
        for row in np.unique(found[found >= 0]).tolist():
            self._release(np.array([row], np.uint32))
            self._table.forget(row)

    def kept(self) -> Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
        """Copies of all ids and values, for ``put_back``. O(ids)."""
        rows = self._table.rows_in_use()
        names, fields, width = self._table.strings(rows), len(self.fields), int(self.first[-1])
        return {
            "id_offsets": names.offsets,
            "id_bytes": names.data,
            "newest_ms": self._newest_ms[rows],
            "times": self._store.times.reshape(-1, fields * VERSIONS)[rows],
            "last": self._store.last.reshape(-1, fields)[rows],
            "tokens": self._store.tokens.reshape(-1, VERSIONS * width)[rows],
        }

    def put_back(
        self, kept: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
        then: Sequence[Field], gone: Mask,
    ) -> None:  # fmt: skip
        """Fill an empty table with what ``kept`` gave for the fields ``then``, but not the ids ``gone`` [N].

        A field of another name or kind begins without values. Rows may be others than they were.

        Raises:
            IdTableFullError: There are more ids than there is room for now.
        """
        offsets, data = kept["id_offsets"].astype(np.int64), kept["id_bytes"].astype(np.uint8)
        places = np.flatnonzero(~gone)
        if len(places) > self.rows_max:  # there is less room now: those with the newest values stay
            places = np.sort(np.argsort(-kept["newest_ms"][places].astype(np.int64))[: self.rows_max])
        newest_ms = kept["newest_ms"][places].astype(np.int64)
        rows = self.assign(Strings(offsets, data).take(places), newest_ms)
        times = kept["times"].astype(np.int64).reshape(-1, len(then), VERSIONS)[places]
        first = np.cumsum([0, *(field.width for field in then)])
        tokens = kept["tokens"].astype(np.uint32).reshape(-1, VERSIONS, int(first[-1]))[places]
        for f, field in enumerate(self.fields):
            if field not in then:
                continue
            old = list(then).index(field)
            for version in range(VERSIONS - 1, -1, -1):  # the oldest first, as they came
                there = times[:, old, version] > 0
                own = np.ascontiguousarray(tokens[there, version, first[old] : first[old + 1]])
                self.put(f, rows[there], np.ascontiguousarray(times[there, old, version]), own)
            self._store.last.reshape(-1, len(self.fields))[rows, f] = kept["last"][places, old]

    def evict(self) -> None:
        """Make room: the ids that were longest without a value go."""
        used = self._table.rows_in_use()
        count = min(len(used), max(self.rows_max // EVICTED_SHARE, 1))
        order = np.lexsort((self._table.hashes(used), self._newest_ms[used]))  # a tie is no matter of rows
        oldest = np.sort(used[order[:count]])
        self._release(oldest)
        self._table.release(oldest)
        self.evicted += count

    def _release(self, rows: U32) -> None:
        _clear(self._store, rows)
        self._newest_ms[rows] = 0
