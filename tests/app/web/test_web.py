"""The HTTP port as its clients have it: a process of its own over status files and a real Redis."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.console.status_files import told, write_json
from driftgraph.app.console.troubles import Facts
from driftgraph.app.live.web_process import WebProcess
from driftgraph.app.publishing.freshness import Freshness
from driftgraph.app.training.work_counts import WorkCounts
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.app.web.metrics import exposition
from driftgraph.app.web.openapi import ROUTES
from driftgraph.model.fitting.fit_report import FitReport, no_fit
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.snapshots.reading.where import Wanted
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.time.clock import ManualClock, SystemClock
from tests.app.web.serving import TOKEN, Port, served, settings_of, updater_says, updater_status
from tests.app.web.troubled import DELISTED, facts
from tests.services_redis import ITEMS, NAMESPACE, USERS, publish
from tests.snapshots.test_where import publish as publish_with_attributes
from tests.waits import until

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def port(tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis_py.Redis) -> Iterator[Port]:
    """With an empty Redis, an updater that is well, and a token."""
    assert redis_client.ping()
    updater_says(tmp_path)
    with served(settings_of(tmp_path, redis_server.url, token=TOKEN)) as found:
        yield found


def worker_says(folder: Path) -> None:
    """Write the status of a worker that has refreshed."""
    refresh = {"users": 3, "items": 2, "waiting": 0, "freshness": Freshness().facts(), "trouble": None}
    now_ms = SystemClock().now_ms()
    work = WorkCounts()
    work.fitted(FitReport(1, True, "", "", 9, 1, 0.5, 9, 0, 0, {}), 2_000)
    told = {"pid": 1, "state": "running", "time_ms": now_ms, "moved_ms": now_ms, "stage": None}
    told |= {"work": work.facts(), "gpu": {"allocated": 1, "reserved": 2, "total": 3}}
    write_json(folder / "status" / "worker.json", {**told, "trouble": None, "refresh": refresh})


def names_in(metrics: str) -> list[str]:
    """Each with its kind, a line each."""
    return sorted(re.findall(r"^# TYPE (\w+ \w+)$", metrics, re.MULTILINE))


def test_a_generation_is_seen_and_recommends(port: Port, store: GenerationStore, tmp_path: Path) -> None:
    publish(store, 1)
    until(lambda: "driftgraph_generation 1.0" in port.ask("/metrics")[1])
    updater_says(tmp_path)
    worker_says(tmp_path)
    assert port.ask("/livez")[0] == 200
    assert port.ask("/readyz")[1] == {"ready": True, "troubles": []}
    status, metrics = port.ask("/metrics")
    assert status == 200
    assert 'driftgraph_events_total{outcome="applied"} 21.0' in metrics
    assert "driftgraph_generation 1.0" in metrics
    assert f"driftgraph_published_users {float(len(USERS))}" in metrics
    known = (GOLDEN / "metrics.txt").read_text(encoding="utf-8").splitlines()
    assert names_in(metrics) == known, "a dashboard or an alert may name it: change the golden file knowingly"
    assert port.ask("/api/status")[1]["generation"] == 1
    assert [one["generation"] for one in port.ask("/api/generations")[1]] == [1]
    found = port.ask("/api/recommend/u3?top=5", token=TOKEN)[1]
    assert (found["user"], found["generation"], len(found["items"])) == ("u3", 1, 5)
    assert {one["item"] for one in found["items"]} <= set(ITEMS)
    assert port.ask("/api/similar/i1")[1]["generation"] == 1


def test_only_who_has_the_token_sees_a_user_or_changes_something(port: Port, store: GenerationStore) -> None:
    publish(store, 1)
    publish(store, 2)
    for route in (one for one in ROUTES if one.private):
        path = route.path.format(user="u1")
        for token in (None, "", TOKEN[:-1], f"{TOKEN}x", "é"):
            assert port.ask(path, method=route.method, token=token)[0] == 401
    assert store.served().number == 2  # type: ignore[union-attr]
    assert port.ask("/api/rollback", token=TOKEN)[0] == 405, "a link or an image must not roll back"
    assert port.ask("/api/rollback", method="POST", token=TOKEN) == (
        200,
        {"generation": 1, "was": 2, "held": False, "at_ms": store.choices.newest().act_ms},
    )
    assert store.served().number == 1  # type: ignore[union-attr]
    status, said = port.ask("/api/rollback", method="POST", token=TOKEN)
    assert status == 409
    assert "no generation before 1" in said["error"]


def test_without_a_token_nobody_sees_a_user(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    with served(settings_of(tmp_path, redis_server.url)) as port:
        status, said = port.ask("/api/recommend/u1", token=TOKEN)
        assert status == 403
        assert "set web.token" in said["error"]
        assert port.ask("/livez")[0] == 200, "before the first status it starts"


@pytest.mark.parametrize(
    "user", ["a b", "a:b", "{x}", "a/b/../c", "a\nb", "𝄞", "?top=3", "%2e%2e", "x" * 1_024]
)
def test_any_id_is_asked_for_as_it_is(port: Port, store: GenerationStore, user: str) -> None:
    publish(store, 1)
    found = port.ask(f"/api/recommend/{quote(user, safe='')}", token=TOKEN)
    assert found[0] == 200
    assert found[1]["user"] == user


def test_where_over_http_is_that_of_the_reader(
    port: Port, store: GenerationStore, redis_client: redis_py.Redis
) -> None:
    publish_with_attributes(store)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    asked: list[dict[str, Wanted]] = [{"sort": "shoes"}, {"tags": ["red", "two words"], "price": [None, 2.5]}]
    for where in asked:
        path = f"/api/recommend/u1?top=5&where={quote(json.dumps(where))}"
        found, wanted = port.ask(path, token=TOKEN)[1], reader.recommend("u1", 5, where=where)
        assert [(one["item"], one["score"]) for one in found["items"]] == wanted.items
        assert len(wanted.items) == 5


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("sort=shoes", "where must be a JSON object such as"),
        ('{"sort": []}', "where['sort'] must be a text, several texts, or two numbers"),
        ('{"colour": "red"}', "has no attribute 'colour' of items to choose by, but 'sort', 'tags'"),
    ],
)
def test_a_where_that_cannot_be_asked_is_the_requests_fault(
    port: Port, store: GenerationStore, where: str, said: str
) -> None:
    publish_with_attributes(store)
    status, answer = port.ask(f"/api/recommend/u1?where={quote(where)}", token=TOKEN)
    assert status == 400
    assert said in answer["error"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/recommend/u1?top=0", "top should be"),
        ("/api/recommend/u1?top=1001", "top should be"),
        ("/api/recommend/u1?top=%C2%B2", "top should be"),
        ("/api/recommend/" + "x" * 1_025, "1,025 characters"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(port: Port, path: str, said: str) -> None:
    status, answer = port.ask(path, token=TOKEN)
    assert status == 400
    assert said in answer["error"]


def test_every_route_is_described_and_unknown_ones_are_not_there(port: Port) -> None:
    paths = port.ask("/api/openapi.json")[1]["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == {
        (route.method, route.path) for route in ROUTES
    }
    known = (GOLDEN / "routes.txt").read_text(encoding="utf-8").splitlines()
    assert [f"{route.method} {route.path}" for route in ROUTES] == known
    assert port.ask("/api/nothing")[0] == 404
    assert port.ask("/livez", method="DELETE")[0] == 405


def test_a_redis_that_goes_away_is_said_and_nothing_hangs(tmp_path: Path) -> None:
    with EmbeddedRedis() as server:
        updater_says(tmp_path)
        with served(settings_of(tmp_path, server.url, token=TOKEN)) as port:
            until(lambda: "no_generation" in str(port.ask("/readyz")[1]))
            server.stop()
            until(lambda: "redis_away" in str(port.ask("/readyz")[1]))
            assert "driftgraph_redis_up 0.0" in port.ask("/metrics")[1]
            assert port.ask("/api/recommend/u1", token=TOKEN)[0] == 503
            updater_says(tmp_path)
            assert port.ask("/livez")[0] == 200, "life asks no dependency"


def test_an_updater_that_stands_still_is_not_alive(port: Port, tmp_path: Path) -> None:
    updater_says(tmp_path, time_ms=SystemClock().now_ms() - 60_000)
    assert port.ask("/livez")[0] == 503
    assert "updater_silent" in str(port.ask("/readyz")[1])
    updater_says(tmp_path)
    assert port.ask("/livez")[0] == 200


def test_a_port_that_is_taken_is_said_and_taken_later(
    tmp_path: Path, redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            number = holder.getsockname()[1]
            stack.enter_context(
                WebProcess(settings_of(tmp_path, redis_server.url, listen=f"127.0.0.1:{number}"))
            )
            until(lambda: "cannot listen on web.listen" in caplog.text)
        until(lambda: (told(tmp_path, "web") or {}).get("port") == number)


def test_it_ends_when_the_updater_is_killed(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.app.web.serving import served, settings_of\n"
        "if __name__ == '__main__':\n"
        "    with served(settings_of(Path(sys.argv[1]), sys.argv[2])): time.sleep(600)\n"
    )
    script = tmp_path / "updater.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    arguments = [sys.executable, str(script), str(tmp_path), redis_server.url]
    with subprocess.Popen(arguments, env=environment) as updater:
        try:
            until(lambda: (told(tmp_path, "web") or {}).get("port"))
        finally:
            updater.send_signal(signal.SIGKILL)
    until(lambda: (told(tmp_path, "web") or {})["state"] == "gone")


def test_how_far_delistings_are_behind_is_a_metric() -> None:
    told = {"delisted": DELISTED | {"behind_ms": 1_500, "lag": {"gone[0]": 3, "gone[1]": 4}}}
    text = exposition(facts(updater=told), "0").decode()
    assert "driftgraph_topic_delisted_lag_messages 7.0" in text
    assert "driftgraph_topic_delisted_lag_seconds 1.5" in text


def test_the_quality_of_every_scorer_is_a_metric_and_of_nobody_is_left_out() -> None:
    metrics = {"model": {"recall_at_20": 0.25, "events": 90}, "co_visitation": {"recall_at_20": None}}
    manifest = {"metrics": json.dumps(metrics), "model_version": "3"}
    text = exposition(facts(manifest=manifest), "0").decode()
    assert 'driftgraph_quality{metric="recall_at_20",scorer="model"} 0.25' in text
    assert "co_visitation" not in text
    assert "driftgraph_model_version 3.0" in text


def test_fits_publishes_and_errors_are_counted_from_what_the_worker_says(tmp_path: Path) -> None:
    clock = ManualClock(1_000_000)
    status = WorkerStatus(tmp_path / "worker.json", clock, NoProgress())
    on_step = status.steps("training")
    for attempt in (1, 2):  # the gate refuses the first attempt of a fit
        for step in range(1, 8):
            clock.advance(500)
            on_step(attempt, step, 7)
    status.fitted(FitReport(1, True, "", "", 7, 2, 0.25, 9, 0, 0, {}, ("popularity",)))
    status.steps("training")
    status.fitted(FitReport(1, False, "holdout", "worse", 7, 0, math.nan, 9, 0, 0, {}))
    status.fitted(no_fit(1))
    status.start("publishing")
    status.published(3_000)
    status.work.redis_errors["refresh"] += 1
    status.close()
    text = exposition(facts(worker=json.loads((tmp_path / "worker.json").read_bytes())), "0").decode()
    for sample in (
        'gate_decisions_total{reason="accepted"} 1', 'gate_decisions_total{reason="holdout"} 1',
        "fit_steps_total 14", "fit_skipped_steps_total 2", "fit_seconds_total 7", "publishes_total 1",
        "publish_seconds_total 3", 'redis_errors_total{operation="refresh"} 1',
        'redis_errors_total{operation="publish"} 0',
    ):  # fmt: skip
        assert f"driftgraph_{sample}.0\n" in text, sample
    assert "no_events" not in text
    assert "driftgraph_fit_loss" not in text, "the newest fit took no step with a finite loss"
    assert "gpu" not in text


def test_a_status_of_an_older_release_gives_the_metrics_that_it_has() -> None:
    told = dict(updater_status())
    for name in ("expired", "window_bytes", "held_partitions"):
        del told[name]
    del told["checkpoint"]["bytes"]
    found = Facts(1, told, None, None, generation=0, manifest={}, redis_error=None)
    assert "driftgraph_events_total" in exposition(found, "0").decode()


def test_how_long_events_wait_is_a_histogram() -> None:
    freshness = Freshness()
    freshness.served(10_000, np.array([9_980, 9_300, 0]), np.array([9_990, 9_990, 9_990]))
    refresh = {
        "generation": 1,
        "users": 3,
        "items": 2,
        "waiting": 0,
        "freshness": freshness.facts(),
        "trouble": None,
    }
    text = exposition(facts(worker={"refresh": refresh}), "0").decode()
    for end, count in (("0.05", 1), ("0.6", 1), ("0.7", 2), ("5", 2), ("10", 3), ("+Inf", 3)):
        assert f'driftgraph_servable_seconds_bucket{{le="{end}",origin="event"}} {float(count)}' in text
    assert 'driftgraph_servable_seconds_bucket{le="0.05",origin="received"} 3.0' in text
    assert "driftgraph_refreshed_users_total 3.0" in text


@pytest.mark.parametrize("listen", ["8350", "localhost", "a:70000", ":8350", "a b:1"])
def test_an_address_without_sense_is_refused(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match=r"web\.listen"):
        settings_of(tmp_path, "redis://localhost", listen=listen)
