"""Test, then train, outside of the product: events, targets, ranks and intervals of a quality benchmark.

    event file ──► [Stream] ──► targets ──► a peer's scores ──► [ranks_of] ──► metrics, paired intervals

One global clock: nothing here reads an event at or after the time that is asked for, and events of one
millisecond are no evidence for each other. N events, U users, I items, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from driftgraph.stream.arrays import F64, I64, Mask
from driftgraph.stream.kernels.compile import plain_kernel

TOP = 20
RESAMPLES = 1_000
CHUNK = 100  # resamples made at once
SECONDS_BELOW = 10**11  # larger numbers are milliseconds
ID_COLUMNS = ("user_id", "item_id", "behavior")


class Index(NamedTuple):
    """Events by user and by item, oldest first. ``item_place`` is the event's place in the users' columns."""

    user_start: I64  # [U + 1]
    user_item: I64
    user_time: I64
    user_behavior: I64
    item_start: I64  # [I + 1]
    item_user: I64
    item_time: I64
    item_place: I64


@dataclass(frozen=True, slots=True)
class Stream:
    """Events as dense numbers, in order of time; ties are in the order of the file."""

    user: I64
    item: I64
    behavior: I64
    time_ms: I64
    user_ids: list[str]
    item_ids: list[str]
    behaviors: list[str]

    def __len__(self) -> int:
        return len(self.time_ms)

    def indexed(self, kept: Mask | None = None) -> Index:
        """The events, or those of them that are kept, by user and by item."""
        at = np.arange(len(self)) if kept is None else np.flatnonzero(kept)
        user, item, time_ms, behavior = self.user[at], self.item[at], self.time_ms[at], self.behavior[at]
        by_user, by_item = np.argsort(user, kind="stable"), np.argsort(item, kind="stable")
        place = np.empty(len(at), np.int64)
        place[by_user] = np.arange(len(at))
        return Index(
            _starts(user, len(self.user_ids)), item[by_user], time_ms[by_user], behavior[by_user],
            _starts(item, len(self.item_ids)), user[by_item], time_ms[by_item], place[by_item],
        )  # fmt: skip

    def first_contacts(self) -> Mask:
        """[N] whether the event is the first one of its user and item."""
        first = np.zeros(len(self), np.bool_)
        first[np.unique(self.user * len(self.item_ids) + self.item, return_index=True)[1]] = True
        return first

    def changes(self) -> Mask:
        """[N] whether the event's item is another than that of its user's event before."""
        order = np.argsort(self.user, kind="stable")
        user, item = self.user[order], self.item[order]
        kept = np.ones(len(self), np.bool_)
        kept[order[1:]] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
        return kept


def _starts(number: I64, count: int) -> I64:
    return np.concatenate([[0], np.cumsum(np.bincount(number, minlength=count))]).astype(np.int64)


def read_stream(path: Path, relations: Sequence[str] = ()) -> Stream:
    """Read a CSV or Parquet file with the canonical columns; without ``relations`` every behavior."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
    else:
        types = dict.fromkeys(ID_COLUMNS, pa.string())
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types))
    if relations:
        table = table.filter(np.isin(table["behavior"].to_numpy(), relations))
    name = next((n for n in ("timestamp", "ts", "ts_ms") if n in table.column_names), None)
    if name is None or not set(ID_COLUMNS) <= set(table.column_names):
        raise SystemExit(f"{path} has the columns {table.column_names}: it needs {ID_COLUMNS} and timestamp")
    time = table[name].to_numpy()
    scale = 1_000 if len(time) and abs(time).max() < SECONDS_BELOW else 1
    time_ms = np.round(time * scale).astype(np.int64)
    user, item, behavior = (table[column].to_pylist() for column in ID_COLUMNS)
    return stream_of(user, item, behavior, time_ms)


