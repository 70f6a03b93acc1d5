"""The history of quality: held against the plainest record of what was served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.app.web import quality
from driftgraph.app.web.quality import QualityHistory, row_of
from driftgraph.snapshots.generations.retention import Generation


def generation(number: int, *, recall: float | None = 0.5, published_ms: int = 0) -> Generation:
    told = {"model_version": str(number), "published_ms": str(published_ms or 1_000 * number)}
    if recall is not None:
        told["metrics"] = json.dumps({"model": {"recall_at_20": recall}, "frozen_first": {}})
    return Generation(number, True, told)


def test_what_redis_keeps_no_more_is_still_known_after_a_restart(tmp_path: Path) -> None:
    history = QualityHistory(tmp_path)
    assert history.rows() == []
    history.saw([generation(1, recall=0.1), generation(2, recall=0.2)])
    history.saw([generation(2, recall=0.2), generation(3, recall=0.3)])
    for found in (history, QualityHistory(tmp_path)):
        recalls = [row["recall_at_20"]["model"] for row in found.rows()]
        assert recalls == [0.1, 0.2, 0.3]


def test_a_namespace_that_begins_anew_begins_a_new_history(tmp_path: Path) -> None:
    history = QualityHistory(tmp_path)
    history.saw([generation(1), generation(2), generation(3)])
    history.saw([generation(1, published_ms=99_000)])
    assert [(row["generation"], row["published_ms"]) for row in history.rows()] == [(1, 99_000)]
    history.saw([generation(2, published_ms=99_500), generation(3, published_ms=99_600)])
    history.saw([generation(2, published_ms=200_000), generation(3, published_ms=201_000)])
    assert [row["published_ms"] for row in history.rows()] == [200_000, 201_000], "1 is of the one before"


def test_a_rollback_forgets_nothing(tmp_path: Path) -> None:
    """The newer generation stays in Redis, until it is the oldest."""
    history = QualityHistory(tmp_path)
    history.saw([generation(1), generation(2)])
    history.saw([generation(1), generation(2)])
    assert [row["generation"] for row in history.rows()] == [1, 2]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), max_size=12))
def test_it_is_the_newest_of_all_that_were_seen(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    """Publish one after the other, and look after some: Redis keeps three, we keep four."""
    folder = tmp_path_factory.mktemp("quality")
    history, seen, newest = QualityHistory(folder), set[int](), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "KEPT", 4)
        for published, restarts in steps:
            newest += published
            kept = list(range(max(1, newest - 2), newest + 1))
            history.saw([generation(number) for number in kept])
            seen = set(sorted(seen | set(kept))[-4:])
            if restarts == 0:
                history = QualityHistory(folder)
            assert [row["generation"] for row in history.rows()] == sorted(seen)


def test_a_file_that_was_cut_off_is_a_new_history(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "quality.json").write_bytes(b'[{"generation": 1')
    history = QualityHistory(tmp_path)
    history.saw([generation(4)])
    assert [row["generation"] for row in QualityHistory(tmp_path).rows()] == [4]


def test_a_row_has_only_what_was_measured() -> None:
    assert row_of(3, generation(3, recall=0.25).manifest) == {
        "generation": 3, "model_version": 3, "published_ms": 3_000, "evaluated_events": 0,
        "recall_at_20": {"model": 0.25}, "shares": {},
    }  # fmt: skip
    assert row_of(1, generation(1, recall=None).manifest)["recall_at_20"] == {}
    assert row_of(1, {})["published_ms"] == 0
