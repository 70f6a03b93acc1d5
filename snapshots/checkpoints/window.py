"""Checkpoints of the updater: window, remembered event ids, clock and position, all of one cut.

    Updater ──► Snapshot ──► [WindowCheckpoints.write] ──► root/{number}/ ──► [restore] ──► the next start

Files of a checkpoint, beside its manifest:
  * ``state.json``: position, watermark, where each relation's sequence numbers begin and end, where fits
    were due;
  * ``{relation}-{k}.arrow``: the events whose sequence numbers are in the k-th stretch of ``SEGMENT_EVENTS``;
  * ``rows.npz``: see ``rows``; ``item-attributes.npz``, ``user-attributes.npz``: see ``attributes``;
  * ``ids-{set}-{k}``: the hashes of event ids, 16 bytes each, in blocks of ``BLOCK_IDS``.

A full stretch and a complete set of ids do not change, so the next checkpoint links them and writes only what
is new. Ids that are in a checkpoint are freed in memory. A thread writes beside ingestion: it reads the
window as any reader does and takes no lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from driftgraph.snapshots.checkpoints import attributes, checkpoint, rows, segments
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint, Damage
from driftgraph.snapshots.checkpoints.state import Ids, KeptMark, Ring, State, has_its_owners
from driftgraph.stream.arrays import U32
from driftgraph.stream.attributes.attributes import Kept
from driftgraph.stream.ingest.dedupe import BLOCK_IDS, Deduplicator, IdSet, KeptSet
from driftgraph.stream.ingest.erased_users import NEVER_MS, ErasedUsers
from driftgraph.stream.ingest.fit_schedule import Counted, Marks
from driftgraph.stream.time.watermark import WatermarkState
from driftgraph.stream.window.adjacency import NIL
from driftgraph.stream.window.heterograph import Heterograph, HeterographView, Moment
from driftgraph.stream.window.kept_rows import KeptRows
from driftgraph.stream.window.restore import Restore
from driftgraph.stream.window.writer import StaleCut

# of one relation in a file of 1 to 2 MB; at most so many are written again each time
SEGMENT_EVENTS = 1 << 17
STATE = "state.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the updater at one cut. It is taken between two batches, without I/O."""

    moment: Moment
    position: Mapping[str, int]
    watermark: WatermarkState
    ids: tuple[IdSet, ...]  # oldest first
    topic_ids: Mapping[str, str] = field(default_factory=dict)  # of the topics in ``position``
    counted: Counted = field(default_factory=Counted)  # for the schedule of fits
    marks: Marks = field(default_factory=Marks)  # where fits were due, perhaps not made yet
    attributes: Kept | None = None
    said_by: Mapping[str, str] = field(default_factory=dict)  # the topics of attributes, and how each is read
    rows: KeptRows | None = None  # None: a start gives rows anew


class Restored(NamedTuple):
    """How many events were left out for erased users, and whether ids have the rows of before."""

    forgotten: int
    same_rows: bool


