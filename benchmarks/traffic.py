"""Synthetic shop traffic: what the window and its peers are measured on.

    Shop ──► [traffic] ──► columns of events in order of arrival ──► ours and every peer, the same

Items are drawn by Zipf's law with exponent 1 (the first of a million gets 7 % of all events), users by a
lognormal law. Times are unix milliseconds in order, so that ties happen, over just less than three days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from driftgraph.stream.arrays import I64, U8, U32, Mask

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
STREAM_MS = (
    3 * DAY_MS - 3_600_000
)  # an hour less than the shortest span: nothing expires while the window fills
RELATION_NAMES = ("click", "favorite", "purchase")
USER_SIGMA = 1.2  # the busiest percent of users makes about 15 % of the events
CHUNK = 1 << 20  # events drawn at once: bounds the memory that drawing takes


@dataclass(frozen=True, slots=True)
class Shop:
    """How many users and items there are, and what share of the events each relation has."""

    users: int = 1_000_000
    items: int = 200_000
    shares: tuple[float, ...] = (0.90, 0.06, 0.04)


@dataclass(frozen=True, slots=True)
class Traffic:
    """N events as columns, in order of arrival."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64

    def __len__(self) -> int:
        return len(self.time_ms)

    def part(self, start: int, stop: int) -> Traffic:
        """Events ``start`` to ``stop``, no copy."""
        return Traffic(
            self.user[start:stop], self.item[start:stop], self.relation[start:stop], self.time_ms[start:stop]
        )

    def batches(self, start: int, stop: int, size: int) -> Iterator[Traffic]:
        """The events from ``start`` to ``stop``, ``size`` at a time."""
        for at in range(start, stop, size):
            yield self.part(at, min(at + size, stop))

    def take(self, index: I64 | Mask) -> Traffic:
        """The events that an index or mask names."""
        return Traffic(self.user[index], self.item[index], self.relation[index], self.time_ms[index])

    def in_order(self) -> Traffic:
        """The same events by time, ties as they arrived."""
        return self.take(np.argsort(self.time_ms, kind="stable"))


class Crowd:
    """Draws users: weights lognormal, row numbers without order."""

    def __init__(self, count: int, random: np.random.Generator) -> None:
        weight = random.lognormal(0.0, USER_SIGMA, count)
        self._upto = np.cumsum(weight) / weight.sum()

    def draw(self, count: int, random: np.random.Generator) -> U32:
        """``count`` rows. Sorted draws make the search run along the table, then they are shuffled back."""
        chance = np.sort(random.random(count))
        rows: U32 = np.searchsorted(self._upto, chance).astype(np.uint32)
        random.shuffle(rows)
        return rows


class Catalog:
    """Draws items: the n-th most popular with a chance like 1/n, popular ones anywhere among the rows."""

    def __init__(self, count: int, random: np.random.Generator) -> None:
        self._row = random.permutation(count).astype(np.uint32)

    def draw(self, count: int, random: np.random.Generator) -> U32:
        """``count`` rows, by the inverse of the law's continuous form."""
        rank = np.exp(random.random(count) * np.log(len(self._row) + 1)).astype(np.int64) - 1
        rows: U32 = self._row[np.minimum(rank, len(self._row) - 1)]
        return rows


def stream(shop: Shop, count: int, seed: int = 1) -> Iterator[Traffic]:
    """``count`` events in chunks, in order of time; the same for the same arguments."""
    random = np.random.default_rng(seed)
    crowd, catalog = Crowd(shop.users, random), Catalog(shop.items, random)
    upto = np.cumsum(shop.shares)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        inside = np.sort(random.integers(0, STREAM_MS * size // count, size))
        yield Traffic(
            crowd.draw(size, random),
            catalog.draw(size, random),
            np.searchsorted(upto[:-1], random.random(size), side="right").astype(np.uint8),
            START_MS + STREAM_MS * start // count + inside,
        )


def draw(shop: Shop, count: int, seed: int = 1) -> Traffic:
    """``count`` events at once."""
    return joined(list(stream(shop, count, seed)))


def joined(parts: Sequence[Traffic]) -> Traffic:
    """One after the other."""
    return Traffic(
        np.concatenate([p.user for p in parts]),
        np.concatenate([p.item for p in parts]),
        np.concatenate([p.relation for p in parts]),
        np.concatenate([p.time_ms for p in parts]),
    )


def made_late(traffic: Traffic, share: float, late_ms_max: int, seed: int = 2) -> Traffic:
    """The same events, a ``share`` of them arriving up to ``late_ms_max`` after their time."""
    random = np.random.default_rng(seed)
    arrival = traffic.time_ms.copy()
    late = random.random(len(traffic)) < share
    arrival[late] += random.integers(1, late_ms_max, int(late.sum()))
    return traffic.take(np.argsort(arrival, kind="stable"))


def seeds(traffic: Traffic, count: int, number: int) -> tuple[U32, U32]:
    """Users and items of ``count`` events of the traffic, so that hubs come as often as they do there."""
    at: I64 = np.random.default_rng(1_000 + number).integers(0, len(traffic), count)
    return traffic.user[at], traffic.item[at]
