"""What may be recommended: the filters of a question, and lists as Redis has them.

questions.py ──► [Filters, listed, best] ──► (id, score) pairs, best first
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import msgspec
import numpy as np

from driftgraph.snapshots.reading.where import Where

Scored = list[tuple[str, float]]
_ids_of = msgspec.json.Decoder(list[str]).decode


@dataclass(frozen=True, slots=True)
class Filters:
    """Which items an answer may have, apart from those that a user has touched.

    ``allow`` has all ids that may come, as those of a category; None allows every item. An item must have an
    event at or after ``min_event_ms``, and attributes that fit ``where``.
    """

    exclude: Collection[str] = ()
    allow: frozenset[str] | None = None
    min_event_ms: int | None = None
    where: Where | None = None

    @property
    def need_items(self) -> bool:
        """Whether the items themselves have to be looked at: their ids alone do not tell."""
        return self.min_event_ms is not None or self.where is not None

    def fits(self, event_ms: int, attributes: bytes | None) -> bool:
        """Whether an item of that time and with these attributes may come."""
        if self.min_event_ms is not None and event_ms < self.min_event_ms:
            return False
        return self.where is None or self.where.fits(attributes)

    def out(self, touched: bytes | None, delisted: Collection[str]) -> set[str]:
        """The ids that may not come: of ``exclude``, touched by the user, or delisted."""
        out = set(_ids_of(touched)) if touched else set[str]()
        out.update(self.exclude, delisted)
        return out

    def keep(self, pairs: Iterable[tuple[str, float]], out: Collection[str], top: int) -> Scored:
        """The first ``top`` pairs that may come, as far as their ids tell."""
        allow = self.allow
        kept: Scored = []
        for pair in pairs:
            if pair[0] not in out and (allow is None or pair[0] in allow):
                kept.append(pair)
                if len(kept) == top:
                    break
        return kept


def listed(ids: bytes | None, scores: bytes | None) -> tuple[Sequence[str], Sequence[float]]:
    """The items of a list and their scores, best first, without scores that are not finite.

    The worker writes lists in this order; those of another writer are brought into it.
    """
    names, blob = _ids_of(ids) if ids else [], scores or b""
    score = np.frombuffer(blob[: len(blob) // 4 * 4], "<f4")
    falls = (score[1:] < score[:-1]).all()  # False where one is NaN
    numbers = score.tolist()
    if not falls or len(names) != len(numbers) or not (numbers and isfinite(numbers[0] - numbers[-1])):
        pairs = best([pair for pair in zip(names, numbers, strict=False) if isfinite(pair[1])])
        return [name for name, _ in pairs], [number for _, number in pairs]
    return names, numbers


def best(pairs: Sequence[tuple[str, float]], top: int | None = None) -> Scored:
    """The highest ``top``, or all; equal scores by id."""
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:top]
