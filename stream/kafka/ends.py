"""Whether a source has read all that its topics had when it began.

KafkaSource ──► [EndsAtStart.are_reached] ──► Updater, AttributeFeed
"""

from __future__ import annotations

from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.kafka.waiting import WaitingSource


class EndsAtStart:
    """Where the topics of a source ended at its start.

    Always true: once they are reached they stay so, however far the topics grow.
    """

    def __init__(self, source: KafkaSource | WaitingSource) -> None:
        self.known: dict[str, int] | None = None  # once the brokers have told them, by partition
        self._source = source
        self._reached = False

    @property
    def are_reached(self) -> bool:
        """Whether all records that the topics had at the start are taken. Asks no broker."""
        if self._reached:
            return True
        position = self._source.position()
        if self.known is None:
            lag = self._source.lag()
            if len(lag) < len(position) and not self._source.caught_up:
                return False  # a broker tells an end with its first answer for a partition
            self.known = {part: offset + lag.get(part, 0) for part, offset in position.items()}
        is_behind = any(position.get(part, end) < end for part, end in self.known.items())
        self._reached = self._source.caught_up or not is_behind
        return self._reached
