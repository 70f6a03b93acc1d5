"""Where the very first start of a live source begins, as people write it.

    kafka.start, --from ──► [start_of] ──► KafkaSource

Later starts begin at the position of the checkpoint.
"""

from __future__ import annotations

from typing import Literal, cast

from driftgraph.stream.errors import SourceError
from driftgraph.stream.time.clock import TimeBounds, duration_ms_of, time_ms_of
from driftgraph.stream.time.time_text import TimeFault

Start = Literal["earliest", "latest"] | int  # int: the first event at or after this time, ms


def start_of(start: Start | str, now_ms: int) -> Start:
    """``earliest``, ``latest``, ``ts=…`` (as event times are written) or ``last=1h`` as a place to start.

    Raises:
        SourceError: If it is none of these.
    """
    if isinstance(start, int):
        return start
    if start in ("earliest", "latest"):
        return cast(Start, start)
    kind, _, value = start.partition("=")
    if kind == "ts":
        time_ms = time_ms_of(value, TimeBounds())
        if not isinstance(time_ms, TimeFault):
            return time_ms
    if kind == "last":
        try:
            return max(0, now_ms - duration_ms_of(value))
        except ValueError as error:
            raise SourceError(f"cannot start at {start!r}: {error}") from error
    raise SourceError(
        f"cannot start at {start!r}; it must be earliest, latest, ts=2026-01-31T00:00:00Z or last=1h"
    )