class WindowCheckpoints:
    """Writes one checkpoint after the other.

    ``before`` is the checkpoint from which the graph was restored; with ``events_anew`` none of its files of
    events is linked: the graph is without some of them, or has other rows.

    Always true: each checkpoint on disk verifies and is of one cut; the next checkpoint writes the files anew
    that have events of an erased user.
    """

    def __init__(
        self,
        root: Path,
        graph: HeterographView,
        stream: str,
        before: Checkpoint | None = None,
        *,
        events_anew: bool = False,
    ) -> None:
        self._root = root
        self._graph = graph
        self._stream = stream
        self._before = before
        self._complete = _complete(before, [r.name for r in graph.window.relations], events_anew=events_anew)
        self._ids_are_lost = False
        self._lost: dict[str, int] = {}  # erased events of each file that was written here
        self._erasures = graph.window.erasure_count
        self._number = 1 + max(checkpoint.numbers(root), default=0)

    def write(self, snapshot: Snapshot) -> Checkpoint:
        """Make one checkpoint; the docstring of ``checkpoint.write`` has the order.

        Raises:
            StaleCut: If events of the snapshot were overwritten meanwhile. The caller takes a newer one.
            CheckpointError: If the disk refuses.
        """
        erasures = self._graph.window.erasure_count
        if self._before is not None and not self._before.folder.is_dir():  # a person has removed it
            self._before, self._complete = None, set()
        first = self._first(snapshot)
        stretches = [*self._stretches(first, snapshot.moment.cut.next)]
        sets = self._available(snapshot.ids)
        blocks = [
            (f"ids-{one.number}-{k}", one, k) for one in sets for k in range(-(-one.count // BLOCK_IDS))
        ]
        final = {name for name, one, k in blocks if one.ended or (k + 1) * BLOCK_IDS <= one.count}
        full = {s.name for s in stretches if s.is_full} | final
        unchanged = full & self._complete
        if erasures != self._erasures:
            unchanged -= {s.name for s in stretches if self._is_changed(s)}

        def files() -> Iterator[tuple[str, bytes]]:
            for stretch in stretches:
                if stretch.name not in unchanged:
                    yield stretch.name, self._encoded(stretch, snapshot.moment)
            for name, one, k in blocks:
                if name not in unchanged and (pairs := one.pairs(k)) is not None:
                    yield name, pairs.tobytes()
            yield from attributes.files_of(snapshot.attributes)
            if snapshot.rows is not None:
                yield rows.NAME, rows.file_of(snapshot.rows)
            yield STATE, msgspec.json.format(msgspec.json.encode(self._state(snapshot, first, sets)))

        facts = {"watermark_ms": snapshot.moment.cut.watermark_ms}
        written = checkpoint.write(
            self._root, self._number, files(), facts, before=self._before, unchanged=unchanged
        )
        self._before, self._complete, self._erasures = written, full, erasures
        for name, one, k in blocks:
            if name in final:
                one.blocks[k].pairs = None
        self._number += 1
        return written

    def _available(self, sets: tuple[IdSet, ...]) -> list[IdSet]:
        """The newest sets whose ids are all in memory or in the previous checkpoint."""
        found: list[IdSet] = []
        for one in reversed(sets):
            if any(
                block.pairs is None and not self._has(one.number, k) for k, block in enumerate(one.blocks)
            ):
                if not self._ids_are_lost:
                    log.error(
                        "the files of the last checkpoint were removed: a start from the next ones does not "
                        "know the event ids of before, and a redelivery of those would count twice then"
                    )
                self._ids_are_lost = True
                break
            found.insert(0, one)
        return found

    def _has(self, number: int, block: int) -> bool:
        return f"ids-{number}-{block}" in self._complete

    def _first(self, snapshot: Snapshot) -> list[int]:
        """The oldest event to keep of each relation: of the window, or of a fit that may still be made.

        Some events of the cut at which a fit was due have expired by now, as by the event behind it. The ring
        has them as long as nothing overwrites them, so a start makes the fit that was not made before.
        """
        first, marks = [*snapshot.moment.cut.first], snapshot.marks
        if snapshot.rows is None:
            return first
        for mark in {marks.regular, marks.newest(has_model=False)}:
            if mark is not None and has_its_owners(mark, snapshot.moment.versions):
                with suppress(StaleCut):
                    self._graph.window.check(mark.cut)
                    first = [min(one) for one in zip(first, mark.cut.first, strict=True)]
        return first

    def _state(self, snapshot: Snapshot, first: list[int], sets: list[IdSet]) -> State:
        cut, view = snapshot.moment.cut, self._graph.window
        return State(
            stream=self._stream,
            history=view.history,
            position=dict(snapshot.position),
            watermark_ms=snapshot.watermark.value_ms,
            high_ms=dict(snapshot.watermark.high_ms),
            relations=tuple(
                Ring(relation.name, oldest, next_, relation.span_ms)
                for relation, oldest, next_ in zip(view.relations, first, cut.next, strict=True)
            ),
            ids=tuple(Ids(one.number, one.started_ms, one.count, one.newest_ms) for one in sets),
            topic_ids=dict(snapshot.topic_ids),
            seen_ms=dict(snapshot.watermark.seen_ms),
            wall_ms=snapshot.watermark.wall_ms,
            away_since_ms=snapshot.watermark.away_since_ms,
            counted=snapshot.counted,
            regular_mark=KeptMark.of(snapshot.marks.regular, snapshot.moment.versions),
            early_mark=KeptMark.of(snapshot.marks.early, snapshot.moment.versions),
            said_by=dict(snapshot.said_by),
        )

    def _stretches(self, first: Sequence[int], next_: Sequence[int]) -> Iterator[_Stretch]:
        for r, (oldest, end) in enumerate(zip(first, next_, strict=True)):
            for k in range(oldest // SEGMENT_EVENTS, -(-end // SEGMENT_EVENTS) if end > oldest else 0):
                start, stop = k * SEGMENT_EVENTS, min((k + 1) * SEGMENT_EVENTS, end)
                yield _Stretch(f"{r}-{k}.arrow", r, start, max(start, oldest), stop)

    def _is_changed(self, stretch: _Stretch) -> bool:
        """Whether events of a stretch were erased since its file was written; not known for the oldest."""
        if stretch.begin > stretch.start:
            return True
        user, _, _ = self._graph.window.arrivals(stretch.relation, stretch.begin, stretch.stop)
        return _lost_count(user) != self._lost.get(stretch.name)

    def _encoded(self, stretch: _Stretch, moment: Moment) -> bytes:
        user, _, _ = self._graph.window.arrivals(stretch.relation, stretch.begin, stretch.stop)
        self._lost[stretch.name] = _lost_count(user)  # before the events, so that a later erasure is noticed
        events = self._graph.arrivals(stretch.relation, stretch.begin, stretch.stop, moment)
        return segments.encode(events.behind(stretch.begin - stretch.start))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The part of a relation's sequence numbers that is in one file."""

    name: str
    relation: int
    start: int
    begin: int  # the first event to keep: ``start``, except in the oldest stretch
    stop: int

    @property
    def is_full(self) -> bool:
        return self.stop - self.start == SEGMENT_EVENTS


def latest(
    root: Path, stream: str, *, is_ours: bool = True
) -> tuple[Checkpoint | None, State | None, list[Damage]]:
    """The newest checkpoint of this stream that verifies, its state, and the damage of newer ones.

    Checkpoints of another topic or shard are passed over. The root is not ours where an updater may work.
    """
    found, damaged = checkpoint.latest(root, lambda one: _state_of(one).stream == stream, is_ours=is_ours)
    return found, None if found is None else _state_of(found), damaged


def restore(
    found: Checkpoint, state: State, graph: Heterograph, dedupe: Deduplicator, erased: ErasedUsers
) -> Restored:
    """Fill a new graph and a new deduplicator with the events and ids of the checkpoint.

    A relation that the configuration no longer has is left out. A relation whose ring is smaller now gets
    its newest events. Of a user who was erased since, only newer events come back.

    Raises:
        IdTableFullError: If there are more users or items than the configuration allows.
    """
    ring_of = {ring.name: (index, ring) for index, ring in enumerate(state.relations)}
    relations = graph.window.relations
    begins = [
        max(ring_of[r.name][1].first, ring_of[r.name][1].next - r.capacity) if r.name in ring_of else 0
        for r in relations
    ]
    anew, forgotten = Restore(graph, begins, rows.read(found, erased)), 0
    for r, relation in enumerate(relations):
        if relation.name not in ring_of:
            continue
        index, ring = ring_of[relation.name]
        for k in range(begins[r] // SEGMENT_EVENTS, -(-ring.next // SEGMENT_EVENTS)):
            if begins[r] >= ring.next:
                continue
            events = segments.decode(found.read(f"{index}-{k}.arrow"))
            events = events.since(max(0, begins[r] - k * SEGMENT_EVENTS))
            # lost events have user 0, even if there are no users
            reach_ms = np.append(erased.reach_ms(events.users), NEVER_MS)
            gone = ~events.lost & (events.time_ms <= reach_ms[events.user])
            forgotten += int(np.count_nonzero(gone))
            anew.events(r, events.without(gone))
    anew.end(state.watermark_ms)
    dedupe.restore([_kept_set(found, ids) for ids in state.ids if ids.count or ids is state.ids[-1]])
    return Restored(forgotten, anew.same_rows)


def _kept_set(found: Checkpoint, ids: Ids) -> KeptSet:
    def read(block: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        return np.frombuffer(found.read(f"ids-{ids.number}-{block}"), np.uint64).reshape(-1, 2)

    return KeptSet(ids.number, ids.started_ms, ids.newest_ms, ids.count, read)


def _complete(before: Checkpoint | None, relations: list[str], *, events_anew: bool) -> set[str]:
    """The files of a checkpoint that never change.

    Files of events are among them only if the relations, whose names they have, are the same, and if they
    have rows.
    """
    if before is None:
        return set()
    state = _state_of(before)
    found = {
        f"ids-{ids.number}-{k}"
        for place, ids in enumerate(state.ids)
        for k in range(-(-ids.count // BLOCK_IDS))
        if place < len(state.ids) - 1 or (k + 1) * BLOCK_IDS <= ids.count
    }
    if not events_anew and rows.NAME in before.files and [ring.name for ring in state.relations] == relations:
        found |= {
            f"{r}-{k}.arrow"
            for r, ring in enumerate(state.relations)
            for k in range(ring.first // SEGMENT_EVENTS, ring.next // SEGMENT_EVENTS)
        }
    return found & before.files.keys()


def _state_of(found: Checkpoint) -> State:
    return msgspec.json.decode(found.read(STATE), type=State)


def _lost_count(user: U32) -> int:
    return int(np.count_nonzero(user == NIL))
