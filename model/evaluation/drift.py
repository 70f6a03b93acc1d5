"""Drift: which users, items and behaviors moved since the generation before, and how good older ones are.

    Trainer.fit, accepted ──► [drift_of] ──► Drift ──► manifest, report
    Trainer.fit, accepted ──► [stability_of] ──► Stability ──► FitReport
    Trainer.fit, accepted ──► [Elders.keep] ─ … ─► Trainer.evaluate ──► [Elders.curve] ──► Staleness

A score of 0 means "as before". ``Drift`` says what each score is, and from how many events on it is given.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from driftgraph.model.evaluation.evaluate import Scored, Staleness, metrics_of, published_ranks
from driftgraph.model.evaluation.targets import Targets
from driftgraph.model.examples.examples import before, take
from driftgraph.model.fitting.fit_report import Stability
from driftgraph.model.fitting.published import Published
from driftgraph.stream.arrays import F32, F64, I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.view import WindowView
from driftgraph.stream.window.writer import Cut, Events

TOP: Final = 10  # named of each side
NEIGHBORS_MIN: Final = 5  # different items of a user, or users of an item, before and since: fewer are chance
HISTORY: Final = 20  # newest events of a behavior that tell what a node had before
EVENTS_MIN: Final = 100  # of a behavior, before and since: the items of fewer differ by chance

AGES: Final = (1, 2, 4, 8)  # fits ago
USERS_MAX: Final = 50_000  # whose vectors are kept of an older generation: 6 MB of 64 channels
BYTES_MAX: Final = 1 << 28  # of all older generations; in a big catalog the oldest go
TARGETS_MAX: Final = 1_000  # ranked by each of them

STABLE_USERS: Final = 256  # whose best items are compared: a standard error of about .01
SCORES_AT_ONCE: Final = 1 << 21  # 8 MB


@dataclass(frozen=True, slots=True)
class Moved:
    """The scores of one side: the highest ``TOP`` by row, how many nodes have one, and the median of all."""

    rows: U32
    scores: F64
    measured: int
    median: float  # nan of none


@dataclass(frozen=True, slots=True)
class BehaviorDrift:
    """A behavior in the interval of a fit, against as many of its events right before the interval."""

    share_before: float  # of the events of all behaviors, in an interval of as many events
    share: float
    distance: float  # between its items then and now, from 0 to 1; nan of fewer than ``EVENTS_MIN`` events


@dataclass(frozen=True, slots=True)
class Drift:
    """What moved between two generations, by the events of the interval between their fits.

    The score of a user is 1 - cosine of two mean vectors, of the items that it touched since and of those
    that it had touched before. It counts n / (n + ``NEIGHBORS_MIN``) times, where n is how many different
    items there are on the side that has fewer. The score of an item is 1 - cosine of its vectors in this
    generation and in the one before. Both leave out the popularity in the last channel, and nodes with fewer
    than ``NEIGHBORS_MIN`` different neighbors on a side. The distance of a behavior is the Jensen-Shannon
    divergence (base 2) of its events' items before and since, less that of the same events parted at random.
    """

    users: Moved
    items: Moved
    behaviors: dict[str, BehaviorDrift]


def drift_of(
    view: WindowView, since: Cut, cut: Cut, *, then: Published | None, now: Published | None, seed: int
) -> Drift | None:
    """What moved by the events of [since, cut); ``then`` and ``now`` have the items of the two generations.

    None if one of them is not there. It reads the interval, as many events before it, and ``HISTORY`` of each
    active node: O(interval).
    """
    if then is None or now is None:
        return None
    new, old = view.events(cut, since), before(since, cut)
    return Drift(
        _users(view, new, old, now),
        _items(view, new, old, then, now),
        _behaviors(view, new, old, np.random.default_rng((seed, *cut.next))),
    )


def _users(view: WindowView, new: Events, old: Cut, now: Published) -> Moved:
    rows, place, item = _active(new.user, new.item)
    past_place, past_item = _past(view, USER, rows, new, old)
    place, item = np.concatenate([place, past_place + len(rows)]), np.concatenate([item, past_item])
    vectors, known = now.items(item, view.row_versions(ITEM))
    sums = np.zeros((2 * len(rows), vectors.shape[1] - 1))
    np.add.at(sums, place[known], _directions(vectors[known, :-1]))
    count = np.bincount(place[known], minlength=2 * len(rows)).reshape(2, -1).min(axis=0)
    enough = count >= NEIGHBORS_MIN
    apart = _apart(sums[: len(rows)][enough], sums[len(rows) :][enough])
    return _moved(rows[enough], apart * (count / (count + NEIGHBORS_MIN))[enough])


def _items(view: WindowView, new: Events, old: Cut, then: Published, now: Published) -> Moved:
    rows, _, _ = _active(new.item, new.user)
    past_place, _ = _past(view, ITEM, rows, new, old)
    versions = view.row_versions(ITEM)
    was, had = then.items(rows, versions)
    is_now, has = now.items(rows, versions)
    enough = had & has & (np.bincount(past_place, minlength=len(rows)) >= NEIGHBORS_MIN)
    return _moved(rows[enough], _apart(was[enough, :-1], is_now[enough, :-1]))


def _behaviors(view: WindowView, new: Events, old: Cut, rng: np.random.Generator) -> dict[str, BehaviorDrift]:
    past = _newest(view, old, len(new))
    found = {}
    for r, relation in enumerate(view.relations):
        here, there = new.item[new.relation == r], past.item[past.relation == r]
        distance = float("nan")
        if min(len(here), len(there)) >= EVENTS_MIN:
            mixed = rng.permutation(np.concatenate([there, here]))
            by_chance = _divergence(mixed[: len(there)], mixed[len(there) :])
            distance = max(0.0, _divergence(there, here) - by_chance) / max(1 - by_chance, 1e-12)
        shares = (_share(len(there), len(past)), _share(len(here), len(new)))
        found[relation.name] = BehaviorDrift(*shares, distance)
    return found


def _newest(view: WindowView, old: Cut, count: int) -> Events:
    """The newest ``count`` live events of a cut by time, of as many newest arrivals of each relation."""
    nothing = tuple(max(first, next_ - count) for first, next_ in zip(old.first, old.next, strict=True))
    events = view.events(Cut(old.watermark_ms, nothing, old.next))
    start = max(0, len(events) - count)
    return Events(events.user[start:], events.item[start:], events.relation[start:], events.time_ms[start:])


def _active(nodes: U32, others: U32) -> tuple[U32, I64, U32]:
    """The nodes with enough different others, ascending, and their pairs: (place of the node, other)."""
    pairs = np.unique(nodes.astype(np.uint64) << np.uint64(32) | others)
    rows, place, count = np.unique(pairs >> np.uint64(32), return_inverse=True, return_counts=True)
    kept = count >= NEIGHBORS_MIN
    chosen = kept[place]
    at = (np.cumsum(kept) - 1)[place[chosen]]
    return rows[kept].astype(np.uint32), at, pairs[chosen].astype(np.uint32)


def _past(view: WindowView, side: int, rows: U32, new: Events, old: Cut) -> tuple[I64, U32]:
    """The different ones among the newest neighbors before the interval: (place of the node, neighbor)."""
    end_ms = int(new.time_ms[-1]) + 1 if len(new) else 0
    near = view.recent(side, rows, np.full(len(rows), end_ms, np.int64), HISTORY, old)
    real_BRK = np.arange(HISTORY) < near.count_BR[:, :, None]
    place = np.nonzero(real_BRK)[0].astype(np.uint64)
    pairs = np.unique(place << np.uint64(32) | near.neighbor_BRK[real_BRK])
    return (pairs >> np.uint64(32)).astype(np.int64), pairs.astype(np.uint32)


def stability_of(
    then: Published | None, now: Published, *, held_old: tuple[float, float], top: int
) -> Stability | None:
    """What a fit left as it was: ``then`` has the items published before it, ``now`` all that it publishes.

    ``held_old`` has the mean losses of held-out events from before the interval, before and after the fit.
    None for a first model. O(``STABLE_USERS`` · items).
    """
    if then is None:
        return None
    was, is_now = _items_of_both(then, now)
    chosen = np.linspace(0, len(now.user_rows) - 1, min(len(now.user_rows), STABLE_USERS)).astype(np.int64)
    width, overlap = min(top, len(was)), list[float]()
    at_once = max(1, SCORES_AT_ONCE // max(1, len(was)))
    for start in range(0, len(chosen) if width else 0, at_once):
        users = now.user[chosen[start : start + at_once]]
        pairs = zip(_highest(users @ was.T, width), _highest(users @ is_now.T, width), strict=True)
        overlap += [len(np.intersect1d(before, after)) / width for before, after in pairs]
    before_fit, after_fit = held_old
    return Stability(
        item_cosine=item_cosine(then, now),
        overlap=float(np.mean(overlap)) if overlap else float("nan"),
        forgetting=after_fit / before_fit - 1 if before_fit else float("nan"),
    )


def item_cosine(then: Published, now: Published) -> float:
    """Mean over the items of both generations, without the last channel; nan of none."""
    was, is_now = _items_of_both(then, now)
    return float((1 - _apart(was[:, :-1], is_now[:, :-1])).mean()) if len(was) else float("nan")


def _items_of_both(then: Published, now: Published) -> tuple[F32, F32]:
    """The vectors, then and now, of the items that both generations have."""
    _, at_then, at_now = np.intersect1d(then.item_rows, now.item_rows, return_indices=True)
    same = then.item_version[at_then] == now.item_version[at_now]
    return then.item[at_then[same]], now.item[at_now[same]]


def _highest(scores: F32, width: int) -> I64:
    """[n, width]: the places of the highest of each row of scores, in no order."""
    return np.argpartition(-scores, width - 1, axis=1)[:, :width]


def _directions(vectors: F32 | F64) -> F64:
    """Vectors of length 1; zeros stay zeros."""
    wide = vectors.astype(np.float64)
    directions: F64 = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return directions


def _apart(one: F32 | F64, other: F32 | F64) -> F64:
    """1 - cosine, row by row."""
    return np.asarray(1 - (_directions(one) * _directions(other)).sum(axis=1), np.float64)


def _divergence(one: U32, other: U32) -> float:
    """The Jensen-Shannon divergence (base 2) of two samples of items: 0 the same shares, 1 none in common."""
    items, place = np.unique(np.concatenate([one, other]), return_inverse=True)
    p = np.bincount(place[: len(one)], minlength=len(items)) / len(one)
    q = np.bincount(place[len(one) :], minlength=len(items)) / len(other)
    middle = (p + q) / 2

    def relative(share: F64) -> float:
        real = share > 0
        return float((share[real] * np.log2(share[real] / middle[real])).sum())

    return (relative(p) + relative(q)) / 2


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _moved(rows: U32, scores: F64) -> Moved:
    """The highest scores first, of equal ones the lower row."""
    best = np.argsort(-scores, kind="stable")[:TOP]
    return Moved(rows[best], scores[best], len(rows), float(np.median(scores)) if len(rows) else float("nan"))


class _Elder(NamedTuple):
    """An older generation in half precision, scaled so that no order of a user's scores changes."""

    vectors: Published
    user_share: float  # of the users, by a hash: those whose vectors are kept

    @property
    def bytes(self) -> int:
        own = self.vectors
        columns = (own.user, own.item, own.user_rows, own.item_rows, own.user_version, own.item_version)
        return sum(column.nbytes for column in columns)


