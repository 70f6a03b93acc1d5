"""The queue of what must be safe: order, retries, room, and what a close does."""

from __future__ import annotations

import pytest

from driftgraph.stream import safe_queue
from driftgraph.stream.safe_queue import SafeQueue
from tests.waits import until


class Disk:
    """Takes what it is given, unless it refuses; ``left`` is what it says is left to tend."""

    def __init__(self) -> None:
        self.refuses = False
        self.safe: list[int] = []
        self.batches: list[list[int]] = []
        self.left = 0
        self.tended = 0

    def make_safe(self, batch: list[int]) -> None:
        self.batches.append(batch)
        if self.refuses:
            raise OSError("no space left")
        self.safe += batch

    def tend(self) -> bool:
        self.tended += 1
        self.left -= self.left > 0
        return self.left > 0


def test_a_batch_that_is_refused_is_tried_again_as_it_was_before_what_came_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(safe_queue, "RETRY_S", (0.01,))
    disk = Disk()
    disk.refuses = True
    queue = SafeQueue("things", disk.make_safe, count_max=10)
    queue.put(1)
    until(lambda: len(disk.batches) > 1)
    queue.put(2)
    queue.put(3)
    assert queue.told == "3 things wait (no space left)"
    disk.refuses = False
    assert queue.wait(10)
    queue.close()
    assert disk.safe == [1, 2, 3]
    assert {tuple(batch) for batch in disk.batches[:-1]} == {(1,)}
    assert (queue.failure, queue.waiting, queue.full) == (None, 0, False)


def test_what_is_left_to_tend_is_tended_though_nothing_is_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_queue, "TEND_S", 0.01)
    disk = Disk()
    disk.left = 5
    queue = SafeQueue("things", disk.make_safe, count_max=10, tend=disk.tend)
    queue.put(1)
    until(lambda: disk.left == 0)
    assert queue.wait(10)
    tended = disk.tended
    queue.put(2)
    assert queue.wait(10)
    queue.close()
    assert disk.safe == [1, 2]
    assert disk.tended - tended <= 4, "it is asked though nothing is left"


def test_a_close_takes_all_that_waits_and_tries_what_was_refused_once_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(safe_queue, "RETRY_S", (30.0,))
    disk = Disk()
    disk.refuses = True
    queue = SafeQueue("things", disk.make_safe, count_max=10)
    queue.put(1)
    until(lambda: len(disk.batches) == 1)
    queue.put(2)
    disk.refuses = False
    queue.close()
    assert disk.safe == [1, 2]
    assert "not kept" not in caplog.text
