"""The circuit breaker: ingestion stops before a mostly rejected stream is drained into the dead letters.

    source ──► Decoded ──► [Breaker.judge] ──► Ingest: counts, dead letters, graph
                                └─ RejectedTooManyError: nothing of this read is taken or passed

After a bad deploy of a producer every event may be bad. If ingestion went on, it would read the topic to its
end, and the window would run empty.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.event_rules import Reason
from driftgraph.stream.wording import BY_KEY

MINIMUM_OF_WINDOW = 10  # no judgement on fewer events than a tenth of the window


class RejectedTooManyError(DriftgraphError):
    """More of the newest events are rejected than the configuration allows."""


@dataclass(frozen=True, slots=True)
class _Read:
    """The counts of one read of the source."""

    count: int  # events, at least 1
    reasons: Counter[str]
    examples: dict[str, str]  # one origin with its detail for each reason; no payloads

    @property
    def rejected(self) -> int:
        return self.reasons.total()


class Breaker:
    """Watches the share of rejected events in the newest ``window`` ones.

    Always true: only whole reads are judged. Once ``window`` events have come, the breaker remembers the
    fewest newest reads that hold ``window`` events together, with one sentence for each reason in each read.
    Late, ignored and repeated events count as good.
    """

    def __init__(self, *, share_max: float, window: int) -> None:
        if not 0 < share_max <= 1:
            raise ValueError(f"share_max must be above 0 and at most 1, got {share_max}")
        if window < MINIMUM_OF_WINDOW:
            raise ValueError(f"window must be at least {MINIMUM_OF_WINDOW}, got {window}")
        self.share_max = share_max
        self.window = window
        self._reads: deque[_Read] = deque()
        self._count = 0  # events of all reads
        self._rejected = 0

    def judge(self, decoded: Decoded) -> None:
        """Take in one read, before anything of it is applied.

        Raises:
            RejectedTooManyError: The read makes the share too large. Its position must not be passed.
        """
        if not decoded.read_count:
            return
        reasons = Counter(letter.reason for letter in decoded.rejected)
        examples = {one.reason: f"{one.origin} ({one.detail})" for one in reversed(decoded.rejected)}
        self._add(_Read(decoded.read_count, reasons, examples))
        if self._count * MINIMUM_OF_WINDOW < self.window:
            return
        if self._rejected > self.share_max * self._count:
            raise RejectedTooManyError(self._sentence())

    def recent(self) -> tuple[int, int, str]:
        """How many of the newest events were rejected, of how many, and one of the most frequent reason.

        They are those of the fewest newest reads that hold a tenth of the window; none before that.
        """
        reads, count = [], 0
        for read in reversed(self._reads):
            if count * MINIMUM_OF_WINDOW >= self.window:
                break
            reads.append(read)
            count += read.count
        reasons = sum((read.reasons for read in reads), Counter[str]())
        if count * MINIMUM_OF_WINDOW < self.window or not reasons:
            return 0, count, ""
        [(reason, _)] = reasons.most_common(1)
        example = next(read.examples[reason] for read in reads if reason in read.examples)
        return reasons.total(), count, f"{reason}, such as {example}"

    def _add(self, read: _Read) -> None:
        self._reads.append(read)
        self._count += read.count
        self._rejected += read.rejected
        while self._count - self._reads[0].count >= self.window:
            oldest = self._reads.popleft()
            self._count -= oldest.count
            self._rejected -= oldest.rejected

    def _sentence(self) -> str:
        reasons = sum((read.reasons for read in self._reads), Counter[str]())
        [(reason, count)] = reasons.most_common(1)
        example = next(read.examples[reason] for read in reversed(self._reads) if reason in read.examples)
        fields = f"{BY_KEY.columns}, or " if reason == Reason.MISSING_FIELD else ""
        return (
            f"{self._rejected / self._count:.0%} of the last {self._count:,} events were rejected, more than "
            f"events.reject_share_max {self.share_max:g} allows, {count:,} of them for {reason}, such as "
            f"{example}; {fields}correct the producer or the configuration and start again: the last read "
            "was not passed and comes again; events.reject_share_max = 1 would let them all go to the dead "
            "letters"
        )
