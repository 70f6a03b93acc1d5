"""The watermark of a stream: how far event time has come, by the events and by the silence between them.

EventBatch.time_ms, wall clock ──► [Watermark] ──► lateness, window.expire
                                       └─ state ──► checkpoint ──► the next start
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from driftgraph.stream.arrays import I32, I64, Mask
from driftgraph.stream.time import time_kernels
from driftgraph.stream.time.clock import Clock
from driftgraph.stream.time.time_text import TIME_MS_MAX


@dataclass(frozen=True, slots=True)
class WatermarkRules:
    """How event time advances. Each default suits events sent by phones and browsers as they happen."""

    out_of_orderness_ms: int = (
        60_000  # the watermark stays so far behind; one minute covers a batching client
    )
    allowed_lateness_ms: int = 3_600_000  # behind the watermark by more than this, an event is late
    idle_timeout_ms: int | None = (
        60_000  # a partition silent for longer does not hold time back; None: no limit
    )
    future_skew_ms: int | None = 300_000  # never ahead of the wall clock by more; None: no ceiling (replay)


@dataclass(frozen=True, slots=True)
class WatermarkState:
    """What a checkpoint keeps of a ``Watermark``."""

    value_ms: int = 0
    high_ms: Mapping[int, int] = field(default_factory=dict)  # partition → its highest event time
    seen_ms: Mapping[int, int] = field(default_factory=dict)  # partition → wall time of its last event
    wall_ms: int = 0  # when this was taken; 0: a version took it that did not note the time
    away_since_ms: int | None = None  # the wall time since which the source was away; None: it was not


class Watermark:
    """The event time up to which the stream is considered complete.

    Always true:
      * ``value_ms`` has not gone back; 0 means that no event was seen yet;
      * it is at most (highest event time − out-of-orderness) of every partition that is not idle, at the
        moment it moved, and at most the wall clock + skew;
      * an event ahead of the wall clock + skew moves nothing;
      * between ``tick(away=True)`` and the next ``tick(away=False)`` no partition becomes idle and quiet time
        does not count, since an outage of the source is not silence;
      * a restart changes nothing: the silence before a stop and the stop itself count as silence, but only
        after all events of that time were observed.

    Each event is judged by the watermark that the events before it made, so how the stream was cut into
    batches changes nothing (ARCHITECTURE section 6).
    """

    def __init__(self, rules: WatermarkRules, clock: Clock, state: WatermarkState | None = None) -> None:
        self.rules = rules
        self._clock = clock
        self.value_ms = state.value_ms if state else 0
        self._slot_of: dict[int, int] = {}  # partition → index into the arrays below
        self._high_ms: I64 = np.zeros(0, np.int64)  # highest event time; 0 before the first event
        self._seen_ms: I64 = np.zeros(0, np.int64)  # wall time of its last event, since which it is silent
        # wall time of the last event of any partition in this process, or of the start of the process
        self._heard_ms: I64 = np.zeros(0, np.int64)
        self._settled: Mask = np.zeros(0, np.bool_)  # whether its end was reached since the start
        self._active: Mask = np.zeros(0, np.bool_)
        self._held: Mask = np.zeros(0, np.bool_)  # whether the last ``align`` held it
        self._away_since_ms: int | None = None
        self._stopped_ms = state.wall_ms if state else 0  # 0: the time is not known, or this is no restart
        if state is None:
            return
        now_ms = clock.now_ms()
        for partition, high_ms in state.high_ms.items():
            slot = self._slot(partition, active=True)
            self._high_ms[slot] = high_ms
            # the clock may have gone back
            self._seen_ms[slot] = min(state.seen_ms.get(partition, now_ms), now_ms)
        if state.away_since_ms is not None:
            self._away_since_ms = min(state.away_since_ms, now_ms)

    def assign(self, partitions: Sequence[int]) -> None:
        """Let these partitions hold event time back, until their first event or until they are idle."""
        for partition in partitions:
            self._slot(partition, active=True)

    def state(self) -> WatermarkState:
        """A copy for a checkpoint."""
        high_ms = {partition: int(self._high_ms[slot]) for partition, slot in self._slot_of.items()}
        seen_ms = {partition: int(self._seen_ms[slot]) for partition, slot in self._slot_of.items()}
        return WatermarkState(self.value_ms, high_ms, seen_ms, self._clock.now_ms(), self._away_since_ms)

    def high_ms(self, partition: int | None) -> int:
        """The highest event time of a partition; 0 before the first event of any.

        For None, and for a partition without an event: the lowest of those that had events.
        """
        slot = self._slot_of.get(0 if partition is None else partition)
        if slot is not None and self._high_ms[slot] > 0:
            return int(self._high_ms[slot])
        shown = self._high_ms[self._high_ms > 0]
        return int(shown.min()) if len(shown) else 0

    def forget_stop(self) -> None:
        """Do not count the time since the last run as silence, since the source may have been away."""
        if self._stopped_ms:
            now_ms = self._clock.now_ms()
            self._do_not_count(max(0, now_ms - self._stopped_ms), now_ms)

    def observe(self, partition: I32, time_ms: I64) -> tuple[Mask, I64]:
        """Move the watermark by N events in arrival order.

        An empty ``partition`` means that all are from partition 0. A late event never moves the watermark.

        Returns:
            (which of them are late [N], the watermark after each of them [N]).
        """
        late, after_ms = np.zeros(len(time_ms), np.bool_), np.zeros(len(time_ms), np.int64)
        if len(time_ms) == 0:
            return late, after_ms
        slots = self._slots(partition, len(time_ms))
        self._hear(slots, time_ms)
        time_kernels.advance_watermark(
            time_kernels.Partitions(self._high_ms, self._active),
            time_kernels.Arrivals(slots, time_ms),
            self.value_ms,
            time_kernels.Limits(
                self.rules.out_of_orderness_ms, self.rules.allowed_lateness_ms, self._ceiling_ms()
            ),
            time_kernels.Judged(late, after_ms),
        )
        self.value_ms = int(after_ms[-1])
        return late, after_ms

    def late(self, time_ms: I64) -> Mask:
        """Which of these times would be late now."""
        return time_ms < self.value_ms - self.rules.allowed_lateness_ms

    def align(self, by_ms: int, behind: Collection[int]) -> frozenset[int]:
        """The partitions to hold, since they are ahead of the slowest one by more than ``by_ms``.

        The slowest partition is the one in ``behind`` (those that have more events) with the lowest highest
        event time; a partition without an event yet is slower than any. An idle partition does not count,
        since it may stay silent. A held partition stays held until it is ahead by less than half of
        ``by_ms``, since each pause costs another fetch. A held partition is not silent and does not become
        idle.
        """
        slow = self._active & np.fromiter((p in behind for p in self._slot_of), np.bool_, len(self._slot_of))
        if slow.any():
            ahead_ms = self._high_ms - self._high_ms[slow].min()
            self._held = ahead_ms > np.where(self._held, by_ms // 2, by_ms)
        else:
            self._held[:] = False
        return frozenset(p for p, slot in self._slot_of.items() if self._held[slot])

    def tick(
        self, *, away: bool = False, caught_up: bool = False, behind: Collection[int] | None = None
    ) -> int:
        """Let wall time pass; return the watermark. The caller calls it also when no event comes.

        Args:
            away: Whether the source cannot be reached. Event time then stands still.
            caught_up: Whether the source answers and has no more events. Once all partitions are idle, event
                time then passes as the wall clock does, so that events of a quiet topic expire.
            behind: Partitions that have more events; None if that is not known. The silence before a restart
                counts for a partition that has been read to its end since.
        """
        now_ms = self._clock.now_ms()
        if away:
            self._away_since_ms = now_ms if self._away_since_ms is None else self._away_since_ms
            return self.value_ms
        if self._away_since_ms is not None:
            self._do_not_count(now_ms - self._away_since_ms, now_ms)
            self._away_since_ms = None
        if caught_up:
            self._settled[:] = True
        elif behind is not None:
            self._settled |= np.fromiter(
                (p not in behind for p in self._slot_of), np.bool_, len(self._slot_of)
            )
        self._seen_ms[self._held & self._settled] = now_ms
        self._heard_ms[self._held] = now_ms
        timeout_ms = self.rules.idle_timeout_ms
        if timeout_ms is None or len(self._seen_ms) == 0:
            return self.value_ms
        silent_since_ms = np.where(self._settled, self._seen_ms, np.maximum(self._seen_ms, self._heard_ms))
        self._active &= now_ms - silent_since_ms < timeout_ms
        bound_ms = self.rules.out_of_orderness_ms
        if self._active.any():
            self._raise_to(int(self._high_ms[self._active].min()) - bound_ms)
        else:
            high_ms = int(self._high_ms.max())
            self._raise_to(high_ms - bound_ms)
            quiet_ms = now_ms - int(self._seen_ms.max()) - timeout_ms
            if caught_up and high_ms > 0:
                self._raise_to(high_ms - bound_ms + quiet_ms)
        return self.value_ms

    def _do_not_count(self, duration_ms: int, now_ms: int) -> None:
        """Take a time off the silence of all partitions."""
        for since_ms in (self._seen_ms, self._heard_ms):
            np.minimum(since_ms + duration_ms, now_ms, out=since_ms)

    def _hear(self, slots: I32, time_ms: I64) -> None:
        """Note the wall time of the newest event of each partition.

        An event that came during a stop is read after the restart, and counts as heard at its own time. An
        event that is older than the stop counts as heard now: when it came is not known, as in a topic that
        is being filled with old events.
        """
        now_ms = self._clock.now_ms()
        distinct = np.unique(slots)
        self._heard_ms[distinct] = now_ms
        catching_up = ~self._settled[distinct] & (self._stopped_ms > 0)
        self._seen_ms[distinct[~catching_up]] = now_ms
        for slot in distinct[catching_up].tolist():
            newest_ms = int(time_ms[slots == slot].max())
            live = newest_ms >= self._stopped_ms - self.rules.allowed_lateness_ms
            came_ms = min(max(newest_ms, self._stopped_ms), now_ms) if live else now_ms
            self._seen_ms[slot] = max(int(self._seen_ms[slot]), came_ms)

    def _raise_to(self, value_ms: int) -> None:
        self.value_ms = max(self.value_ms, min(value_ms, self._ceiling_ms()))

    def _ceiling_ms(self) -> int:
        skew_ms = self.rules.future_skew_ms
        return TIME_MS_MAX if skew_ms is None else self._clock.now_ms() + skew_ms

    def _slot(self, partition: int, *, active: bool) -> int:
        """The partition's index in the arrays. A new one with ``active`` holds time back from now on."""
        slot = self._slot_of.get(partition)
        if slot is None:
            slot = self._slot_of[partition] = len(self._slot_of)
            self._high_ms = np.append(self._high_ms, 0)
            self._seen_ms = np.append(self._seen_ms, self._clock.now_ms())
            self._heard_ms = np.append(self._heard_ms, self._clock.now_ms())
            self._settled = np.append(self._settled, np.False_)
            self._active = np.append(self._active, active)
            self._held = np.append(self._held, np.False_)
        return slot

    def _slots(self, partition: I32, count: int) -> I32:
        if len(partition) == 0:
            return np.full(count, self._slot(0, active=False), np.int32)
        distinct, index = np.unique(partition, return_inverse=True)
        slots = [self._slot(p, active=False) for p in distinct.tolist()]
        return np.array(slots, np.int32)[index]