def stream_of(user: Sequence[str], item: Sequence[str], behavior: Sequence[str], time_ms: I64) -> Stream:
    """Sort events by time, stably, and number their ids."""
    order = np.argsort(time_ms, kind="stable")
    columns = [pa.array(column, pa.string()).dictionary_encode() for column in (user, item, behavior)]
    rows = [column.indices.to_numpy().astype(np.int64)[order] for column in columns]
    ids = [column.dictionary.to_pylist() for column in columns]
    return Stream(rows[0], rows[1], rows[2], np.asarray(time_ms, np.int64)[order], ids[0], ids[1], ids[2])


@dataclass(frozen=True, slots=True)
class Targets:
    """What has to be foretold, ascending by time. ``window_ms`` is the start of the window that it is in.

    ``explore``: a first contact; its list leaves out what the user has touched. ``repeats``: it belongs to
    the set of all targets, whose lists may name anything that has been seen.
    """

    user: I64
    item: I64
    behavior: I64
    time_ms: I64
    window_ms: I64
    explore: Mask
    repeats: Mask
    event: I64  # its place in the stream

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: Any) -> Targets:
        """Those of a mask or of places."""
        return Targets(*(getattr(self, name)[chosen] for name in self.__slots__))

    def in_one_window(self, start_ms: int) -> Targets:
        """The same in a single window."""
        return replace(self, window_ms=np.full(len(self), start_ms))


def draw_targets(
    stream: Stream, begin_ms: int, end_ms: int, *, every_ms: int, most: int, seed: int
) -> Targets:
    """At most ``most`` first contacts and as many of all events of [begin, end), windows by ``every_ms``.

    Of events with one user, item, behavior and time only the first is a target.
    """
    rng = np.random.default_rng(seed)
    inside = (stream.time_ms >= begin_ms) & (stream.time_ms < end_ms)
    first = stream.first_contacts()
    keys = np.stack([stream.user, stream.item, stream.behavior, stream.time_ms], 1)
    once = np.zeros(len(stream), np.bool_)
    once[np.unique(keys, axis=0, return_index=True)[1]] = True
    drawn = []
    for pool in (np.flatnonzero(inside & first), np.flatnonzero(inside & once)):
        mask = np.zeros(len(stream), np.bool_)
        mask[rng.permutation(pool)[:most]] = True
        drawn.append(mask)
    return targets_at(stream, *drawn, every_ms=every_ms)


def targets_at(stream: Stream, explore: Mask, repeats: Mask, *, every_ms: int) -> Targets:
    """The events of the two masks as targets."""
    at = np.flatnonzero(explore | repeats)
    time_ms = stream.time_ms[at]
    return Targets(
        stream.user[at], stream.item[at], stream.behavior[at], time_ms,
        time_ms // every_ms * every_ms, explore[at], repeats[at], at,
    )  # fmt: skip


class Scorer(Protocol):
    """A peer with its settings. Times of its calls do not go back."""

    def retrain(self, until_ms: int) -> None:
        """Learn from the events strictly before a window's start."""

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """Write a score for each item, from events strictly before a time; −inf: it cannot tell."""


@plain_kernel
def _rank(
    index: Index, seen_I: Mask, score: F64, user: int, item: int, before_ms: int, leave_out: bool
) -> float:
    """1 for the best, ties at their mean rank, inf for an item that does not compete."""
    own = score[item]
    if not seen_I[item] or not own > -np.inf:
        return np.inf
    better, equal = 0, 0
    for i in range(len(score)):
        if seen_I[i]:
            better += score[i] > own
            equal += score[i] == own
    if leave_out:
        begin, end = index.user_start[user], index.user_start[user + 1]
        for e in range(begin, end):  # of first contacts, so each item comes once
            if index.user_time[e] >= before_ms:
                break
            i = index.user_item[e]
            if i == item:
                return np.inf
            better -= score[i] > own
            equal -= score[i] == own
    return better + (equal - 1) / 2 + 1


CLOCKS = ("event", "window")
SETS = ("explore", "repeats")
Ranks = dict[str, F64]  # [T] by set; nan: the target is not of the set


