"""The many calls of one step: for each the keys, all of one part of the namespace, and the arguments.

GenerationStore ──► [hash_calls, refresh_calls, erase_calls, item_calls] ──► Scripts.run_many
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from driftgraph.snapshots.generations.keys import Keys
from driftgraph.snapshots.generations.vector_forms import FLOAT32
from driftgraph.snapshots.generations.vectors import Vectors, chunks, hash_args, one_length
from driftgraph.stream.arrays import F32

HASHES_PER_SCRIPT = 100  # about 0.3 ms of Redis: other clients wait no longer than that
ITEMS_PER_INDEX_SCRIPT = 8  # adding to a vector set takes 0.05 to 0.5 ms an item

# Up to here readers search the vector set exactly (VSIM … TRUTH: 3 ms at 20,000 items of 64 dims, 10 ms at
# 60,000), which needs no graph, and the graph is built with the least effort: 21,000 items/s. Beyond, it is
# built well, at 3,500 items/s and less, and searched with EF 500.
EXACT_ITEMS_MAX = 100_000
EXACT_EF, EXACT_M = 4, 8
GRAPH_EF, GRAPH_M = 200, 16
QUANTIZATIONS: Final = {"float32": "NOQUANT", "int8": "Q8"}  # of vector sets

Call = tuple[Sequence[str | bytes], Sequence[Any]]  # keys and arguments of a script


def hash_calls(
    keys: Keys,
    side: str,
    number: int,
    vectors: Vectors,
    fence: Sequence[Any],
    form: str,
    on_written: Callable[[int], None],
) -> Iterator[Call]:
    """Calls of WRITE. ``fence`` is epoch and token."""
    for part, rows in keys.by_part(vectors.ids):
        head = [part.current, part.of(number, "manifest"), part.of(number, f"{side}-ids")]
        entity = part.user if side == "user" else part.item
        for first, stop in chunks(len(rows), HASHES_PER_SCRIPT):
            some = rows[first:stop]
            names = [*head, *(entity(number, vectors.ids[row]) for row in some)]
            yield names, [*fence, first, *hash_args(vectors, side, number, some, form)]
            on_written(stop - first)


def refresh_calls(
    keys: Keys, side: str, number: int, vectors: Vectors, fence: Sequence[Any], form: str
) -> Iterator[Call]:
    """Calls of REFRESH, or of REFRESH_ITEMS. ``fence`` is epoch, number and token, and of users the mark.

    The mark grows with the last call, and so tells that the whole refresh is there. In a namespace that is
    spread no call is the last, since those of several nodes run at the same time: the caller sends it after.
    """
    opening, mark = fence[:3], fence[3:]
    for part, rows in keys.by_part(vectors.ids):
        head = [part.current, part.of(number, f"{side}-ids"), part.of(number, "manifest")]
        entity = part.user if side == "user" else part.item
        for first, stop in chunks(len(rows), HASHES_PER_SCRIPT):
            some = rows[first:stop]
            is_last = not keys.is_spread and stop == len(rows)
            names = [*head, *(entity(number, vectors.ids[row]) for row in some)]
            entries = hash_args(vectors, side, number, some, form)
            yield names, [*opening, *(one + is_last for one in mark), *entries]


def refresh_index_calls(
    keys: Keys, number: int, items: Vectors, rows: F32, fence: Sequence[Any]
) -> Iterator[Call]:
    """Calls of REFRESH_INDEX. ``fence`` is all that stands before the items, whose vectors are ``rows``."""
    names = [keys.current, keys.of(number, "items"), keys.of(number, "manifest")]
    for first, stop in chunks(len(items), ITEMS_PER_INDEX_SCRIPT):
        yield names, [*fence, *_in_index(items, rows, first, stop)]


def erase_calls(keys: Keys, number: int, users: Sequence[str], epoch: int) -> Iterator[Call]:
    """Calls of ERASE."""
    for part, places in keys.by_part(users):
        head = [part.current, part.of(number, "manifest"), part.of(number, "user-ids")]
        for place in places:
            yield [*head, part.user(number, users[place])], [epoch, users[place]]


def index_effort(items: int) -> tuple[str, int, int]:
    """How readers search the vector set, ``exact`` or ``graph``, and EF and M with which it is built."""
    exact = items <= EXACT_ITEMS_MAX
    return ("exact", EXACT_EF, EXACT_M) if exact else ("graph", GRAPH_EF, GRAPH_M)


def item_calls(
    keys: Keys, number: int, items: Vectors, fence: Sequence[Any], quantized: str = FLOAT32
) -> Iterator[Call]:
    """Calls of INDEX. ``fence`` is epoch and token."""
    _, *effort = index_effort(len(items))
    names = [keys.current, keys.of(number, "manifest"), keys.of(number, "items")]
    rows = one_length(items.vectors)
    for first, stop in chunks(len(items), ITEMS_PER_INDEX_SCRIPT):
        yield names, [*fence, *effort, QUANTIZATIONS[quantized], *_in_index(items, rows, first, stop)]


def _in_index(items: Vectors, rows: F32, first: int, stop: int) -> Iterator[str | bytes]:
    """Of each item its id, its vector in the set, and its attributes, empty for none."""
    for n in range(first, stop):
        yield items.ids[n]
        yield rows[n].tobytes()
        yield b"" if items.attributes is None else items.attributes.rows[n]
