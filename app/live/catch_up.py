"""Whether a source has read all that its topics had at the start.

KafkaSource ──► [CatchUp.look] ──► Updater, AttributeFeed
"""

from __future__ import annotations

from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.kafka.waiting import WaitingSource


class CatchUp:
    """Looks at a source until it comes to the ends that its topics had at the start.

    Always true: once ``is_over``, it stays so, however far the topics grow.
    """

    def __init__(self, source: KafkaSource | WaitingSource) -> None:
        self.is_over = False
        self.ends: dict[str, int] | None = None  # where the topics ended at the start, once it is known
        self._source = source

    def look(self) -> bool:
        """Look how far the source is; whether it has caught up."""
        if self.is_over:
            return True
        position = self._source.position()
        if self.ends is None:
            lag = self._source.lag()
            if len(lag) < len(position) and not self._source.caught_up:
                return False  # the broker tells an end with its first answer for a partition
            self.ends = {part: offset + lag.get(part, 0) for part, offset in position.items()}
        behind = any(position.get(part, end) < end for part, end in self.ends.items())
        self.is_over = self._source.caught_up or not behind
        return self.is_over
