"""The external sort: the plainest sort says the same, memory stays small, and a full disk is one sentence."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import EMPTY, Decoded, Erasure
from driftgraph.stream.formats.event_rules import Event
from driftgraph.stream.formats.rules_by_column import batch_of, concat
from driftgraph.stream.sources import event_sort
from driftgraph.stream.sources.event_sort import EventSort
from tests.decoded import events_of

Given = list[tuple[int, str]]  # (time, kind): an event, or a request to erase with or without a time
rows = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(["event"] * 6 + ["id", "erase", "erase now"])), max_size=60
)


def reads(given: Given, size: int) -> list[Decoded]:
    """The rows in reads of ``size``; each has a user of its own, so that ties can be told apart."""
    found = []
    for start in range(0, len(given), size):
        events: list[Event] = []
        erased: list[Erasure] = []
        for number, (time_ms, kind) in enumerate(given[start : start + size], start):
            if kind.startswith("erase"):
                erased.append(Erasure(f"u{number}", len(events), time_ms if kind == "erase" else None))
            else:
                events.append(
                    Event(
                        f"u{number}", "ü" * (number % 3 + 1), number % 5, time_ms, kind[:2] * (kind == "id")
                    )
                )
        found.append(Decoded(batch_of(events, EMPTY.partition), erased=tuple(erased)))
    return found


def plain(given: Given) -> list[tuple[int, str, bool]]:
    """(time, user, whether it is a request) in the order that is right, in the plainest way."""
    newest, keyed = 0, []
    for number, (time_ms, kind) in enumerate(given):
        if not kind.startswith("erase"):
            newest = max(newest, time_ms)
        keyed.append((newest if kind == "erase now" else time_ms, f"u{number}", kind.startswith("erase")))
    return sorted(keyed, key=lambda row: row[0])  # stable


def flat(parts: list[Decoded]) -> list[tuple[int, str, bool]]:
    found: list[tuple[int, str, bool]] = []
    for part in parts:
        events = [(time_ms, user, False) for user, _, _, time_ms, *_ in events_of(part.batch)]
        for one in reversed(part.erased):
            events.insert(one.place, (one.time_ms or 0, one.user, True))
        found += events
    return found


def sorted_by(folder: Path, given: Given, size: int = 7) -> list[Decoded]:
    sort = EventSort(folder)
    for part in reads(given, size):
        sort.add(part)
    assert sort.count == len(given)
    parts = list(sort.sorted())
    sort.close()
    sort.close()
    return parts


@pytest.mark.parametrize("run_bytes", [1, 5_000, 1 << 30])
@pytest.mark.parametrize("runs_max", [2, 3, 64])
@settings(max_examples=40)
@given(given=rows, size=st.integers(1, 20), piece_bytes=st.sampled_from([1, 100, 1 << 20]))
def test_it_agrees_with_the_plainest_sort(
    run_bytes: int, runs_max: int, given: Given, size: int, piece_bytes: int
) -> None:
    """Ties keep their order wherever runs and pieces end; requests stand where they reach the same."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(event_sort, "RUN_BYTES", run_bytes)
        patch.setattr(event_sort, "RUNS_MAX", runs_max)
        patch.setattr(event_sort, "PIECE_BYTES", piece_bytes)
        patch.setattr(event_sort, "BATCH_ROWS_MAX", 4)
        parts = sorted_by(Path(folder), given, size)
        assert flat(parts) == plain(given)
        assert all(part.read_count <= 4 for part in parts)
        assert os.listdir(folder) == [], "a run has a name"


def test_every_column_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sort, "RUN_BYTES", 1)
    given = [(9 - n, "id" if n % 2 else "event") for n in range(8)]
    batch = concat([part.batch for part in sorted_by(tmp_path, given)])
    expected = sorted(
        (event for part in reads(given, 7) for event in events_of(part.batch)), key=lambda e: e[3]
    )
    assert events_of(batch) == expected
    assert batch.time_ms.flags.writeable
    assert batch.relation.dtype == np.uint8


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_sort, "RUN_BYTES", 1)

    class Full:
        def __init__(self, **_: Any) -> None:
            self.closed = False

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(
        SourceError, match=f"cannot be sorted in {tmp_path}: the disk is full; free some space"
    ) as told:
        sorted_by(tmp_path, [(2, "event"), (1, "event")])
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_sort, "RUN_BYTES", 1)
    with pytest.raises(SourceError, match=r"cannot be sorted in .*none: No such file"):
        sorted_by(tmp_path / "none", [(2, "event"), (1, "event")])
