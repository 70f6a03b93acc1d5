"""Pauses that grow."""

from __future__ import annotations

from driftgraph.stream.pauses import pause_after


def test_pauses_grow_in_their_order_and_the_last_one_repeats() -> None:
    assert [pause_after(failures, (1, 2, 5)) for failures in range(7)] == [0, 1, 2, 5, 5, 5, 5]
