"""The product's side of the quality benchmark, its tables and its bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.offline_evaluation.bounds import bounds
from benchmarks.offline_evaluation.figures import OURS, set_figures, sliced, slices_of
from benchmarks.offline_evaluation.planted_drift import Oracle, drift_figures, planted
from benchmarks.offline_evaluation.prequential import read_stream, stream_of, targets_at
from benchmarks.offline_evaluation.product import (
    Replay,
    mean_named,
    parts_of,
    ranked,
    retrained,
    write_events,
)
from benchmarks.offline_evaluation.tuning import Spans
from benchmarks.quality import choose_targets, ranks_of_ours
from benchmarks.quality_picture import draw, rows_of, table
from driftgraph.app.demo.shop import ShopOptions
from tests.benchmarks.plain_peers import DAY_MS, tiny_stream

STREAM = stream_of(
    ["a", "b", "a", "a", "b"],
    ["x", "x", "y", "x", "y"],
    ["click"] * 4 + ["buy"],
    np.array([1, 2, 3, 4, 5]) * DAY_MS,
)
PREDICTED = {
    "ts_ms": [5 * DAY_MS, 3 * DAY_MS, 4 * DAY_MS],
    "user_id": ["b", "a", "a"],
    "item_id": ["y", "y", "x"],
    "top_items": [["x", "y"], ["x"], ["x"]],
}


def test_a_prediction_is_ranked_by_its_place_in_the_list() -> None:
    """Where lists may name what the user has touched, a repeat is a target, too."""
    events, ranks = ranked(STREAM, pa.table(PREDICTED), repeats=False)
    assert (events.tolist(), ranks.tolist()) == ([2, 4], [math.inf, 2])
    events, ranks = ranked(STREAM, pa.table(PREDICTED), repeats=True)
    assert (events.tolist(), ranks.tolist()) == ([2, 3, 4], [math.inf, 1, 2])


def test_a_prediction_of_no_event_stops_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="an event that the file has not: c, y"):
        ranked(STREAM, pa.table(PREDICTED | {"user_id": ["c", "a", "a"]}), repeats=True)


def replay_of(stream: Any, seed: int, rank: float) -> Replay:
    first = np.flatnonzero(stream.first_contacts())[seed::2]
    return Replay({"generations": []}, 1.0, first, np.full(len(first), rank))


def test_targets_are_those_of_the_replays_in_the_scored_span() -> None:
    stream = tiny_stream(1, items=30)
    spans = Spans.of(stream)
    replays = {"explore": [replay_of(stream, 0, 1.0), replay_of(stream, 1, math.inf)], "repeats": []}
    targets = choose_targets(stream, spans, replays, every_ms=DAY_MS, most=20, seed=0)
    explored = targets.take(targets.explore)
    assert len(explored) == 20
    assert explored.time_ms.min() >= spans.scoring_ms
    assert targets.repeats.sum() == 20, "the set that ours does not rank is drawn for the peers"
    ours = ranks_of_ours(replays, explored, len(stream))
    assert [np.isfinite(rank).sum() for rank in ours["explore"]] == [10, 0]
    assert [np.isnan(rank).sum() for rank in ours["explore"]] == [10, 10]
    assert ours["repeats"] == []
    runs = {"explore": [], "repeats": replays["explore"]}
    again = choose_targets(stream, spans, runs, every_ms=DAY_MS, most=20, seed=0)
    assert set(again.event[again.repeats]) <= {n for one in runs["repeats"] for n in one.events.tolist()}


def test_differences_are_of_the_targets_that_a_seed_ranked() -> None:
    targets = targets_at(STREAM, np.ones(5, np.bool_), np.zeros(5, np.bool_), every_ms=DAY_MS)
    ours = [np.array([1, np.nan, 1, np.nan, np.nan]), np.array([np.nan, np.inf, np.nan, np.nan, np.nan])]
    peers = {"peer": np.array([np.inf, 1.0, 1.0, np.inf, np.inf])}
    found = set_figures(ours, peers, targets, seed=0)
    assert found[OURS]["recall_at_20"] == pytest.approx(2 / 3)
    assert found["peer"]["recall_at_20"] == pytest.approx(2 / 5)
    assert found["peer"]["recall_at_20_behind"] == pytest.approx(0)
    low, high = found["peer"]["recall_at_20_behind_95"]
    assert (low, high) == (-1.0, pytest.approx(0.5)), "user b alone, or user a alone"
    assert set_figures([], peers, targets, seed=0)[OURS] is None


def test_slices_know_what_was_before() -> None:
    targets = targets_at(STREAM, np.ones(5, np.bool_), np.zeros(5, np.bool_), every_ms=2 * DAY_MS)
    masks = {name: mask.astype(int).tolist() for name, mask in slices_of(STREAM, targets).items()}
    assert masks["new user"] == [1, 1, 0, 0, 0]
    assert masks["item new in the window"] == [1, 0, 1, 0, 0]
    assert masks["repeat"] == [0, 0, 0, 1, 0]
    assert masks["buy"] == [0, 0, 0, 0, 1]
    assert masks["head"] == [0, 1, 0, 1, 0]
    row = sliced([], {"peer": np.array([1.0, 1, np.inf, 1, np.inf])}, slices_of(STREAM, targets))["head"]
    assert (row["targets"], row["peer"]["recall_at_20"], row[OURS]) == (2, 1.0, None)


def test_parts_weigh_by_events_and_numbers_are_found_at_any_depth() -> None:
    def generation(ends_ms: int, count: int, recall: float) -> dict[str, Any]:
        values = {"recall_at_20": recall, "ndcg_at_20": recall, "mrr_at_20": recall}
        return {
            "watermark_ms": ends_ms,
            "evaluated_events": count,
            "metrics": values,
            "baselines": {},
            "a": [{"overlap": recall}],
        }

    made = [generation(1, 9, 0.9), generation(5, 1, 0.2), generation(6, 3, 0.4)]
    one = Replay({"generations": made}, 1.0, np.zeros(0, np.int64), np.zeros(0))
    assert parts_of([one], 1)["model"]["recall_at_20"] == pytest.approx(0.35)
    assert parts_of([one], 1, 5)["model"]["recall_at_20"] == pytest.approx(0.2)
    assert mean_named([one], "overlap") == pytest.approx(0.5)
    assert mean_named([one], "forgetting") is None


def figures(name: str, ours: float, peer: float) -> dict[str, Any]:
    names = ("popularity", "co_visitation", "ease", "ials", "session_knn")
    rows: dict[str, Any] = {
        one: {"recall_at_20": peer, "ndcg_at_20": peer, "ndcg_at_20_behind_95": [0.001, 1]} for one in names
    }
    rows[OURS] = {"recall_at_20": ours, "ndcg_at_20": ours}
    product = {
        "parts": {"explore": {"model": {"recall_at_20": ours}, "frozen_first": {"recall_at_20": ours / 2}}},
        "whole": {"explore": {"recall_at_20": ours}},
        "stability": {"item_cosine": 0.99, "overlap": 0.95, "forgetting": None},
    }
    return {"dataset": name, "explore": {"event": rows}, "repeats": {"event": rows}, "product": product}


@pytest.mark.parametrize(
    ("name", "ours", "peer", "holds"),
    [
        ("taobao_9d", 0.053, 0.040, True),
        ("taobao_9d", 0.050, 0.040, False),
        ("kuairand", 0.123, 0.090, True),
        ("kuairand", 0.115, 0.090, False),
        ("tmall2013", 0.079, 0.074, True),
        ("tmall2013", 0.077, 0.074, False),
        ("file.csv", 0.02, 0.01, True),
    ],
)
def test_bounds_follow_the_figures(name: str, ours: float, peer: float, holds: bool) -> None:
    found = bounds(figures(name, ours, peer))
    assert all(one.ok for one in found if one.name.startswith(name)) is holds
    forgetting = next(one for one in found if one.name == "forgetting")
    assert (forgetting.value, forgetting.ok) == (None, False), "what is not measured does not hold"


def test_the_picture_and_the_table_have_the_product_its_parts_and_the_peers_best_first(
    tmp_path: Path,
) -> None:
    values = {"recall_at_20": 0.02, "ndcg_at_20": 0.01}
    peer = values | {"recall_at_20_behind": 0.01, "recall_at_20_behind_95": [-0.002, 0.02]}
    rows = {OURS: {"recall_at_20": 0.03, "ndcg_at_20": 0.02}, "item_knn": peer}
    told: dict[str, Any] = {
        "dataset": "a", "every": "1d", "fit": "auto",
        "explore": {"targets": 1_234, "event": rows},
        "repeats": {"targets": 0, "event": {OURS: None, "item_knn": values}},
        "product": {
            "parts": {"explore": {"model": values, "frozen_first": values | {"recall_at_20": 0.04}}},
            "whole": {"explore": values | {"targets": 2_345}},
        },
    }  # fmt: skip
    assert [row.name for row in rows_of(told, "explore")] == [f"{OURS}: frozen first", OURS, "item_knn"]
    assert rows_of(told, "repeats") == [], "the product was not measured there"
    assert table(told, "explore").splitlines()[-2:] == [
        "| item_knn | .0200 | .0100 | .0100 (-.0020 … .0200) |",
        "| driftgraph, all 2,345 targets | .0200 | .0100 | |",
    ]
    assert "1,234 targets" in table(told, "explore")
    draw([told], tmp_path / "drawn.svg")
    drawn = (tmp_path / "drawn.svg").read_text()
    for word in (f"{OURS}: frozen first", "item_knn", ".0400", "first contacts, Recall@20"):
        assert f">{word}<" in drawn
    product: Any = told["product"]
    product["whole"]["explore"]["recall_at_20"] = 0.01
    assert rows_of(told, "explore")[0].name == f"{OURS}: frozen first (copies counted)"


def test_the_oracle_of_the_planted_drift_regains_everything_and_a_stale_one_does_not(tmp_path: Path) -> None:
    options = ShopOptions(
        user_count=60,
        item_count=300,
        category_count=10,
        event_count=6_000,
        span_ms=4 * DAY_MS,
        drifting_share=0.4,
    )
    shop, dataset = planted(tmp_path, options, "12h")
    stream = dataset.read()
    assert len(stream) == len(shop)
    first = np.flatnonzero(stream.first_contacts())
    oracle, value = Oracle(shop, stream), np.zeros(len(stream.item_ids))
    for stale, low, high in ((False, 0.95, 1.05), (True, 0.0, 0.6)):
        found = np.zeros(len(first))
        seen: dict[int, set[int]] = {}
        for n, event in enumerate(first.tolist()):
            user, item, time_ms = int(stream.user[event]), int(stream.item[event]), int(stream.time_ms[event])
            oracle.score(user, min(time_ms, options.drift_ms - 1) if stale else time_ms, value)
            rivals = np.delete(value, list(seen.setdefault(user, set())))
            found[n] = 1 + (rivals > value[item]).sum()
            seen[user].add(item)
        one = Replay({"generations": []}, 1.0, first, found)
        assert low <= drift_figures(shop, dataset, stream, [one])["regained"] <= high


def test_a_prefix_reads_as_the_stream_before_it(tmp_path: Path) -> None:
    stream = tiny_stream(2)
    stream = replace(stream, time_ms=stream.time_ms + 20_000 * DAY_MS)  # such times are milliseconds
    write_events(stream, tmp_path / "prefix.csv", 20_003 * DAY_MS)
    read = read_stream(tmp_path / "prefix.csv")
    end = int(np.searchsorted(stream.time_ms, 20_003 * DAY_MS))
    assert 0 < end < len(stream)
    assert read.time_ms.tolist() == stream.time_ms[:end].tolist()
    assert [read.item_ids[n] for n in read.item] == [stream.item_ids[n] for n in stream.item[:end]]


def test_a_model_made_anew_is_judged_on_the_window_alone(tmp_path: Path) -> None:
    options = ShopOptions(
        user_count=120, item_count=120, category_count=6, event_count=3_000, span_ms=3 * DAY_MS, seed=3
    )
    shop, dataset = planted(tmp_path, options, "12h")
    window_ms = options.start_ms + 2 * DAY_MS
    made = retrained(dataset, dataset.read(), window_ms, 0, tmp_path)
    assert made.end_ms == window_ms + DAY_MS // 2
    known_ms = shop.time_ms[shop.time_ms < made.begin_ms].max()
    assert known_ms + 1 == made.begin_ms, "it begins behind the newest event that the fit had"
    assert abs(known_ms - window_ms) < 3_600_000, "events are minutes apart"
    assert made.cpu_s > 0
    assert made.next_cpu_s > 0, "a second fit is made of the window's own events"
    assert 0 <= made.metrics["ndcg_at_20"] <= 1
    inside = (shop.time_ms >= made.begin_ms) & (shop.time_ms < made.end_ms)
    assert 0 < made.targets <= inside.sum(), "first contacts of the window"
