"""Checkpoints of the updater: window, remembered event ids, clock and position, all of one cut.

    Updater ──► Snapshot ──► [WindowCheckpoints.write] ──► root/{number}/ ──► [restore] ──► the next start

Files of a checkpoint, beside its manifest:
  * ``state.json``: position, watermark, where each relation's sequence numbers begin and end;
  * ``{relation}-{k}.arrow``: the events whose sequence numbers are in the k-th stretch of ``SEGMENT_EVENTS``;
  * ``ids-{set}-{k}``: the hashes of event ids, 16 bytes each, likewise.

A full stretch does not change, so the next checkpoint links it, and a checkpoint costs what is new. Writing
goes on beside ingestion: it reads the window as any reader does and takes no lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from driftgraph.snapshots import checkpoint, segments
from driftgraph.snapshots.checkpoint import Checkpoint, Damage
from driftgraph.stream.adjacency import NIL
from driftgraph.stream.clock import WatermarkState
from driftgraph.stream.dedupe import Deduplicator, IdSet
from driftgraph.stream.erased_users import NEVER_MS, ErasedUsers
from driftgraph.stream.events import U32
from driftgraph.stream.heterograph import Heterograph, HeterographView, Moment
from driftgraph.stream.mapped import ANEW, Life

SEGMENT_EVENTS = 1 << 17  # of one relation in a file: 1 to 2 MB, and what is written again each time at most
STATE = "state.json"
LIVES_MAX = 64  # of a window; a trainer's checkpoint from before them has no place in it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the updater holds at one cut; taken between two batches, in no time."""

    moment: Moment
    position: Mapping[str, int]
    watermark: WatermarkState
    ids: tuple[IdSet, IdSet]  # previous, current
    topic_ids: Mapping[str, str] = field(default_factory=dict)  # of the topics that ``position`` is of


class _Ring(msgspec.Struct, frozen=True):
    name: str
    first: int
    next: int
    span_ms: int = 0  # older states do not say it


class _Ids(msgspec.Struct, frozen=True):
    number: int
    started_ms: int
    count: int


class State(msgspec.Struct, frozen=True):
    """``state.json``."""

    stream: str  # what is read: a checkpoint of another stream is of no use
    history: tuple[Life, ...]
    position: dict[str, int]
    watermark_ms: int
    high_ms: dict[int, int]
    relations: tuple[_Ring, ...]
    ids: tuple[_Ids, _Ids]
    topic_ids: dict[str, str] = {}  # none in a checkpoint from before there were any

    @property
    def watermark(self) -> WatermarkState:
        """For a ``Watermark`` that goes on."""
        return WatermarkState(self.watermark_ms, self.high_ms)

    def lives(self, relations: Sequence[str]) -> tuple[Life, ...]:
        """Whose sequence numbers a window of these relations has that goes on from here, matched by name."""
        then = {ring.name: r for r, ring in enumerate(self.relations)}
        ended = Life(self.history[-1].id, tuple(ring.next for ring in self.relations))
        return tuple(
            Life(one.id, tuple(one.until[then[name]] if name in then else ANEW for name in relations))
            for one in (*self.history[-LIVES_MAX:-1], ended)
            if one.until is not None
        )


