"""How long to wait before the next try after failures: longer each time, up to the last pause."""

from __future__ import annotations

from collections.abc import Sequence


def pause_after(failures: int, pauses: Sequence[float]) -> float:
    """The pause after so many failures in a row: none after none, and the last one again and again."""
    return pauses[min(failures, len(pauses)) - 1] if failures else 0
