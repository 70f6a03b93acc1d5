"""The checks of ``driftgraph doctor`` on clocks: ours against that of Redis, and against times of records.

Redis, records of topics ──► [redis_clock, record_clock, oldest_time] ──► [Check …]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.config.settings import Settings
from driftgraph.snapshots.generations.keys import Keys, StoreError, connect, redis_errors
from driftgraph.snapshots.generations.servers.topologies import server_of
from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats.event_rules import Rows
from driftgraph.stream.kafka.retention import duration_text
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock

OFF_MS_MAX: Final = 1_000  # more is no delay of the network
POLLS: Final = 100  # ten seconds at most
REMEDY: Final = "let NTP set the clocks of all machines (timedatectl set-ntp true)"


def redis_clock(settings: Settings, clock: Clock) -> Iterator[Check]:
    """Compare our clock with that of Redis."""
    try:
        with contextlib.closing(connect(settings.redis.address())) as client:
            with redis_errors(client, "asking for its time"):
                server = server_of(client, Keys(settings.redis.namespace).current)
                begin_ms = clock.now_ms()
                seconds, micros = server.time()
            end_ms = clock.now_ms()
    except StoreError:
        yield Check("clock", State.WARN, "not compared with that of Redis, which did not say its time")
        return
    yield redis_skew(seconds * 1_000 + micros // 1_000, begin_ms, end_ms)


def redis_skew(redis_ms: int, begin_ms: int, end_ms: int) -> Check:
    """Redis's time lies between begin and end of the question, if both clocks are right."""
    ahead_ms = max(begin_ms - redis_ms, 0) - max(redis_ms - end_ms, 0)  # ours against that of Redis
    if abs(ahead_ms) <= OFF_MS_MAX:
        return Check("clock", State.OK, f"that of Redis, to {abs(ahead_ms) / 1_000:.1f} s")
    which = "ahead of" if ahead_ms > 0 else "behind"
    said = f"{abs(ahead_ms) / 1_000:,.1f} s {which} that of Redis, so ages and times in status are wrong"
    return Check("clock", State.WARN, f"{said}: {REMEDY}")


def record_clock(settings: Settings, options: KafkaOptions, ends: Position, clock: Clock) -> Iterator[Check]:
    """Compare our clock with the time of the newest record, which a producer or a broker has written."""
    begin = {part: max(0, end - 1) for part, end in ends.items()}
    newest_ms = _times(options, begin, clock).newest_ms
    if newest_ms is not None:
        yield record_skew(newest_ms - clock.now_ms(), settings.time.skew.ms)


def record_skew(ahead_ms: int, skew_ms: int) -> Check:
    """``ahead_ms``: the newest record's time against our clock. An old record says nothing."""
    if ahead_ms <= OFF_MS_MAX:
        return Check("clock", State.OK, "not behind the newest record on the topic")
    said = f"the newest record is {ahead_ms / 1_000:,.1f} s ahead of this machine's clock"
    if ahead_ms > skew_ms:
        return Check(
            "clock",
            State.FAIL,
            f"{said}, more than time.skew = {duration_text(skew_ms)}, so such events are rejected: {REMEDY}",
        )
    return Check("clock", State.WARN, f"{said}: {REMEDY}")


def oldest_time(options: KafkaOptions, lows: Position, clock: Clock) -> int | None:
    """The least time of the first records of each partition; None if there is none."""
    return _times(options, lows, clock).oldest_ms


class _Times:
    """A decoder that only notes the times of records."""

    def __init__(self) -> None:
        self.oldest_ms: int | None = None
        self.newest_ms: int | None = None
        self.count = 0

    def decode(self, rows: Rows) -> Decoded:
        """Note them."""
        found = [rows.origin_of(index).timestamp_ms for index in range(len(rows))]
        known = [ms for ms in found if ms is not None and ms > 0]
        if known:
            self.oldest_ms = min([*known, *([] if self.oldest_ms is None else [self.oldest_ms])])
            self.newest_ms = max([*known, *([] if self.newest_ms is None else [self.newest_ms])])
        self.count += len(rows)
        return Decoded(EMPTY)


def _times(options: KafkaOptions, begin: Position, clock: Clock) -> _Times:
    """Of the records from ``begin`` on: of one read of each partition at most."""
    times = _Times()
    source = KafkaSource(options, times, clock, start=begin)
    try:
        for _ in range(POLLS):
            at = source.position()
            if source.caught_up or all(at[part] > offset for part, offset in begin.items()):
                break
            if source.next_batch(0.1) is None:
                break
    finally:
        source.close()
    return times