class Elders:
    """The generations of the last fits, as long as they fit in ``BYTES_MAX``; an empty one after a restart.

    They are not in the trainer's saved state: eight times all vectors would have to be written at each fit.
    """

    def __init__(self) -> None:
        self._kept: deque[_Elder] = deque(maxlen=max(AGES))  # the newest last

    def keep(self, own: Published) -> None:
        """Take in what an accepted fit published."""
        share = min(1.0, USERS_MAX / max(1, len(own.user_rows)))
        chosen = _sampled(own.user_rows, own.user_version, share)
        user, item = own.user[chosen], own.item
        user = user / np.maximum(np.abs(user).max(axis=1, initial=0, keepdims=True), 1e-30)
        item = item / np.maximum(np.abs(item).max(initial=0), 1e-30)
        small = Published(
            own.user_rows[chosen],
            user.astype(np.float16),  # pyright: ignore[reportArgumentType]  # looked up as float32
            own.user_version[chosen],
            own.item_rows,
            item.astype(np.float16),  # pyright: ignore[reportArgumentType]
            own.item_version,
        )
        self._kept.append(_Elder(small, share))
        while sum(elder.bytes for elder in self._kept) > BYTES_MAX:
            self._kept.popleft()

    def curve(self, scored: Scored, view: WindowView, top: int) -> Staleness | None:
        """Rank the scored targets by the generations of ``AGES``; None where there is nothing to rank by.

        The targets are those of users whose vectors every age keeps, and ``TARGETS_MAX`` at most.
        """
        ages = {age: self._kept[-age] for age in AGES if age <= len(self._kept)}
        targets = scored.targets
        if not ages or scored.vector_ranks is None or not len(targets.events):
            return None
        user = targets.events.user
        share, versions = min(elder.user_share for elder in ages.values()), view.row_versions(USER)[user]
        chosen = np.flatnonzero(_sampled(user.astype(np.int64), versions.astype(np.int64), share))
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), TARGETS_MAX)).astype(np.int64)]
        asked = Targets(
            take(targets.events, chosen),
            targets.column[chosen],
            [targets.excluded[n] for n in chosen.tolist()],
            targets.warm[chosen],
            targets.touched[chosen],
        )
        found = {
            age: metrics_of(published_ranks(scored.past, asked, view, elder.vectors), top)
            for age, elder in ages.items()
        }
        return Staleness(len(chosen), metrics_of(scored.vector_ranks[chosen], top), found)


def _sampled(rows: I64, versions: I64, share: float) -> Mask:
    """Whether each user is in a share of all, by a hash: who is in a share is in each larger one."""
    mixed = (rows * 0x9E3779B1 + versions * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return np.asarray((mixed ^ (mixed >> 12)) < share * 2**32)
