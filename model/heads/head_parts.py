"""The heads as they are published: a number of the base, of each user and each item, and of the dot product.

    Heads, the window at a moment ──► [HeadParts] ──► a generation's manifest, and the hashes of its vectors
                          manifest ──► [ServedHeads] ──► the numbers of users who are refreshed later

A reader adds them up (``snapshots.head_scores``). Rates are as of the moment; those of a user who is
refreshed later are of the user's newest events. Weights and base rates stay those of the publish until the
next one, also after a restart: a sum of numbers of two moments is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from driftgraph.model.heads.heads import BASE, DOT, ITEM_PART, USER_PART, Heads, Layout, Parts, features
from driftgraph.model.heads.impressions import HALF_LIVES_MS, Asked, Counts, Rates, answered
from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.samplers import Neighborhood
from driftgraph.stream.window.writer import Cut, Events, WindowView

NEWEST = 200  # events of each relation that the rates of a refreshed user are made of
USERS_AT_ONCE = 1_024


class _State(msgspec.Struct, frozen=True):
    """What ``ServedHeads`` are made of."""

    relations: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    shown: tuple[tuple[float, ...], ...]  # counts of everything, [H, C]


class ServedHeads:
    """The weights and base rates of a generation: what the number of a user is made of, then and later."""

    def __init__(
        self, relations: Sequence[str], weights: Sequence[F64], all_1HC: F64, *, attribution_ms: int
    ) -> None:
        self._relations, self._attribution_ms = tuple(relations), attribution_ms
        self._layouts = [Layout.of(name, relations) for name in relations]
        self._weights, self._all = list(weights), all_1HC

    def state(self) -> str:
        """For ``of_state``; one text for the manifest of the generation."""
        weights = tuple(tuple(weight_F.tolist()) for weight_F in self._weights)
        shown = tuple(tuple(counts) for counts in self._all[0].tolist())
        return msgspec.json.encode(_State(self._relations, weights, shown)).decode()

    @classmethod
    def of_state(cls, text: str, relations: Sequence[str], *, attribution_ms: int) -> ServedHeads | None:
        """The heads that said so; None if they are of other relations or of other features."""
        try:
            found = msgspec.json.decode(text, type=_State)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None
        sizes = [len(Layout.of(name, relations).names) for name in relations]
        shown = np.array([counts for counts in found.shown if len(counts) == 1 + len(relations)])
        if (
            found.relations != tuple(relations)
            or [len(weights) for weights in found.weights] != sizes
            or shown.shape != (len(HALF_LIVES_MS), 1 + len(relations))
            or not all(map(math.isfinite, shown.flat))
        ):
            return None
        weights = [np.array(weights) for weights in found.weights]
        return cls(relations, weights, shown[np.newaxis], attribution_ms=attribution_ms)

    def users_later(self, window: WindowView, rows: U32, times_ms: I64, cut: Cut) -> F32:
        """[n, B] of users at a later cut, strictly before ``times_ms``, from their ``NEWEST`` events.

        Raises:
            StaleCut: The window overwrote events of the cut meanwhile.
        """
        parts = [np.zeros((0, len(self._relations)), np.float32)]
        for start in range(0, len(rows), USERS_AT_ONCE):
            at = slice(start, start + USERS_AT_ONCE)
            near = window.recent(USER, rows[at], times_ms[at], NEWEST, cut)
            counts = self._of_newest(near, times_ms[at])
            nothing = np.zeros(len(counts.user), np.float32)
            parts.append(self._sums(USER_PART, counts, nothing).astype(np.float32))
        return np.concatenate(parts)

    def _of_newest(self, near: Neighborhood, times_ms: I64) -> Counts:
        """The counts of users from their newest events alone; everything else is as of the moment."""
        shown = answered(_events_of(near), len(self._relations), self._attribution_ms)
        order = np.argsort(times_ms, kind="stable")
        rates = Rates(shown, (len(times_ms), int(shown.item.max(initial=0)) + 1))
        asked = Asked(order.astype(np.uint32), np.zeros(len(order), np.uint32), times_ms[order])
        user = np.empty((len(order), *self._all.shape[1:]))
        user[order] = rates.before(asked).user
        return Counts(user, np.zeros_like(user), np.repeat(self._all, len(user), axis=0))

    def _sums(self, part: int, counts: Counts, item_bias_N: F32) -> F64:
        """[N, B]: of the features of one part, by the served weights."""
        everything = np.broadcast_to(self._all, counts.user.shape)
        seen = Parts(np.zeros(len(item_bias_N), np.float32), item_bias_N)
        columns = []
        for relation, (weight_F, layout) in enumerate(self._each()):
            own = layout.columns(part)
            feature_NF = features(
                Counts(counts.user, counts.item, everything), seen, relation, self._relations
            )
            columns.append(feature_NF[:, own] @ weight_F[own])
        return np.stack(columns, axis=1)

    def _each(self) -> Iterator[tuple[F64, Layout]]:
        return zip(self._weights, self._layouts, strict=True)


class HeadParts(ServedHeads):
    """The served heads at one moment. ``manifest`` holds for all users and items."""

    def __init__(
        self, heads: Heads, window: WindowView, cut: Cut, time_ms: int, *, attribution_ms: int
    ) -> None:
        """``window`` has the impressions; ``time_ms`` is behind all events. O(window)."""
        weights = [head.weight_F.copy() for head in heads.heads.values()]
        shown = answered(window.events(cut), len(heads.relations), attribution_ms)
        rows = (
            max(window.rows(USER), int(shown.user.max(initial=0)) + 1),
            max(window.rows(ITEM), int(shown.item.max(initial=0)) + 1),
        )
        self._rates, self._time_ms = Rates(shown, rows), time_ms
        everything = self._rates.before(_now(np.zeros(1, np.uint32), USER, time_ms)).all
        super().__init__(heads.relations, weights, everything, attribution_ms=attribution_ms)

    def manifest(self) -> dict[str, object]:
        """What is the same for all users and items."""
        nothing = np.zeros((1, *self._all.shape[1:]))
        base_1B = self._sums(BASE, Counts(nothing, nothing, self._all), np.zeros(1, np.float32))
        dot = [float(w[layout.columns(DOT)[0]]) for w, layout in self._each()]
        return {"relations": list(self._relations), "base": base_1B[0].tolist(), "dot": dot}

    def items(self, rows: U32, vectors: F32) -> F32:
        """[n, B] of items, at the moment."""
        counts = self._rates.before(_now(rows, ITEM, self._time_ms))
        return self._sums(ITEM_PART, counts, vectors[:, -1]).astype(np.float32)

    def users(self, rows: U32) -> F32:
        """[n, B] of users, at the moment."""
        counts = self._rates.before(_now(rows, USER, self._time_ms))
        return self._sums(USER_PART, counts, np.zeros(len(rows), np.float32)).astype(np.float32)


def _now(rows: U32, side: int, time_ms: int) -> Asked:
    """Rows of one side, all at one time."""
    other, times_ms = np.zeros(len(rows), np.uint32), np.full(len(rows), time_ms, np.int64)
    return Asked(rows, other, times_ms) if side == USER else Asked(other, rows, times_ms)


def _events_of(near: Neighborhood) -> Events:
    """The neighbors of users as events in order of time; user n is the n-th."""
    width = near.neighbor_BRK.shape[2]
    user, relation, place = (np.arange(width) < near.count_BR[:, :, None]).nonzero()
    time_ms = near.time_ms_BRK[user, relation, place]
    order = np.argsort(time_ms, kind="stable")
    user, relation, place = user[order], relation[order], place[order]
    item = near.neighbor_BRK[user, relation, place]
    return Events(user.astype(np.uint32), item, relation.astype(np.uint8), time_ms[order])