class Judge:
    """Ranks targets among the items that were seen before, and keeps what all scorers share.

    By the event clock a target is ranked by the state of its own time, by the window clock by that of its
    window's start. Scorers see the windows one after the other, so their times do not go back.
    """

    def __init__(self, stream: Stream, targets: Targets) -> None:
        self._once, self._targets = stream.indexed(stream.first_contacts()), targets
        self._first_ms = np.full(len(stream.item_ids), np.iinfo(np.int64).max)
        np.minimum.at(self._first_ms, stream.item, stream.time_ms)
        self._out = np.zeros(len(stream.item_ids))

    def windows(self) -> list[tuple[int, slice]]:
        """The windows' starts, each with the places of its targets."""
        starts, places = np.unique(self._targets.window_ms, return_index=True)
        ends = [*places[1:].tolist(), len(self._targets)]
        return [(w, slice(a, z)) for w, a, z in zip(starts.tolist(), places.tolist(), ends, strict=True)]

    def rank(
        self, scorer: Scorer, window_ms: int, places: slice, ranks: dict[str, Ranks], clocks: Sequence[str]
    ) -> None:
        """Write the ranks of one window's targets."""
        scorer.retrain(window_ms)
        part = self._targets.take(places)
        for clock in sorted(clocks, reverse=True):  # the window's state is the older one
            states = np.full(len(part), window_ms) if clock == "window" else part.time_ms
            seen_ms, seen = -1, self._first_ms < 0
            for n, (user, item, state_ms) in enumerate(
                zip(part.user.tolist(), part.item.tolist(), states.tolist(), strict=True), start=places.start
            ):
                if state_ms > seen_ms:
                    seen, seen_ms = self._first_ms < state_ms, state_ms
                asked = [(ranks[clock][name], name) for name in SETS if not np.isnan(ranks[clock][name][n])]
                if not seen[item] or not asked:  # an unknown item is a miss for every scorer
                    continue
                scorer.score(user, state_ms, self._out)
                for rank, name in asked:
                    rank[n] = _rank(self._once, seen, self._out, user, item, state_ms, name == "explore")

    def no_ranks(self, sets: Sequence[str] = SETS) -> dict[str, Ranks]:
        """By clock: misses, and nan outside of the sets that are asked for."""
        inside = {name: getattr(self._targets, name) & (name in sets) for name in SETS}
        return {
            clock: {name: np.where(one, np.inf, np.nan) for name, one in inside.items()} for clock in CLOCKS
        }


def gains_of(rank: F64) -> F64:
    """[T, 3] Recall, NDCG and MRR at 20 of each target, which has one relevant item."""
    hit = rank <= TOP
    kept = np.where(hit, rank, 1.0)
    gains: F64 = np.stack([hit.astype(np.float64), hit / np.log2(kept + 1), hit / kept], 1)
    return gains


def metrics_of(rank: F64) -> dict[str, float]:
    """The means; nan without targets."""
    means = gains_of(rank).mean(0).tolist() if len(rank) else [float("nan")] * 3
    return dict(zip(("recall_at_20", "ndcg_at_20", "mrr_at_20"), means, strict=True))


def paired_intervals(ours: F64, theirs: F64, user: I64, *, seed: int, resamples: int = RESAMPLES) -> F64:
    """[P, 2] 95 % intervals of the mean of ours − theirs, users drawn with replacement.

    Args:
        ours: [T] the gain of each target.
        theirs: [P, T] the gains of P peers on the same targets.
        user: [T] the users, who are the clusters.
        seed: Of the draws.
        resamples: How often all users are drawn.
    """
    cluster = np.unique(user, return_inverse=True)[1]
    count = int(cluster.max(initial=-1)) + 1
    if count == 0:
        return np.full((len(theirs), 2), np.nan)
    sums = np.stack([np.bincount(cluster, ours - their, count) for their in theirs])
    targets = np.bincount(cluster, minlength=count)
    rng = np.random.default_rng(seed)
    means = []
    for first in range(0, resamples, CHUNK):
        drawn = np.stack(
            [
                np.bincount(rng.integers(0, count, count), minlength=count)
                for _ in range(min(CHUNK, resamples - first))
            ]
        )
        means.append((drawn @ sums.T) / (drawn @ targets)[:, None])
    return np.asarray(np.quantile(np.concatenate(means), (0.025, 0.975), axis=0).T)
