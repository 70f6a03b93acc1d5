"""How long events wait until what they change can be read: counts by waiting time, for the worker's status.

    Refresher ──► [Freshness.served] ──► data_dir/status/worker.json ──► [freshness_of] ──► driftgraph status

A refresh counts one waiting time for each user: that of the oldest event that it made readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from driftgraph.stream.arrays import I64

# Upper ends in ms; one more bucket has what is longer. Fine around the second that is promised.
ENDS_MS: Final = np.array(
    [*range(50, 500, 50), *range(500, 1_000, 100), 1_000, 1_250, 1_500, 2_000, 3_000, 5_000, 10_000, 30_000,
     60_000, 300_000, 3_600_000]
)  # fmt: skip
RECENT_MS: Final = 300_000  # quantiles are of the newest 5 to 10 minutes
# From the event's own time, and from the newest look into the window that did not show it yet.
ORIGINS: Final = ("event", "received")


class Freshness:
    """Two histograms since the worker's start, and the quantiles of its newest minutes."""

    def __init__(self) -> None:
        self._counts = {name: np.zeros(len(ENDS_MS) + 1, np.int64) for name in ORIGINS}
        self._older = {name: count.copy() for name, count in self._counts.items()}  # when the part began
        self._oldest = {name: count.copy() for name, count in self._counts.items()}  # when the one before did
        self._begun_ms = 0

    def served(self, now_ms: int, event_ms: I64, received_ms: I64) -> None:
        """Count users who can be read from now on with events of these times."""
        if now_ms - self._begun_ms >= RECENT_MS:
            self._oldest = self._older if now_ms - self._begun_ms < 2 * RECENT_MS else self._copied()
            self._older, self._begun_ms = self._copied(), now_ms
        for name, times_ms in zip(ORIGINS, (event_ms, received_ms), strict=True):
            place = np.searchsorted(ENDS_MS, now_ms - times_ms)
            self._counts[name] += np.bincount(place, minlength=len(ENDS_MS) + 1)

    def facts(self) -> dict[str, Any]:
        """For the status file: for each origin ``counts`` by bucket since the start, p50 and p99 in ms."""
        found: dict[str, Any] = {"ends_ms": ENDS_MS.tolist()}
        for name, counts in self._counts.items():
            recent = counts - self._oldest[name]
            found[name] = {
                "counts": counts.tolist(),
                "recent": int(recent.sum()),
                **{f"p{share}_ms": quantile_ms(recent, share / 100) for share in (50, 99)},
            }
        return found

    def _copied(self) -> dict[str, I64]:
        return {name: count.copy() for name, count in self._counts.items()}


def quantile_ms(counts: I64, share: float) -> int | None:
    """The upper end of the bucket that has the quantile; None without a count, or if that is the last."""
    if not counts.sum():
        return None
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return int(ENDS_MS[place]) if place < len(ENDS_MS) else None


def freshness_of(refresh: Mapping[str, Any]) -> str:
    """A line for people."""
    own = refresh["freshness"]
    if not own["event"]["recent"]:
        said = "no event in the last minutes"
    else:
        parts = ("from the event", "event"), ("from its arrival", "received")
        said = ", ".join(
            f"{words} p50 {_at_most(own[name], 50)}, p99 {_at_most(own[name], 99)}" for words, name in parts
        )
    left = f"; {refresh['waiting']:,} users wait" if refresh["waiting"] else ""
    return f"{said}{left}"


def _at_most(own: Mapping[str, Any], share: int) -> str:
    found = own[f"p{share}_ms"]
    return f"over {ENDS_MS[-1] // 1_000} s" if found is None else f"{found / 1_000:g} s"
