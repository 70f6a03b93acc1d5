"""A Kafka source whose messages wait while the decoder cannot decode them, such as without a schema registry.

    KafkaSource ──► rows ──► [WaitingSource] ──► Decoder ──► Decoded
                               └─ NotNowError: the rows are kept here and decoded again later, the consumer
                                  is paused and still polled

The position stays before the waiting messages, so a crash meanwhile loses none of them. Event time stands
still (``away``), since an outage of the registry must not empty the window.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats.event_rules import Decoder, NotNowError, Rows
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.pauses import pause_after
from driftgraph.stream.sources.source import Position

LOG = logging.getLogger("driftgraph.kafka")
PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)  # before each further try
GIVE_UP_AFTER_S: Final = 600.0  # then the source fails, so that somebody learns that nothing flows


class _RowKeeper:
    """The decoder that ``KafkaSource`` is given: it keeps the rows, and ``WaitingSource`` decodes them."""

    def __init__(self) -> None:
        self.rows: Rows | None = None

    def decode(self, rows: Rows) -> Decoded:
        self.rows = rows
        return Decoded(EMPTY)


@dataclass(slots=True)
class _WaitingRead:
    """The messages of one read of the source, until they are decoded."""

    rows: Rows
    position: Position  # after the messages
    topic_ids: Mapping[str, str]  # of the topics in ``position``
    since_s: float
    tries: int = 0
    next_try_s: float = 0.0


class WaitingSource:
    """A ``KafkaSource`` with a decoder that may raise ``NotNowError``.

    Always true: the source is paused while messages wait, so that no more are fetched; ``position`` is after
    the last event returned, and so before the waiting messages. Each call takes little longer than its
    timeout.
    """

    def __init__(
        self,
        connect: Callable[[Decoder], KafkaSource],
        decoder: Decoder,
        *,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeper = _RowKeeper()
        self._source = connect(self._keeper)
        self._decoder = decoder
        self._give_up_after_s = give_up_after_s
        self._now_s = now_s
        self._position: Position = self._source.position()
        self._topic_ids = self._source.topic_ids
        self._waiting: deque[_WaitingRead] = deque()
        self._paused = False  # by our caller

    def next_batch(self, timeout_s: float) -> Decoded | None:
        """The next batch of the source; an empty batch while messages wait.

        Raises:
            SourceError: As ``KafkaSource.next_batch``; also if messages have waited for ``give_up_after_s``.
        """
        decoded = self._source.next_batch(timeout_s)
        if decoded is None:
            return None
        rows, self._keeper.rows = self._keeper.rows, None
        if rows is not None:
            self._waiting.append(_WaitingRead(rows, decoded.position, self._source.topic_ids, self._now_s()))
        elif not self._waiting:
            self._position, self._topic_ids = decoded.position, self._source.topic_ids
        return replace(self._try(), position=self.position())

    def _try(self) -> Decoded:
        """Decode the messages that have waited longest, if their next try is due."""
        if not self._waiting or self._now_s() < self._waiting[0].next_try_s:
            return Decoded(EMPTY)
        read = self._waiting[0]
        try:
            decoded = self._decoder.decode(read.rows)
        except NotNowError as error:
            self._wait(read, error)
            return Decoded(EMPTY)
        if read.tries:
            LOG.warning("it is back: %d messages that waited are decoded", len(read.rows))
            if not self._paused:
                self._source.resume()
        self._waiting.popleft()
        self._position, self._topic_ids = read.position, read.topic_ids
        return decoded

    def _wait(self, read: _WaitingRead, error: NotNowError) -> None:
        """Pause the source and set the time of the next try."""
        waited_s = self._now_s() - read.since_s
        if waited_s > self._give_up_after_s:
            raise SourceError(
                f"{error}, for {waited_s:.0f} s now; see that it runs, then start again: nothing is lost"
            ) from error
        if read.tries == 0:
            LOG.warning("%s: %d messages wait for it, and event time stands still", error, len(read.rows))
            self._source.pause()
        read.tries += 1
        read.next_try_s = self._now_s() + pause_after(read.tries, PAUSES_S)

    def position(self) -> Position:
        """After the last event returned."""
        return dict(self._position)

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The ids of the topics in ``position``."""
        return dict(self._topic_ids)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The assigned partitions by their numbers in ``EventBatch.partition``."""
        return self._source.partitions

    @property
    def away(self) -> bool:
        """Whether the broker cannot be reached, or messages wait."""
        return bool(self._waiting) or self._source.away

    @property
    def kafka_away(self) -> bool:
        """Whether the broker cannot be reached."""
        return self._source.away

    @property
    def why_away(self) -> str:
        """Why the broker is away."""
        return self._source.why_away

    @property
    def caught_up(self) -> bool:
        """Whether every event that the broker has was returned."""
        return not self._waiting and self._source.caught_up

    @property
    def behind(self) -> Collection[int]:
        """As ``KafkaSource.behind``; all partitions while messages wait."""
        return self.partitions if self._waiting else self._source.behind

    @property
    def lost(self) -> Mapping[str, int]:
        """How many offsets ``out_of_range`` has left out since the start, by partition."""
        return self._source.lost

    def hold(self, partitions: Collection[int]) -> None:
        """Fetch no more from exactly these partitions until the next call."""
        self._source.hold(partitions)

    def lag(self) -> Mapping[str, int]:
        """As ``KafkaSource.lag``, and the waiting messages."""
        lag = dict(self._source.lag())
        if self._waiting:
            for name, end in self._waiting[-1].position.items():
                if name in lag:
                    lag[name] += end - self._position.get(name, end)
        return lag

    def pause(self) -> None:
        """Fetch no more; go on calling ``next_batch``."""
        self._paused = True
        self._source.pause()

    def resume(self) -> None:
        """Fetch again, as soon as no messages wait."""
        self._paused = False
        if not self._waiting:
            self._source.resume()

    def commit(self, position: Position) -> None:
        """Tell the broker a position for lag tools."""
        self._source.commit(position)

    def close(self) -> None:
        """Leave the broker."""
        self._source.close()
