"""Questions on several threads: in order, and never behind another thread's."""

from __future__ import annotations

import threading

import pytest

from driftgraph.stream.window import samplers


def test_a_question_does_not_wait_behind_those_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a refresh beside a publish, which asks for a thousand users at once."""
    monkeypatch.setattr(samplers, "THREADS", 2)
    begun, goes_on, long = threading.Semaphore(0), threading.Event(), list[int]()

    def slow(part: slice) -> int:
        begun.release()
        assert goes_on.wait(60)
        return int(part.stop)

    other = threading.Thread(target=lambda: long.extend(samplers.in_parallel(slow, 10, 1)), daemon=True)
    other.start()
    assert begun.acquire(timeout=60)
    assert begun.acquire(timeout=60)
    found = list[int]()
    own = threading.Thread(
        target=lambda: found.extend(samplers.in_parallel(lambda part: part.start, 10, 1)), daemon=True
    )
    own.start()
    own.join(60)
    assert found == [0, 5]
    goes_on.set()
    other.join(60)
    assert long == [5, 10]
