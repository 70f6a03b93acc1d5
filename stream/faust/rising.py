"""Which items rise: counts events by steps of time and compares the newest window with the one before.

    canonical topic ──► step counts ──► [counted] ──► cells ──► [rising] ──► lists

A window is ``STEPS`` steps long; "now" is the newest window, "before" the previous one. A cell is a plain
list of integers, so that a Kafka changelog can hold it: the offset of the last record counted into it, its
newest step, then ``2 · STEPS`` counts, the newest step first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest
from math import sqrt
from typing import Final

STEPS: Final = 6  # steps of one window: "now" moves on six times in its span
_SEPARATOR: Final = "\x00"  # between behavior and item in a key; no configured behavior holds one

Cell = list[int]
_OFFSET, _STEP, _COUNTS = 0, 1, 2  # indexes into a cell


@dataclass(frozen=True, slots=True)
class Rising:
    """An item that got more events in the newest window than in the one before it."""

    item: str
    score: float
    now: int
    before: int


def step_ms_of(window_ms: int) -> int:
    """The length of a step. A window is at least a second long."""
    return max(1_000, window_ms) // STEPS


def key_of(behavior: str, item: str) -> str:
    """The key of a cell."""
    return f"{behavior}{_SEPARATOR}{item}"


def counted(cell: Cell | None, *, offset: int, step: int, count: int) -> Cell | None:
    """The cell with ``count`` events of ``step`` in it, or None if nothing changes.

    Args:
        cell: The cell in the table; it is not changed.
        offset: The offset of the record that counts the events. A record that is not newer than the cell's
            last one was counted before, so that a record that is delivered twice counts once.
        step: Event time divided by the length of a step. Events older than all steps of the cell do not
            count.
        count: How many events.
    """
    if cell is None:
        return [offset, step, count, *[0] * (2 * STEPS - 1)]
    if offset <= cell[_OFFSET]:
        return None
    newest, counts = cell[_STEP], cell[_COUNTS:]
    if step > newest:
        counts = ([0] * min(step - newest, 2 * STEPS) + counts)[: 2 * STEPS]
        newest = step
    if newest - step >= 2 * STEPS:
        return None
    counts[newest - step] += count
    return [offset, newest, *counts]


def is_stale(cell: Cell, newest_step: int) -> bool:
    """Whether all steps of the cell are older than both windows."""
    return newest_step - cell[_STEP] >= 2 * STEPS


def score_of(now: int, before: int) -> float:
    """The score of an item: ``(now - before) / sqrt(now + before + 1)``.

    The difference of two Poisson counts in units of its own spread: 10 after 0 (3.0) is more of a rise than
    1,000 after 950 (1.1). The 1 keeps a single event from looking like one.
    """
    return (now - before) / sqrt(now + before + 1)


def rising(cells: Iterable[tuple[str, Cell]], top: int) -> dict[str, list[Rising]]:
    """The ``top`` items by behavior that rise most, best first; equal scores by id. O(cells).

    "Now" ends with the newest step of all cells. An item that does not rise is in no list. A behavior that
    has cells has a list, perhaps an empty one, so that items that rose before are not shown for ever.
    """
    known = list(cells)
    newest = max((cell[_STEP] for _, cell in known), default=0)
    found: defaultdict[str, list[Rising]] = defaultdict(list)
    for key, cell in known:
        behavior, _, item = key.partition(_SEPARATOR)
        items = found[behavior]  # every behavior has a list, also if no item of it rises
        age = newest - cell[_STEP]
        counts = cell[_COUNTS:]
        now, before = (
            sum(counts[: max(0, STEPS - age)]),
            sum(counts[max(0, STEPS - age) : max(0, 2 * STEPS - age)]),
        )
        if now > before:
            items.append(Rising(item, score_of(now, before), now, before))
    return {
        behavior: sorted(nlargest(top, items, key=_rank), key=_rank, reverse=True)
        for behavior, items in found.items()
    }


def _rank(one: Rising) -> tuple[float, list[int]]:
    return one.score, [-ord(letter) for letter in one.item]