class WindowCheckpoints:
    """Writes one checkpoint after the other.

    Always true: what is on disk verifies and is of one cut; the files of an erased user's events are written
    anew by the next checkpoint.
    """

    def __init__(
        self, root: Path, graph: HeterographView, stream: str, before: Checkpoint | None = None
    ) -> None:
        self._root = root
        self._graph = graph
        self._stream = stream
        self._before = before
        self._complete = _complete(before, [r.name for r in graph.window.relations])
        self._lost: dict[str, int] = {}  # erased events of each file that was written here
        self._erasures = graph.window.erasure_count
        self._number = 1 + max(checkpoint.numbers(root), default=0)

    def write(self, snapshot: Snapshot) -> Checkpoint:
        """Make one checkpoint; the docstring of ``checkpoint.write`` has the order.

        Raises:
            StaleCut: Events of the snapshot were overwritten meanwhile; take a newer one.
            CheckpointError: The disk refuses.
        """
        erasures = self._graph.window.erasure_count
        stretches = [*self._stretches(snapshot.moment)]
        ids = [
            (f"ids-{one.number}-{k}", one, k)
            for one in snapshot.ids
            for k in range(-(-one.count // SEGMENT_EVENTS))
        ]
        full = {s.name for s in stretches if s.is_full}
        full |= {name for name, one, k in ids if (k + 1) * SEGMENT_EVENTS <= one.count}
        unchanged = full & self._complete
        if erasures != self._erasures:
            unchanged -= {s.name for s in stretches if self._is_changed(s)}

        def files() -> Iterator[tuple[str, bytes]]:
            for stretch in stretches:
                if stretch.name not in unchanged:
                    yield stretch.name, self._encoded(stretch, snapshot.moment)
            for name, one, k in ids:
                if name not in unchanged:
                    yield name, one.pairs(k * SEGMENT_EVENTS, (k + 1) * SEGMENT_EVENTS).tobytes()
            yield STATE, msgspec.json.format(msgspec.json.encode(self._state(snapshot)))

        facts = {"watermark_ms": snapshot.moment.cut.watermark_ms}
        written = checkpoint.write(
            self._root, self._number, files(), facts, before=self._before, unchanged=unchanged
        )
        self._before, self._complete, self._erasures = written, full, erasures
        self._number += 1
        return written

    def _state(self, snapshot: Snapshot) -> State:
        cut, view = snapshot.moment.cut, self._graph.window
        return State(
            stream=self._stream,
            history=view.history,
            position=dict(snapshot.position),
            watermark_ms=snapshot.watermark.value_ms,
            high_ms=dict(snapshot.watermark.high_ms),
            relations=tuple(
                _Ring(relation.name, first, next_, relation.span_ms)
                for relation, first, next_ in zip(view.relations, cut.first, cut.next, strict=True)
            ),
            ids=(_ids(snapshot.ids[0]), _ids(snapshot.ids[1])),
            topic_ids=dict(snapshot.topic_ids),
        )

    def _stretches(self, moment: Moment) -> Iterator[_Stretch]:
        for r, (first, next_) in enumerate(zip(moment.cut.first, moment.cut.next, strict=True)):
            for k in range(first // SEGMENT_EVENTS, -(-next_ // SEGMENT_EVENTS) if next_ > first else 0):
                start, stop = k * SEGMENT_EVENTS, min((k + 1) * SEGMENT_EVENTS, next_)
                yield _Stretch(f"{r}-{k}.arrow", r, start, max(start, first), stop)

    def _is_changed(self, stretch: _Stretch) -> bool:
        """Whether events of it were erased since its file was written; of the oldest nobody knows it."""
        if stretch.begin > stretch.start:
            return True
        user, _, _ = self._graph.window.arrivals(stretch.relation, stretch.begin, stretch.stop)
        return _lost_count(user) != self._lost.get(stretch.name)

    def _encoded(self, stretch: _Stretch, moment: Moment) -> bytes:
        user, _, _ = self._graph.window.arrivals(stretch.relation, stretch.begin, stretch.stop)
        self._lost[stretch.name] = _lost_count(user)  # before the events: an erasure in between is seen later
        events = self._graph.arrivals(stretch.relation, stretch.begin, stretch.stop, moment)
        return segments.encode(events.behind(stretch.begin - stretch.start))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The part of a relation's sequence numbers that is in one file."""

    name: str
    relation: int
    start: int
    begin: int  # the first that the window still holds: ``start`` but for the oldest
    stop: int

    @property
    def is_full(self) -> bool:
        return self.stop - self.start == SEGMENT_EVENTS


def latest(root: Path, stream: str) -> tuple[Checkpoint | None, State | None, list[Damage]]:
    """The newest checkpoint of this stream that verifies, what it says, and what is damaged.

    Of another topic or shard there may be one; it is passed over.
    """
    found, damaged = checkpoint.latest(root, lambda one: _state_of(one).stream == stream)
    return found, None if found is None else _state_of(found), damaged


def restore(
    found: Checkpoint, state: State, graph: Heterograph, dedupe: Deduplicator, erased: ErasedUsers
) -> int:
    """Fill a new graph and a new deduplicator with what they held at the checkpoint's cut.

    A relation that the configuration no longer has is left out; of one whose ring is smaller now the newest
    events come back. Of who was erased since, only what is newer.

    Returns:
        How many events were left out for erased users.

    Raises:
        IdTableFullError: More users or items than the configuration allows.
    """
    ring_of = {ring.name: (index, ring) for index, ring in enumerate(state.relations)}
    relations = graph.window.relations
    begins = [
        max(ring_of[r.name][1].first, ring_of[r.name][1].next - r.capacity) if r.name in ring_of else 0
        for r in relations
    ]
    graph.window.begin(begins)
    forgotten = 0
    for r, relation in enumerate(relations):
        if relation.name not in ring_of:
            continue
        index, ring = ring_of[relation.name]
        for k in range(begins[r] // SEGMENT_EVENTS, -(-ring.next // SEGMENT_EVENTS)):
            if begins[r] >= ring.next:
                continue
            events = segments.decode(found.read(f"{index}-{k}.arrow"))
            events = events.since(max(0, begins[r] - k * SEGMENT_EVENTS))
            reach_ms = np.append(erased.reach_ms(events.users), NEVER_MS)  # the places of lost ones are 0
            gone = ~events.lost & (events.time_ms <= reach_ms[events.user])
            forgotten += int(np.count_nonzero(gone))
            graph.restore(r, events.without(gone))
    graph.restored(state.watermark_ms)
    previous, current = ((ids.number, ids.started_ms, _pairs(found, ids)) for ids in state.ids)
    dedupe.restore(previous, current)
    return forgotten


def _pairs(found: Checkpoint, ids: _Ids) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    parts = [found.read(f"ids-{ids.number}-{k}") for k in range(-(-ids.count // SEGMENT_EVENTS))]
    return np.frombuffer(b"".join(parts), np.uint64).reshape(-1, 2)


def _complete(before: Checkpoint | None, relations: list[str]) -> set[str]:
    """The files of a checkpoint that never change; none if its relations, and so the names, are others."""
    if before is None:
        return set()
    state = _state_of(before)
    if [ring.name for ring in state.relations] != relations:
        return set()
    ends = {str(r): ring.next for r, ring in enumerate(state.relations)}
    ends |= {f"ids-{ids.number}": ids.count for ids in state.ids}
    return {
        name
        for name in before.files
        if name != STATE
        and (int(name.removesuffix(".arrow").rpartition("-")[2]) + 1) * SEGMENT_EVENTS
        <= ends[name.rpartition("-")[0]]
    }


def _state_of(found: Checkpoint) -> State:
    return msgspec.json.decode(found.read(STATE), type=State)


def _ids(one: IdSet) -> _Ids:
    return _Ids(one.number, one.started_ms, one.count)


def _lost_count(user: U32) -> int:
    return int(np.count_nonzero(user == NIL))
