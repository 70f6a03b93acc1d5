"""What is said while something is missing, and how often."""

from __future__ import annotations

from driftgraph.stream.outage_log import OutageLog


class Minute:
    """A clock that a test turns, and what was said at which second."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.said: list[tuple[float, str]] = []
        self.log = OutageLog(lambda text: self.said.append((self.now_s, text)), now_s=lambda: self.now_s)

    def each_second(self, until_s: float, about: str = "it") -> None:
        """The text changes with every look, as those of a broker do."""
        while self.now_s < until_s:
            self.log.missing(f"away {self.now_s:g}", about)
            self.now_s += 1


def test_an_outage_is_told_at_once_then_each_minute_and_when_it_is_over() -> None:
    minute = Minute()
    minute.each_second(150)
    minute.log.over("back")
    minute.log.over("back")
    assert minute.said == [(0, "away 0"), (60, "away 60"), (120, "away 120"), (150, "back")]


def test_another_outage_is_told_at_once() -> None:
    minute = Minute()
    minute.each_second(10, "redis")
    minute.each_second(20, "kafka")
    minute.log.over("back")
    minute.each_second(30, "kafka")
    assert [text for _, text in minute.said] == ["away 0", "away 10", "back", "away 20"]


def test_nothing_is_over_that_was_not_told() -> None:
    minute = Minute()
    minute.log.over("back")
    assert minute.said == []
