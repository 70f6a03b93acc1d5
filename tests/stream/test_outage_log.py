"""What is said while something is missing, and how often."""

from __future__ import annotations

import logging

from driftgraph.stream.outage_log import FewLines, OutageLog


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


def test_a_library_that_logs_each_try_is_heard_once_a_minute_of_one_kind() -> None:
    now_s, heard = [0.0], list[tuple[float, str]]()
    lines = FewLines({"connect": "away", "fetch": "away"}, now_s=lambda: now_s[0])
    while now_s[0] < 150:
        for number, (level, text) in enumerate(
            [
                (logging.ERROR, "cannot connect to %d"),
                (logging.ERROR, "cannot fetch from %d"),
                (logging.WARNING, "no right %d"),
                (logging.INFO, "fetched %d"),
            ]
        ):
            record = logging.LogRecord("x", level, "", 0, text, (int(now_s[0]),), None)
            if lines.filter(record) and number < 3:
                heard.append((now_s[0], record.getMessage()))
        now_s[0] += 1
    assert heard == [
        (0, "cannot connect to 0"),
        (0, "no right 0"),
        (60, "cannot connect to 60 (and 119 lines like it)"),
        (60, "no right 60 (and 59 lines like it)"),
        (120, "cannot connect to 120 (and 119 lines like it)"),
        (120, "no right 120 (and 59 lines like it)"),
    ]
