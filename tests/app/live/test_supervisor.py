"""The worker's process as its parent sees it: why it ended, when it is failing, and what is said of it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.builders import lease_client
from driftgraph.app.config.saved_model import OtherModelError
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.live import supervisor
from driftgraph.app.live.supervisor import LONG_MS, STEADY_MS, Supervisor, Told
from driftgraph.app.live.worker_end import end_of
from driftgraph.app.training.process import loop
from driftgraph.app.training.process.listener import Listener
from driftgraph.snapshots.generations.lease import LeaseOwner
from driftgraph.stream.ingest.fit_schedule import Mark, Marks
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.window.writer import Cut
from tests import worker_ends
from tests.services.updaters import until

MINUTE_MS = 60_000


class Watched:
    """A worker that ends as ``how`` does, watched by a clock of ours."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock(1_783_000_000_000)
        self.watch = Supervisor(Settings(), folder, cast(LeaseOwner, None), self.clock)
        self._monkeypatch = monkeypatch

    def runs(self, how: Callable[..., None]) -> None:
        """It is started."""
        self._monkeypatch.setattr(supervisor, "work", how)
        starts = self.watch.starts
        self.clock.advance(MINUTE_MS)
        self.watch.tend()
        assert (self.watch.starts, self.watch.pid is not None) == (starts + 1, True)

    def lives_until_told(self, how: Callable[..., None]) -> None:
        """One life that ends when it has read what is sent to it, or before."""
        self.runs(how)
        until("it has ended", self._has_ended)

    def _has_ended(self) -> bool:
        self.watch.tend()
        return self.watch.pid is None

    def lives(self, how: Callable[..., None], lived_ms: int = 0) -> None:
        """One life: started, ended after so long, and seen to have ended."""
        self.runs(how)
        process = self.watch._process
        assert process is not None
        process.join(60)
        assert process.exitcode is not None
        self.clock.advance(lived_ms)
        self.watch.tend()
        assert self.watch.pid is None


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    found = Watched(tmp_path, monkeypatch)
    yield found
    found.watch.stop()


def test_the_updater_does_without_torch_which_is_the_workers() -> None:
    """A second or two of each start, and 200 MB of each standby."""
    code = "import sys; import driftgraph.app.live.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_that_ends_again_and_again_is_failing_and_says_why(watched: Watched) -> None:
    watch = watched.watch
    assert watch.status() == {"state": "not started", "pid": None, "starts": 0, "failures": 0, "why": None}
    watched.lives(worker_ends.by_saying_why)
    assert (watch.state, watch.failures, watch.trouble) == ("failed", 1, None), "one may be an accident"
    watched.lives(worker_ends.by_saying_why)
    watched.lives(worker_ends.by_saying_why)
    assert watch.status() == {
        "state": "failing", "pid": None, "starts": 3, "failures": 3, "why": "the shelf is empty; fill it"
    }  # fmt: skip
    assert watch.trouble == "the worker failed 3 times in a row, last: the shelf is empty; fill it"
    watch.stop()
    assert watch.state == "stopped"


def test_one_that_was_killed_says_by_what(watched: Watched) -> None:
    for how, why in (
        (worker_ends.by_half_a_word, "ended by signal 9 (SIGKILL); is memory short?"),
        (worker_ends.by_a_signal, "ended by signal 7 (SIGBUS); is the disk of the window full?"),
        (worker_ends.without_a_word, "ended with status 3 and without a word; what it printed may tell why"),
    ):
        watched.lives(how)
        assert watched.watch.why == why
    assert end_of(-60, "") == "ended by signal 60"


