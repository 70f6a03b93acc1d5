"""Drift in a manifest and in words: both say what the report says, and a moved user can leave a manifest."""

from __future__ import annotations

from typing import Any

import redis

from driftgraph.app.console.drift_text import MOVED_USER, drift_in, fields_of, lines_of
from driftgraph.snapshots.generations.store import GenerationStore
from tests.services_redis import filled

METRICS = {"recall_at_20": 0.31, "ndcg_at_20": 0.2, "mrr_at_20": 0.1}
STALE: dict[str, Any] = {
    "events": 1_200,
    "vectors": METRICS,
    "fits_ago": {"1": {**METRICS, "recall_at_20": 0.3}, "8": {**METRICS, "recall_at_20": 0.12}},
}
DRIFT: dict[str, Any] = {
    "users": {
        "measured": 812,
        "median": 0.1,
        "top": [{"id": "u1", "score": 0.93}, {"id": "a:b", "score": 0.5}],
    },
    "items": {
        "measured": 40,
        "median": 0.02,
        "top": [{"id": "shoes-017", "score": 0.25}, {"id": "hats-1", "score": 0.004}],
    },
    "behaviors": {
        "click": {"share_before": 0.8, "share": 0.6, "distance": 0.125},
        "buy": {"share_before": 0.2, "share": 0.4, "distance": None},
    },
}


def test_a_manifest_says_what_the_report_says() -> None:
    fields = {name: str(value) for name, value in fields_of(DRIFT, STALE).items()}
    assert drift_in(fields) == {"drift": DRIFT, "staleness": STALE}
    assert drift_in({"users": "3"}) == {"drift": None, "staleness": None}


def test_it_is_said_in_words() -> None:
    assert list(lines_of(DRIFT, STALE)) == [
        "users that moved most (the median of 812 is 0.10): u1 0.93, a:b 0.50",
        "items that moved most (the median of 40 is 0.02): shoes-017 0.25",
        "behaviors: click 80 % → 60 % of the events, items apart 0.12; buy 20 % → 40 % of the events",
        "Recall@20 of vectors on 1,200 events: served 0.3100, as published 1 fit ago 0.3000, "
        "8 fits ago 0.1200",
    ]
    assert list(lines_of(None, None)) == []


def test_behaviors_without_a_share_are_left_out() -> None:
    nothing = {"share_before": None, "share": None, "distance": None}
    quiet = {"measured": 0, "median": 0.0, "top": []}
    drift = {"users": quiet, "items": quiet, "behaviors": {"click": nothing, "buy": nothing}}
    assert list(lines_of(drift, None)) == []


def test_an_erased_user_leaves_the_manifest(store: GenerationStore, redis_client: redis.Redis) -> None:
    store.publish(1, filled("u", 3, 1), filled("i", 2, 1), fields_of(DRIFT, STALE))
    store.erase(["a:b"])
    [found] = store.generations()
    [left] = drift_in(found.manifest)["drift"]["users"]["top"]
    assert left == {"id": "u1", "score": 0.93}
    assert redis_client.hget("shop:emb:1:manifest", f"{MOVED_USER}a:b") is None
