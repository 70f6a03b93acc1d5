"""The outbox: ingestion never waits for a place, no letter is lost or kept twice, memory has a limit."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.app.live.loop.backpressure import Backpressure
from driftgraph.stream import safe_queue
from driftgraph.stream.dead_letters import outgoing
from driftgraph.stream.dead_letters.letters import DeadLetterError
from driftgraph.stream.dead_letters.outgoing import KeptLetters, Outbox
from driftgraph.stream.events import Decoded, Rejected
from driftgraph.stream.sources.source import Position
from tests.waits import until

LETTER = Rejected("bad_json", "it is no JSON", b"{", "events[0]@7", timestamp_ms=1_783_000_000_000)


def letter(number: int, payload: bytes = b"{") -> Rejected:
    return replace(LETTER, origin=f"events[0]@{number}", payload=payload)


class Place:
    """A place that may be away or slow; what was flushed is safe."""

    def __init__(self) -> None:
        self.away = False
        self.slow = threading.Event()
        self.slow.set()
        self.waiting: list[Rejected] = []
        self.safe: list[Rejected] = []
        self.flushes = 0

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(one.reason for one in [*self.safe, *self.waiting])

    def put(self, rejected: Rejected) -> None:
        self.waiting.append(rejected)

    def flush(self) -> None:
        self.flushes += 1
        self.slow.wait(10)
        if self.away:
            raise DeadLetterError("the disk is full")
        self.safe += self.waiting
        self.waiting.clear()

    def close(self) -> None: ...


@contextmanager
def opened(place: Place, folder: Path) -> Iterator[Outbox]:
    box = Outbox(place, KeptLetters(folder))
    try:
        yield box
    finally:
        place.slow.set()
        box.close()


def test_letters_are_kept_in_their_order_and_then_safe(tmp_path: Path) -> None:
    place = Place()
    with opened(place, tmp_path) as box:
        for number in range(100):
            box.put(letter(number))
        box.flush()
        assert place.safe == [letter(n) for n in range(100)]
        assert (box.queue.waiting, box.queue.safe_count, dict(box.counts)) == (0, 100, {"bad_json": 100})


def test_put_never_waits_and_a_place_that_is_away_gets_everything_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(safe_queue, "RETRY_S", (0.01,))
    place = Place()
    place.away = True
    with opened(place, tmp_path) as box:
        for number in range(50):
            box.put(letter(number))
        until(lambda: place.flushes > 3)
        assert box.queue.failure == "the disk is full"
        assert (box.queue.waiting, box.queue.safe_count) == (50, 0)
        with pytest.raises(DeadLetterError, match="50 dead letters are not safe: the disk is full"):
            box.flush(0.05)
        place.away = False
        box.flush()
        assert place.safe == [letter(n) for n in range(50)]
        assert box.queue.failure is None
    said = [record.levelname for record in caplog.records if record.name.endswith("safe_queue")]
    assert said == ["ERROR", "WARNING"], "it is said once that it is away and once that it is back"


def test_it_is_full_by_number_or_by_bytes_and_has_room_again_at_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "LETTERS_MAX", 10)
    monkeypatch.setattr(outgoing, "BYTES_MAX", 1_000)
    place = Place()
    with opened(place, tmp_path) as box:
        place.slow.clear()
        for number in range(9):
            box.put(letter(number))
        assert not box.queue.full
        box.put(letter(9))
        assert box.queue.full
        assert not box.queue.has_room
        place.slow.set()
        box.flush()
        assert box.queue.has_room
        place.slow.clear()
        box.put(letter(10, payload=b"x" * 1_000))
        assert box.queue.full
        place.slow.set()
        box.flush()
        assert (box.queue.full, box.queue.has_room) == (False, True)


def test_a_letter_that_is_safe_is_not_kept_again_after_a_restart(tmp_path: Path) -> None:
    """Ten starts read the same events: one letter each. One that was put and not safe comes again."""
    place = Place()
    for start in range(10):
        with opened(place, tmp_path) as box:
            for number in range(20 + start):
                box.put(letter(number))
            box.flush()
            assert sum(box.counts.values()) == 20 + start
    assert place.safe == [letter(n) for n in range(29)]


def test_at_a_close_it_gives_up_in_time_and_the_next_start_keeps_what_it_could_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(safe_queue, "RETRY_S", (30.0,))
    place = Place()
    place.away = True
    with opened(place, tmp_path) as box:
        box.put(letter(1))
        until(lambda: place.flushes == 1)
        begin = time.monotonic()
        box.close()
        box.close()
        assert time.monotonic() - begin < 20, "it waited for the pause between two tries"
    assert "1 dead letters are not kept" in caplog.text
    again = Place()
    with opened(again, tmp_path) as box:
        box.put(letter(1))
        box.flush()
    assert again.safe == [letter(1)]


def test_a_fault_of_the_place_does_not_end_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_queue, "RETRY_S", (0.01,))
    place = Place()
    flush = place.flush
    failures = iter([RuntimeError("a fault of ours")])

    def broken() -> None:
        for error in failures:
            raise error
        flush()

    place.flush = broken  # type: ignore[method-assign]
    with opened(place, tmp_path) as box:
        box.put(letter(1))
        box.flush()
        assert place.safe == [letter(1)]


def test_a_letter_whose_hand_over_fails_unexpectedly_is_handed_over_again_and_those_behind_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_queue, "RETRY_S", (0.01,))
    place = Place()
    put = place.put
    failures = iter([RuntimeError("a fault of ours")])

    def broken(rejected: Rejected) -> None:
        if rejected == letter(3):
            for error in failures:
                raise error
        put(rejected)

    place.put = broken  # type: ignore[method-assign]
    place.slow.clear()
    with opened(place, tmp_path) as box:
        box.put(letter(1))
        until(lambda: place.flushes == 1)
        for number in (2, 3, 4):
            box.put(letter(number))
        place.slow.set()
        box.flush()
        assert place.safe == [letter(n) for n in (1, 2, 3, 4)]


# --- what is remembered -----------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 60), max_size=10), max_size=12), st.integers(1, 20))
def test_it_knows_what_was_added_and_forgets_the_oldest_alone(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], kept_max: int
) -> None:
    """Through restarts after every step; the newest ``kept_max`` are always known, a stranger never is."""
    folder = tmp_path_factory.mktemp("kept")
    order: list[int] = []
    for part in parts:
        kept = KeptLetters(folder, kept_max=kept_max)
        new = [n for n in dict.fromkeys(part) if not kept.knows(n)]
        kept.add(new)
        order += new
        for known in (kept, KeptLetters(folder, kept_max=kept_max)):
            assert all(known.knows(n) for n in order[-max(kept_max, len(new)) :][-kept_max:])
            assert not any(known.knows(n) for n in range(61) if n not in order)
    assert sum(len(f.read_bytes()) for f in folder.iterdir()) <= 8 * 2 * (kept_max + 10)


def test_it_says_how_many_it_has_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = KeptLetters(tmp_path, kept_max=3)
    kept.add([1, 2, 3])
    kept.add([4, 5])
    assert (kept.forgotten, caplog.text) == (0, "")
    kept.add([6, 7])
    assert [n for n in range(1, 8) if not kept.knows(n)] == [1, 2, 3]
    assert kept.forgotten == 3
    assert "3 older ones are so no longer, and are kept twice if their events are read again" in caplog.text


def test_a_file_of_what_is_kept_may_be_cut_anywhere(tmp_path: Path) -> None:
    KeptLetters(tmp_path).add([1, 2, 3])
    path = tmp_path / "kept.new"
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = KeptLetters(tmp_path)
        assert [n for n in (1, 2, 3, 4) if kept.knows(n)] == [1, 2, 3][: cut // 8]
        kept.add([4])
        assert [n for n in (1, 2, 3, 4) if KeptLetters(tmp_path).knows(n)] == [*[1, 2, 3][: cut // 8], 4]


def test_another_record_is_another_letter_and_another_fault_is_not() -> None:
    same = [LETTER, replace(LETTER, reason="bad_id", detail="since the configuration was changed")]
    others = [
        replace(LETTER, origin="events[0]@8"),
        replace(LETTER, payload=b"{}"),
        replace(LETTER, key=b"k"),
        replace(LETTER, timestamp_ms=LETTER.timestamp_ms and LETTER.timestamp_ms + 1),  # a topic made anew
    ]
    assert len({KeptLetters.identity(one) for one in same}) == 1
    assert len({KeptLetters.identity(one) for one in [LETTER, *others]}) == 5


# --- what waits for it -----------------------------------------------------


class Source:
    """Notes what it is told."""

    away = False
    caught_up = True
    behind: Collection[int] = ()
    lost: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.told: list[object] = []

    def next_batch(self, timeout_s: float) -> Decoded | None:
        return None

    def position(self) -> Position:
        return {}

    def lag(self) -> Mapping[str, int]:
        return {}

    def hold(self, partitions: Collection[int]) -> None:
        self.told.append(set(partitions))

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")

    def commit(self, position: Position) -> None:
        self.told.append(dict(position))

    def close(self) -> None: ...


def test_reading_is_paused_once_while_it_is_full_and_resumed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outgoing, "LETTERS_MAX", 4)
    place, source = Place(), Source()
    with opened(place, tmp_path) as box:
        backpressure = Backpressure(source, [box.queue])
        place.slow.clear()
        for number in range(6):
            box.put(letter(number))
            backpressure.apply()
            backpressure.apply()
        assert source.told == ["pause"]
        assert backpressure.paused
        assert box.status() == {"kept": 0, "waiting": 6, "failure": None, "forgotten": 0}
        place.slow.set()
        box.flush()
        backpressure.apply()
        backpressure.apply()
        assert source.told == ["pause", "resume"]
        assert not backpressure.paused
    assert [r.levelno for r in caplog.records] == [logging.ERROR, logging.WARNING]
