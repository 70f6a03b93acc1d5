"""A source whose decoder may have to wait: what cannot be decoded now is held and tried again.

    KafkaSource ──► rows ──► [HeldSource] ──► Decoder ──► Decoded
                               └ a schema registry is away: hold the rows, pause, go on polling

The position is that of what was decoded, so a crash meanwhile loses nothing; event time stands still
(``away``), since an outage must not empty the window.
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
from driftgraph.stream.sources.source import Position

LOG = logging.getLogger("driftgraph.kafka")
PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)  # before each further try; the last one again and again
GIVE_UP_AFTER_S: Final = 600.0  # somebody should know that nothing flows


class _Stash:
    """A decoder that does nothing but keep the rows."""

    def __init__(self) -> None:
        self.rows: Rows | None = None

    def decode(self, rows: Rows) -> Decoded:
        self.rows = rows
        return Decoded(EMPTY)


@dataclass(slots=True)
class _Held:
    rows: Rows
    position: Position  # after them
    topic_ids: Mapping[str, str]  # of the position
    since_s: float
    tries: int = 0
    next_try_s: float = 0.0


class HeldSource:
    """A Kafka source, and a decoder that may raise ``NotNowError``.

    Always true: while a read is held the source is paused, so that no more come; ``position`` is after the
    last event returned. Each call takes little longer than its timeout.
    """

    def __init__(
        self,
        connect: Callable[[Decoder], KafkaSource],
        decoder: Decoder,
        *,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stash = _Stash()
        self._inner = connect(self._stash)
        self._decoder = decoder
        self._give_up_after_s = give_up_after_s
        self._now_s = now_s
        self._position: Position = self._inner.position()
        self._topic_ids = self._inner.topic_ids
        self._held: deque[_Held] = deque()
        self._paused = False  # by our caller

    def next_batch(self, timeout_s: float) -> Decoded | None:
        """As of the source; an empty batch while what came is held.

        Raises:
            SourceError: Also if what was held could not be decoded for ``give_up_after_s``.
        """
        decoded = self._inner.next_batch(timeout_s)
        if decoded is None:
            return None
        rows, self._stash.rows = self._stash.rows, None
        if rows is not None:
            self._held.append(_Held(rows, decoded.position, self._inner.topic_ids, self._now_s()))
        elif not self._held:
            self._position, self._topic_ids = decoded.position, self._inner.topic_ids
        return replace(self._try(), position=self.position())

    def _try(self) -> Decoded:
        if not self._held or self._now_s() < self._held[0].next_try_s:
            return Decoded(EMPTY)
        held = self._held[0]
        try:
            decoded = self._decoder.decode(held.rows)
        except NotNowError as error:
            self._wait(held, error)
            return Decoded(EMPTY)
        if held.tries:
            LOG.warning("it is back: %d messages that waited are decoded", len(held.rows))
            if not self._paused:
                self._inner.resume()
        self._held.popleft()
        self._position, self._topic_ids = held.position, held.topic_ids
        return decoded

    def _wait(self, held: _Held, error: NotNowError) -> None:
        waited_s = self._now_s() - held.since_s
        if waited_s > self._give_up_after_s:
            raise SourceError(
                f"{error}, for {waited_s:.0f} s now; see that it runs, then start again: nothing is lost"
            ) from error
        if held.tries == 0:
            LOG.warning("%s: %d messages wait for it, and event time stands still", error, len(held.rows))
            self._inner.pause()
        held.next_try_s = self._now_s() + PAUSES_S[min(held.tries, len(PAUSES_S) - 1)]
        held.tries += 1

    def position(self) -> Position:
        """After the last event returned."""
        return dict(self._position)

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The ids of the topics that ``position`` is of."""
        return dict(self._topic_ids)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Those of the source."""
        return self._inner.partitions

    @property
    def away(self) -> bool:
        """Whether the broker cannot be reached, or messages are held."""
        return bool(self._held) or self._inner.away

    @property
    def kafka_away(self) -> bool:
        """Whether the broker cannot be reached."""
        return self._inner.away

    @property
    def why_away(self) -> str:
        """Why the broker is away."""
        return self._inner.why_away

    @property
    def caught_up(self) -> bool:
        """Whether every event that the broker has was returned."""
        return not self._held and self._inner.caught_up

    @property
    def behind(self) -> Collection[int]:
        """Those of the source; all of them while messages are held."""
        return self.partitions if self._held else self._inner.behind

    @property
    def lost(self) -> Mapping[str, int]:
        """Offsets left out, by part."""
        return self._inner.lost

    def hold(self, partitions: Collection[int]) -> None:
        """Fetch no more from exactly these until the next call."""
        self._inner.hold(partitions)

    def lag(self) -> Mapping[str, int]:
        """Of the source, and what is held."""
        lag = dict(self._inner.lag())
        if self._held:
            for part, end in self._held[-1].position.items():
                if part in lag:
                    lag[part] += end - self._position.get(part, end)
        return lag

    def pause(self) -> None:
        """Fetch no more; go on calling ``next_batch``."""
        self._paused = True
        self._inner.pause()

    def resume(self) -> None:
        """Fetch again, as soon as nothing is held."""
        self._paused = False
        if not self._held:
            self._inner.resume()

    def commit(self, position: Position) -> None:
        """Tell the broker a position for lag tools."""
        self._inner.commit(position)

    def close(self) -> None:
        """Leave the broker."""
        self._inner.close()
