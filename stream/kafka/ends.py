"""Whether a source has read all that its topics had when it began.

KafkaSource ──► [EndsAtStart.are_reached] ──► AttributeFeed, DelistFeed
"""

from __future__ import annotations

from driftgraph.stream.kafka.source import KafkaSource


class EndsAtStart:
    """Where the topics of a source ended at its start.

    Always true: once they are reached they stay so.
    """

    def __init__(self, source: KafkaSource) -> None:
        self._source = source
        self._ends: dict[str, int] | None = None  # once the brokers have told them
        self._reached = False

    @property
    def are_reached(self) -> bool:
        """Whether all records that the topics had at the start are taken. Asks no broker."""
        if self._reached:
            return True
        position = self._source.position()
        if self._ends is None and not self._source.caught_up:
            lag = self._source.lag()
            if len(lag) < len(position):
                return False  # a broker tells an end with its first answer for a partition
            self._ends = {part: offset + lag[part] for part, offset in position.items()}
        ends = self._ends
        self._reached = self._source.caught_up or (
            ends is not None and all(position.get(part, end) >= end for part, end in ends.items())
        )
        return self._reached
