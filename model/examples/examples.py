"""From events to batches: what one fit trains on, and what its gate is judged by.

    events of [since, cut) + replayed older ones ──► [plan] ──► batches in random order, holdouts

Within a batch, item vectors, popularity and the pool of negatives are as of the batch's earliest event, and
each user's history ends before its own event. So no example sees an event at or after the time it predicts,
and training sees items as stale as serving does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from driftgraph.model.examples.contact_kernels import Contacts, look_up_first, mark_first
from driftgraph.model.examples.popularity import Popularity, candidates
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.arrays import F32, I64, U8, U32, U64, Mask
from driftgraph.stream.kernels.hashing import GOLDEN
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Cut, Events, Relation, WindowView


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples, sorted by time, and the C distinct candidates they share."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64
    candidate_C: I64
    log_q_C: F32
    popularity_CF: F32

    @property
    def start_ms(self) -> int:
        """The time that the items are seen at."""
        return int(self.time_ms[0])


@dataclass(frozen=True, slots=True)
class Plan:
    """A fit: its batches in the order of training, and the holdouts, which no fit ever trains on."""

    batches: tuple[Batch, ...]
    held_new: tuple[Batch, ...]
    held_old: tuple[Batch, ...]
    new_count: int
    replay_count: int


def half_lives_ms(relations: Sequence[Relation], options: TrainerOptions) -> tuple[float, float]:
    """Of the fast and the slow popularity."""
    share_ms = max(r.span_ms for r in relations) * options.half_life_share
    fast_ms = min(share_ms, options.half_life_ms_max)
    return fast_ms, fast_ms * options.slow_half_life_factor


def plan(
    view: WindowView,
    since: Cut,
    cut: Cut,
    options: TrainerOptions,
    rng: np.random.Generator,
    listed: U32 | None = None,
) -> Plan:
    """Choose examples and candidates. O(live events + batches · items).

    Args:
        view: The window.
        since: The new events arrived at or after this cut,
        cut: and before this one; the older ones are live at this one too.
        options: Sizes and shares.
        rng: The only source of chance.
        listed: Items of lists; with the option negatives = "lists" half of the drawn negatives are theirs.
    """
    every, is_new = view.events_and_newness(cut, since)
    chosen = first_contacts(every) if options.first_contacts_only else np.ones(len(every), np.bool_)
    new, old = take(every, chosen & is_new), take(every, chosen & ~is_new)
    new_held, old_held = is_held(new, options), is_held(old, options)
    rounds = _rounds(take(new, ~new_held), take(old, ~old_held), view.relations, options, rng)
    parts: list[Events] = []
    order: list[I64] = []
    for fresh, replayed in rounds:
        own = _slices(fresh, options.batch_size) + _slices(replayed, options.batch_size)
        order.append(len(parts) + rng.permutation(len(own)))
        parts += own
    train_count = len(parts)
    held_new = _slices(_newest(take(new, new_held), options.holdout_max), options.holdout_max // 2)
    held_old = _slices(_smallest(take(old, old_held), options.holdout_max), options.holdout_max // 4)
    pool = np.unique(np.concatenate([part.item for part in parts])) if parts else every.item[:0]
    made = _with_candidates([*parts, *held_new, *held_old], every, view, pool, options, rng, listed)
    return Plan(
        tuple(made[i] for i in np.concatenate(order)) if order else (),
        tuple(made[train_count : train_count + len(held_new)]),
        tuple(made[train_count + len(held_new) :]),
        sum(len(fresh) for fresh, _ in rounds),
        sum(len(replayed) for _, replayed in rounds),
    )


def _rounds(
    new: Events, old: Events, relations: Sequence[Relation], options: TrainerOptions, rng: np.random.Generator
) -> list[tuple[Events, Events]]:
    """New and replayed examples of each round; the batches of a round are trained in random order.

    A fit is one round. A model that begins from nothing goes through the window in order of time, in rounds
    that are each like a later fit: the same examples in random order, four times over, overfit (docs/LOG.md).
    A small window is gone through several times.
    """
    if len(old):
        fresh = _newest(new, options.examples_max)
        return [
            (fresh, replay_sample(old, round(options.replay_ratio * len(fresh)), relations, options, rng))
        ]
    fresh = _newest(new, options.first_examples_max)
    rounds = max(1, min(options.first_rounds, len(fresh) // options.batch_size))
    bounds = np.linspace(0, len(fresh), rounds + 1).astype(np.int64).tolist()
    passes = min(options.first_passes_max, -(-options.first_examples_min // max(len(fresh), 1)))
    made = []
    for first, stop in max(passes, 1) * list(pairwise(bounds)):
        wanted = round(options.first_replay_ratio * (stop - first))
        earlier = replay_sample(take(fresh, slice(0, first)), wanted, relations, options, rng)
        made.append((take(fresh, slice(first, stop)), earlier))
    return made


def before(since: Cut, cut: Cut) -> Cut:
    """The events of ``since`` that are still there at ``cut``; never stale when ``cut`` is not."""
    first = tuple(min(a, b) for a, b in zip(cut.first, since.next, strict=True))
    return replace(since, first=first)


def first_contacts(events: Events, among: Events | None = None) -> Mask:
    """Which events are the first of their user and item ``among`` these, or of all themselves.

    ``among`` is sorted by time. What is alike the first one in relation and time is one, too. O(events).
    """
    source = events if among is None else among
    table = np.zeros(1 << max(2 * len(source) - 1, 1).bit_length(), np.uint32)
    chosen = np.zeros(len(source), np.bool_)
    mark_first(_columns(source), table, chosen)
    if among is not None:
        chosen = np.zeros(len(events), np.bool_)
        look_up_first(_columns(among), table, _columns(events), chosen)
    return chosen


def _columns(events: Events) -> Contacts:
    return Contacts(events.user, events.item, events.relation, events.time_ms)


def once(events: Events) -> Events:
    """Events without their copies: those that are alike in user, item, relation and time are one question."""
    _, index = np.unique(identity(events), return_index=True)
    return take(events, np.sort(index))


def is_held(events: Events, options: TrainerOptions) -> Mask:
    """Whether each event belongs to the holdout: a hash of the event alone, so it always does or never."""
    share: Mask = _hash(events) < np.uint64(int(options.holdout_share * 2**32))
    return share


def replay_sample(
    old: Events,
    wanted: int,
    relations: Sequence[Relation],
    options: TrainerOptions,
    rng: np.random.Generator,
) -> Events:
    """``wanted`` older events, or all there are, without repeats, the recent ones more likely.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the smallest of
    exponential(1) / weight.
    """
    wanted = min(wanted, len(old))
    if wanted == 0:
        return take(old, np.zeros(0, np.int64))
    half_life_ms = max(r.span_ms for r in relations) * options.replay_half_life_share
    age_ms = old.time_ms[-1] - old.time_ms
    key = rng.exponential(size=len(old)) * np.exp2(age_ms / half_life_ms)
    return take(old, np.sort(np.argpartition(key, wanted - 1)[:wanted]))


def _with_candidates(
    parts: list[Events],
    every: Events,
    view: WindowView,
    pool: U32,
    options: TrainerOptions,
    rng: np.random.Generator,
    listed: U32 | None,
) -> list[Batch]:
    """Walk through time once, and give each part its candidates as they were known at its start."""
    popularity = Popularity(half_lives_ms(view.relations, options), view.rows(ITEM))
    made: list[Batch | None] = [None] * len(parts)
    for i in sorted(range(len(parts)), key=lambda i: int(parts[i].time_ms[0])):
        part = parts[i]
        popularity.advance(every, int(part.time_ms[0]))
        known = pool[popularity.count[-1, pool] > 0]
        share = popularity.share(np.arange(popularity.count.shape[1]))
        hard = known[np.isin(known, listed)] if options.negatives == "lists" and listed is not None else None
        chosen, log_q = candidates(
            part.item, known, share, drawn=options.sampled_negatives, rng=rng, listed=hard
        )
        features = popularity.features(chosen)
        made[i] = Batch(part.user, part.item, part.relation, part.time_ms, chosen, log_q, features)
    return [batch for batch in made if batch is not None]


def _slices(events: Events, size: int) -> list[Events]:
    return [take(events, slice(a, a + size)) for a in range(0, len(events), max(size, 1))]


def _newest(events: Events, count: int) -> Events:
    return take(events, slice(max(len(events) - count, 0), None))


def _smallest(events: Events, count: int) -> Events:
    """The events of the smallest hashes, in order of time: the same ones as long as they live."""
    return take(events, np.sort(np.argsort(_hash(events), kind="stable")[:count]))


def take(events: Events, index: slice | Mask | I64) -> Events:
    """The events that ``index`` names, in its order."""
    return Events(events.user[index], events.item[index], events.relation[index], events.time_ms[index])


def _pair(events: Events) -> U64:
    return (events.user.astype(np.uint64) << np.uint64(32)) | events.item


def identity(events: Events) -> U64:
    """A number for (user, item, relation, time); two events that share it are alike in all that counts."""
    with np.errstate(over="ignore"):
        mixed = _pair(events) * GOLDEN
        mixed ^= events.time_ms.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        return mixed + events.relation.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)


def _hash(events: Events) -> U64:
    with np.errstate(over="ignore"):
        mixed = identity(events)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
        return mixed >> np.uint64(32)
