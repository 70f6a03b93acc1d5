"""When a start is over: all that the topics had then is read, however far they grow meanwhile."""

from __future__ import annotations

from typing import cast

from driftgraph.stream.kafka.ends import EndsAtStart
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.sources.source import Position


class Source:
    """Says what a test has set."""

    def __init__(self, position: Position, lag: Position, *, caught_up: bool = False) -> None:
        self.at, self.ahead, self.caught_up = dict(position), dict(lag), caught_up

    def position(self) -> Position:
        return self.at

    def lag(self) -> Position:
        return self.ahead


def ends_of(source: Source) -> EndsAtStart:
    return EndsAtStart(cast(KafkaSource, source))


def test_it_is_over_at_the_ends_of_the_start_and_not_at_those_of_now() -> None:
    source = Source({"a[0]": 3, "a[1]": 0}, {"a[0]": 2, "a[1]": 1})
    ends = ends_of(source)
    assert not ends.are_reached
    assert ends.known == {"a[0]": 5, "a[1]": 1}
    source.at, source.ahead = {"a[0]": 5, "a[1]": 0}, {"a[0]": 90, "a[1]": 1}
    assert not ends.are_reached, "a partition is behind"
    source.at["a[1]"] = 1
    assert ends.are_reached
    source.at = {"a[0]": 0, "a[1]": 0}
    assert ends.are_reached, "it stays over"


def test_no_end_is_known_before_the_broker_has_told_one_of_each_partition() -> None:
    source = Source({"a[0]": 0, "a[1]": 0}, {"a[0]": 0})
    ends = ends_of(source)
    assert not ends.are_reached
    assert ends.known is None
    source.ahead["a[1]"] = 0
    assert ends.are_reached, "empty partitions have nothing to read"


def test_a_source_that_has_caught_up_needs_no_ends() -> None:
    assert ends_of(Source({"a[0]": 7}, {}, caught_up=True)).are_reached
