"""Keeps what was published fresh: new vectors and lists of the users and items that events have touched.

    window ──► [Refresher.round] ──► GenerationStore ──► readers
    Worker.publish ──► Serving ──► [GenerationRefresh] ──┘ handed over by one reference, at the switch

In the live worker a thread of its own makes the rounds (``refresh_thread``), so that neither a fit nor an
evaluation nor the writing of the next generation delays one. Nothing is shared with the trainer: a
``Serving`` has copies.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from driftgraph.app.console.worker_socket import NoAnswerError
from driftgraph.app.publishing.by_id import items_by_id, users_by_id
from driftgraph.app.publishing.due import NOBODY_WAITS, Due
from driftgraph.app.publishing.freshness import Freshness
from driftgraph.app.publishing.served_items import ServedItems, have_moved
from driftgraph.model.examples.popularity import Popularity
from driftgraph.model.heads.head_parts import ServedHeads
from driftgraph.model.network.embed import newest_events
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.network.served_model import ServedModel
from driftgraph.model.options import ListLengths
from driftgraph.model.score.lists import ListMaker, popularity_users
from driftgraph.snapshots.generations.keys import NotCurrentError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.arrays import F32, I64, U32, Mask
from driftgraph.stream.time.clock import Clock
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import Cut

USERS_AT_ONCE: Final = 1_024  # a round takes .2 s of a core, so that whoever acts now waits no longer
ITEMS_AT_ONCE: Final = 256
ROUND_WITHIN_S: Final = 5.0  # a question waits so long for the end of a round
ITEMS_EVERY_MS: Final = 1_000  # known items are looked at so often; new ones in each round

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """What a generation was made of, as its refresh needs it; no fit changes any of it.

    ``lists`` makes the maker of lists, None where the generation has none. Events before ``upto`` are in the
    generation, and users without an event if their rows are of these versions, ``cold_users``.
    """

    number: int
    dim: int
    model: ServedModel | None  # None: lists that no model made
    heads: ServedHeads | None
    lists: Callable[[Moment], ListMaker] | None
    upto: Cut
    cold_users: U32
    items: ServedItems


class Round(NamedTuple):
    """What one round did: users and items written, and how many wait for the next."""

    users: int = 0
    items: int = 0
    waiting: int = 0


class GenerationRefresh:
    """Refreshes one generation; one thread at a time uses it.

    Always true: an event before ``upto`` is in what Redis has, or its user is due. So what Redis refused is
    made good by a later round, and nothing is forgotten by a cut that moves on.
    """

    def __init__(self, serving: Serving, graph: HeterographView, lengths: ListLengths) -> None:
        self.serving = serving
        self.upto, self.cold_users = serving.upto, serving.cold_users
        self._graph, self._lengths = graph, lengths
        self._users, self._items = Due(), Due()
        self._lists: ListMaker | None = None
        self._popularity: Popularity | None = None
        self._looked_ms = 0  # at known items

    def see(self, moment: Moment, counted: Cut | None = None, received_ms: int = 0) -> None:
        """Let everybody wait whom events up to a moment have touched. Those behind ``counted`` are counted.

        Raises:
            StaleCut: Events of the moment were overwritten meanwhile; nothing has changed.
        """
        view, cut = self._graph.edges, moment.cut
        events = view.events(cut, self.upto)
        untold = None if counted is None else events if counted == self.upto else view.events(cut, counted)
        rows, newest_ms = newest_events(events.user, events.time_ms)
        item_rows, item_newest_ms = newest_events(events.item, events.time_ms)
        model = self.serving.model
        if model is not None:
            before_ms, versions = now_ms(view, cut), moment.versions
            cold = model.cold.without_events(USER, versions[USER], rows, before_ms)
            cold = cold[_others(cold, self.cold_users, versions[USER])]
            told = model.cold.without_events(ITEM, versions[ITEM], item_rows, before_ms)
            told = told[self.serving.items.is_new(told, versions[ITEM])]
            self._users.add(cold, np.zeros(len(cold), np.int64))
            self._items.add(told, np.zeros(len(told), np.int64))
            self._items.add(item_rows, item_newest_ms)
            if self._popularity is not None:
                self._popularity.go_on(events.item, events.time_ms, int(events.time_ms.max(initial=0)) + 1)
        if any(self.upto.next):
            _, first = np.unique(events.user, return_index=True)
            self._users.add(rows, newest_ms, events.time_ms[first])
        else:  # of a generation that an earlier process published: everybody
            self._users.add(rows, newest_ms)
        if untold is not None:
            told_rows, first = np.unique(untold.user, return_index=True)
            received = np.full(len(told_rows), received_ms, np.int64)
            self._users.add_waiting(told_rows, untold.time_ms[first], received)
        self.upto, self.cold_users = cut, moment.versions[USER]

    def take_over(self, former: GenerationRefresh, now_ms: int, freshness: Freshness) -> None:
        """Those who waited for the refresh of the generation before keep their place in line."""
        freshness.served(now_ms, *self._users.take_over(former._users))

    def again(self, users: Sequence[str], moment: Moment) -> None:
        """Let these users wait, as far as the window has them. O(window)."""
        known = {row for row in self._graph.rows_of(USER, users, moment) if row is not None}
        rows = np.array(sorted(known), np.uint32)
        if len(rows):
            events = self._graph.edges.events(moment.cut)
            mine = np.isin(events.user, rows)
            self._users.add(rows, np.zeros(len(rows), np.int64))
            self._users.add(*newest_events(events.user[mine], events.time_ms[mine]))

    def round(
        self, moment: Moment, store: GenerationStore, clock: Clock, freshness: Freshness | None = None
    ) -> Round:
        """Write ``USERS_AT_ONCE`` of the users who wait, who acted before those of a backlog, and items.

        Who acted while the generation was made has acted, also if the generation before had it.

        Raises:
            StaleCut: Events of the moment were overwritten meanwhile. All of them wait on.
            StoreError: Redis did not take them. All of them wait on.
        """
        users = self._write_users(moment, store, clock, freshness)
        items = 0 if self.serving.model is None else self._write_items(moment, store, clock.now_ms())
        return Round(users, items, len(self._users))

    def whole(self, moment: Moment, store: GenerationStore, clock: Clock) -> int:
        """Rounds at one moment until nobody waits; how many users there were. Raises as ``round``."""
        self.see(moment)
        self._looked_ms, total = 0, 0
        while (done := self.round(moment, store, clock)).users or done.items:
            self._looked_ms, total = 0, total + done.users
        return total

    def _write_users(
        self, moment: Moment, store: GenerationStore, clock: Clock, freshness: Freshness | None
    ) -> int:
        due, serving, graph = self._users, self.serving, self._graph
        places = due.places(self._is_settled(USER, due.rows, moment), USERS_AT_ONCE)
        if not len(places):
            return 0
        rows = due.rows[places]
        times_ms = np.maximum(due.newest_ms[places] + 1, now_ms(graph.edges, moment.cut))
        if serving.model is None:
            vectors = popularity_users(len(rows), serving.dim)
        else:
            vectors = serving.model.users(graph.edges, rows, moment.cut, times_ms)
        heads = None
        if serving.heads is not None:
            heads = serving.heads.users_later(graph.window, rows, times_ms, moment.cut)
        lists = self.list_maker(moment) if self._lengths.lists else None
        users = users_by_id(
            graph, rows, vectors, moment, times_ms, lists, repeats=self._lengths.repeats, heads=heads
        )
        store.refresh(serving.number, users)
        told = due.event_ms[places] != NOBODY_WAITS
        if freshness is not None and told.any():
            freshness.served(clock.now_ms(), due.event_ms[places][told], due.received_ms[places][told])
        due.remove(places)
        return len(places)

    def _write_items(self, moment: Moment, store: GenerationStore, time_ms: int) -> int:
        """New items, and known ones whose vector has moved; these once in ``ITEMS_EVERY_MS``."""
        due, served, versions = self._items, self.serving.items, moment.versions[ITEM]
        new = served.is_new(due.rows, versions)
        wanted = self._is_settled(ITEM, due.rows, moment)
        if time_ms - self._looked_ms < ITEMS_EVERY_MS:
            wanted &= new
        else:
            self._looked_ms = time_ms
        places = due.places(wanted, ITEMS_AT_ONCE)
        if not len(places):
            return 0
        rows, new = due.rows[places], new[places]
        vectors = self._item_vectors(rows, new, moment)
        written = new.copy()
        written[~new] = have_moved(served.vectors(rows[~new]), vectors[~new])
        self.put_items(
            rows[written & ~new],
            vectors[written & ~new],
            due.newest_ms[places][written & ~new],
            moment,
            store,
        )
        self.put_items(
            rows[new], vectors[new], due.newest_ms[places][new], moment, store, self.list_maker(moment)
        )
        due.remove(places)
        return len(places)

    def put_items(
        self,
        rows: U32,
        vectors: F32,
        event_ms: I64,
        moment: Moment,
        store: GenerationStore,
        maker: ListMaker | None = None,
    ) -> None:
        """Write items, with the similar ones of each if there is a ``maker``, and tell the lists of them."""
        if not len(rows):
            return
        lists = self.list_maker(moment)
        if lists is not None:
            lists.follow(moment)
            lists.put(rows, vectors)
        similar, model = maker if self._lengths.similar else None, self.serving.model
        said = None if model is None else model.cold.item_attributes
        made = items_by_id(self._graph, rows, vectors, moment, event_ms, similar, said=said)
        store.refreshes.items(self.serving.number, made)
        self.serving.items.put(rows, vectors, moment.versions[ITEM])

    def _item_vectors(self, rows: U32, new: Mask, moment: Moment) -> F32:
        """[n, D] as of now, with the popularity channel of the publish: readers compare it between items."""
        model, served, view = self.serving.model, self.serving.items, self._graph.edges
        assert model is not None
        if self._popularity is None:
            events = view.events(moment.cut)
            self._popularity = model.popularity(view)
            self._popularity.go_on(events.item, events.time_ms, int(events.time_ms.max(initial=0)) + 1)
        time_ms, as_published = now_ms(view, moment.cut), ~new
        as_published[~new] = served.with_events(rows[~new])
        vectors = np.empty((len(rows), self.serving.dim), np.float32)
        vectors[as_published] = model.items(view, rows[as_published], moment.cut, time_ms, self._popularity)
        vectors[~as_published] = model.new_items(view, rows[~as_published], moment.cut, time_ms)
        vectors[~new, -1] = served.vectors(rows[~new])[:, -1]
        vectors[new, -1] = served.bias_of_new
        return vectors

    def list_maker(self, moment: Moment) -> ListMaker | None:
        """What makes the lists, from the first question on; None where the generation has none."""
        if self._lists is None and self.serving.lists is not None:
            self._lists = self.serving.lists(moment)
        return self._lists

    def _is_settled(self, side: int, rows: U32, moment: Moment) -> Mask:
        """[n] whether the owner of a row is the one of the moment, or nobody.

        A row that got its owner between the owners of a moment and its cut has no name at it: it waits.
        """
        now, then = self._graph.window.row_versions(side), moment.versions[side]
        settled = rows < len(then)
        settled[settled] = (now[rows[settled]] == then[rows[settled]]) | (now[rows[settled]] % 2 == 0)
        return settled


class Refresher:
    """Refreshes the newest generation that it was given, into that generation only.

    Always true: no user comes back by a refresh that began before an erasure, since an erasure and a round
    exclude each other; a generation that is not served any more is left alone.
    """

    def __init__(self, graph: HeterographView, store: GenerationStore, clock: Clock) -> None:
        self.graph, self.store = graph, store
        self.freshness = Freshness()
        self._clock = clock
        self._lock = threading.Lock()  # a round, or an erasure
        self._kept: GenerationRefresh | None = None
        self._former = deque[GenerationRefresh]()  # given up; who waited for them is not taken over yet
        self._counted: Cut | None = (
            None  # events before it are in ``freshness``, or are older than this process
        )
        self._seen_ms = 0  # when ``_counted`` was the newest cut: what is behind it was received since then
        self._rests = False  # the generation was not the served one when it was last written
        self._done = Round()  # users and items since the start, and who waits now

    def facts(self) -> dict[str, Any]:
        """For the status file."""
        number = 0 if self._rests else self.number
        return {"generation": number, **self._done._asdict(), "freshness": self.freshness.facts()}

    @property
    def number(self) -> int:
        """The generation that is refreshed; 0 for none."""
        kept = self._kept
        return 0 if kept is None else kept.serving.number

    def serve(self, kept: GenerationRefresh | None) -> None:
        """From the next round on, refresh this generation; None: none. Returns at once."""
        if kept is not self._kept:
            if self._counted is None and kept is not None and any(kept.upto.next):
                self._counted = kept.upto
            if self._kept is not None:
                self._former.append(self._kept)
            self._kept, self._rests = kept, False

    def round(self, moment: Moment) -> Round:
        """One round as of a moment.

        Raises:
            NotCurrentError: Another generation is served. The next rounds look whether this one is again.
            StaleCut, StoreError: As ``GenerationRefresh.round``.
        """
        with self._lock:
            kept = self._kept
            if kept is None:
                return Round()
            if self._rests and not self.store.refreshes.is_served(kept.serving.number):
                return Round()
            counted, seen_ms = self._counted or moment.cut, self._clock.now_ms()
            try:
                kept.see(moment, counted, self._seen_ms or seen_ms)
                self._counted, self._seen_ms = moment.cut, seen_ms
                while self._former and self._former[0] is not kept:  # which it is if it is given up right now
                    kept.take_over(self._former.popleft(), seen_ms, self.freshness)
                done = kept.round(moment, self.store, self._clock, self.freshness)
            except NotCurrentError:  # who waits is counted by the refresh of the next generation
                self._rests, self._counted = kept is self._kept, counted
                raise
            self._rests = False
            self._done = Round(self._done.users + done.users, self._done.items + done.items, done.waiting)
            return done

    def whole(self, moment: Moment) -> int:
        """Rounds until nobody waits, for a process of one thread. Raises as ``round``."""
        with self._lock:
            return 0 if self._kept is None else self._kept.whole(moment, self.store, self._clock)

    def erase(self, users: Sequence[str], erase: Callable[[], None]) -> None:
        """Call ``erase`` between two rounds. Who of the users is back in the window is written once more.

        Raises whatever ``erase`` does.
        """
        with self._lock:
            erase()
            if self._kept is not None:
                self._kept.again(users, self.graph.moment())

    @contextmanager
    def switching_to(self, kept: GenerationRefresh) -> Iterator[None]:
        """No round goes on or begins inside; those behind it refresh ``kept``, unless an error leaves it."""
        with self._lock:
            yield
            self.serve(kept)

    @contextmanager
    def between_rounds(self, generation: int) -> Iterator[GenerationRefresh]:
        """The refresh of a generation, which no round uses meanwhile.

        Raises:
            NoAnswerError: Another generation is refreshed, or a round takes too long.
        """
        if not self._lock.acquire(timeout=ROUND_WITHIN_S):
            raise NoAnswerError("the worker is busy with users who wait for their lists; ask again later")
        try:
            if self._kept is None or self._rests or self.number != generation:
                raise NoAnswerError(f"generation {generation} is not the one that the worker refreshes now")
            yield self._kept
        finally:
            self._lock.release()


def _others(rows: U32, then: U32, now: U32) -> Mask:
    """[n] whether each row has another owner now than then."""
    known = np.zeros(len(now), np.uint32)
    known[: len(then)] = then[: len(known)]
    other: Mask = known[rows] != now[rows]
    return other