def test_it_is_well_again_when_it_outlives_those_that_failed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that runs out of memory after ten minutes is not well because it lived for two."""
    watch, clock = watched.watch, watched.clock
    for _ in range(2):
        watched.lives(worker_ends.by_saying_why, lived_ms=10 * MINUTE_MS)
    monkeypatch.setattr(supervisor, "work", worker_ends.not_until_told)
    clock.advance(MINUTE_MS)
    watch.tend()
    clock.advance(19 * MINUTE_MS)
    watch.tend()
    assert (watch.state, watch.pid is None) == ("failing", False), "it runs, and may fail again as before"
    clock.advance(2 * MINUTE_MS)
    watch.tend()
    assert watch.status()["state"] == "running"
    assert (watch.failures, watch.why, watch.trouble) == (0, "", None)
    watch.stop()


def test_the_pauses_between_its_starts_grow_up_to_a_minute(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, pauses_s = watched.watch, list[int]()

    def refused() -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(watch, "_start", refused)
    for failures in range(6):
        pauses_s.append(0)
        watch.tend()
        while watch.failures == failures:
            assert pauses_s[-1] < 100
            pauses_s[-1] += 1
            watched.clock.advance(1_000)
            watch.tend()
    assert pauses_s == [0, 1, 5, 15, 60, 60]


def test_failures_that_are_hours_apart_are_not_in_a_row(watched: Watched) -> None:
    for _ in range(3):
        watched.lives(worker_ends.by_saying_why, lived_ms=LONG_MS + 1)
    assert (watched.watch.state, watched.watch.failures) == ("failed", 1)
    assert STEADY_MS < LONG_MS


def test_the_log_has_a_reason_once_a_minute_and_a_new_one_at_once(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watched.watch
    advance = watched.clock.advance
    monkeypatch.setattr(watched.clock, "advance", lambda ms: advance(min(ms, 20_000)))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):  # within a minute
            watched.lives(worker_ends.by_saying_why)
        watched.lives(worker_ends.without_a_word)
    assert [record.getMessage() for record in caplog.records] == [
        "the worker failed: the shelf is empty; fill it; it is started again",
        "the worker failed 4 times in a row, last: ended with status 3 and without a word; what it printed "
        "may tell why; it is started again",
    ]
    caplog.clear()
    monkeypatch.undo()
    assert watch.failures == 4


def test_no_room_for_a_process_is_a_failure_of_the_worker_and_not_of_ingestion(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watched.watch

    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, os.strerror(11))

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    for _ in range(2):
        watched.clock.advance(MINUTE_MS)
        watch.tend()
    assert (watch.state, watch.pid) == ("failing", None)
    assert watch.why == "cannot be started: Resource temporarily unavailable"
    monkeypatch.undo()
    watched.lives(worker_ends.by_saying_why)
    assert watch.failures == 3


def test_one_that_does_not_end_when_told_is_killed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "work", worker_ends.not_even_then)
    monkeypatch.setattr("driftgraph.app.live.supervisor.WORKER_STOPS_WITHIN_S", 0.2)
    watched.watch.tend()
    process = watched.watch._process
    watched.watch.stop()
    assert process is not None
    assert (process.exitcode, watched.watch.state, watched.watch.failures) == (-signal.SIGKILL, "stopped", 0)


def test_each_worker_is_told_the_newest_marks(watched: Watched) -> None:
    """One that is killed between a mark and its fit is followed by one that is told the same."""
    told = Marks()
    for number in range(3):
        told = told.having(Mark(Cut(number, (0,), (number,)), None, is_early=number == 1))
        watched.watch.tell(told)
    watched.lives_until_told(worker_ends.by_a_signal)
    for _ in range(2):
        watched.lives_until_told(worker_ends.by_saying_what_it_was_told)
        assert msgspec.json.decode(watched.watch.why, type=Told) == Told(told, "info", is_full=True)


def test_a_worker_is_told_another_level_of_the_log_and_a_later_one_has_it(watched: Watched) -> None:
    watched.watch.reload(Settings.model_validate({"log": {"level": "debug"}}))
    watched.watch.tell(told := Marks().having(Mark(Cut(1, (0,), (1,)), None, is_early=False)))
    watched.lives_until_told(worker_ends.by_saying_what_it_was_told)
    assert msgspec.json.decode(watched.watch.why, type=Told) == Told(told, "debug", is_full=True)
    assert watched.watch._settings.log.level == "debug"


def test_nobody_waits_for_a_worker_that_does_not_listen(watched: Watched) -> None:
    """Far more marks pass than the pipe holds."""
    watched.runs(worker_ends.not_even_then)
    for number in range(3_000):
        mark = Mark(Cut(number, (0,) * 50, (number,) * 50), None, is_early=True)
        watched.watch.tell(Marks(early=mark))
        watched.watch.tend()
    assert watched.watch.pid is not None
    process = watched.watch._process
    assert process is not None
    process.kill()


def test_a_worker_hears_marks_and_the_level_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[str] = []
    monkeypatch.setattr("driftgraph.app.console.logs.set_level", levels.append)
    ours, theirs = multiprocessing.Pipe()
    listener = Listener(theirs, os.getppid())  # which lives on: the thread ends with the tests
    listener.start()
    marks = Marks().having(Mark(Cut(1, (0,), (1,)), None, is_early=False))
    ours.send_bytes(msgspec.json.encode(Told(Marks(), "info")))
    until("it has heard", lambda: levels == ["info"])
    assert not listener._begins.is_set(), "the window is not full yet"
    ours.send_bytes(msgspec.json.encode(Told(marks, "debug", is_full=True)))
    assert listener.is_told_to_begin()
    assert (levels, listener.marks) == (["info", "debug"], marks)
    ours.close()
    until("it is asked to end", lambda: listener.wait(0))


def test_a_worker_that_is_asked_to_end_before_the_window_is_full_does_not_begin() -> None:
    ours, theirs = multiprocessing.Pipe()
    listener = Listener(theirs, os.getppid())
    listener.start()
    ours.close()
    assert not listener.is_told_to_begin()


# --- the worker's own last words ---------------------------------------------------------------------


def settings_of(folder: Path, **tables: object) -> Settings:
    return load(options={"data_dir": str(folder), "relations": {"click": {}}, **tables})


def test_a_real_worker_says_what_stops_it(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """In a process of its own, beside a real Redis: there is no window."""
    settings = settings_of(tmp_path, redis={"url": redis_server.url, "namespace": "ends"})
    lease = lease_client(settings, "here")
    watch = Supervisor(settings, tmp_path / "nowhere", lease.owner, ManualClock(1_783_000_000_000))
    try:

        def has_failed() -> bool:
            assert lease.take() is not None  # or it runs out before the worker asks
            watch.tell(Marks())
            watch.tend()
            return watch.failures > 0

        until("it has ended", has_failed)
        assert watch.why == f"no window in {tmp_path / 'nowhere'}: is the updater running with this data_dir?"
    finally:
        watch.stop()


@pytest.mark.parametrize("is_ours", [False, True])
def test_last_words_are_one_sentence(is_ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fault of ours with where its traceback is; a long message of torch is cut, not refused."""
    error = (
        RuntimeError("CUDA out of\nmemory " + "x" * 100_000) if is_ours else OtherModelError("set dim\nback")
    )

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(loop, "_store", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ours, theirs = multiprocessing.Pipe()
    ours.send_bytes(msgspec.json.encode(Told(Marks(), "info", is_full=True)))
    with pytest.raises(SystemExit) as ended:
        loop.main(settings_of(tmp_path), tmp_path, cast(LeaseOwner, None), theirs)
    words = ours.recv_bytes().decode()
    assert ended.value.code == 1
    path = tmp_path / "errors" / "worker.txt"
    if is_ours:
        assert words.startswith("unexpected RuntimeError: CUDA out of memory xxx")
        assert words.endswith(f"please report it with the traceback in {path}")
        assert "RuntimeError: CUDA out of" in path.read_text()
    else:
        assert (words, path.exists()) == ("set dim back", False)
