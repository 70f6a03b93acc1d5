"""The HTTP port of a real ``driftgraph run``: a real Kafka, a real Redis, and what happens to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.status_files import told
from driftgraph.snapshots.generations.keys import connect
from driftgraph.stream.time.clock import SystemClock
from tests.app.web.serving import TOKEN, Port
from tests.browsers import OpenPage
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import CODE, TASTED, RunningUpdater, configured, model_served, two_tastes, until

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def running(
    real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Port, RunningUpdater]]:
    """A run that serves its model, and the port of its own."""
    topic, folder = f"web-{uuid4().hex[:8]}", tmp_path_factory.mktemp("web")
    make_topic(real_kafka.address, topic, 2)
    tasted = two_tastes(TASTED, SystemClock().now_ms() - 3_600_000)
    produce(
        real_kafka.address,
        topic,
        [{"value": event(u, i, time_ms=t), "key": u, "timestamp": t} for u, i, t in tasted]
        + [{"value": b"{"}],
    )
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        config = configured(folder, kafka=real_kafka.address, topic=topic, redis=server.url)
        with config.open("a", encoding="utf-8") as file:
            file.write(f'\n[web]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n')
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        stack.enter_context(pytest.MonkeyPatch.context()).delenv("DRIFTGRAPH__WEB__LISTEN")
        updater = stack.enter_context(RunningUpdater(config))
        until("the model is served", lambda: updater.status() and model_served(client), 300)
        found = told(folder / "var", "web")
        assert found is not None
        yield Port(f"http://{found['host']}:{found['port']}"), updater


def value_of(port: Port, sample: str) -> float:
    match = re.search(rf"^{re.escape(sample)} (\S+)$", port.ask("/metrics")[1], re.MULTILINE)
    assert match is not None, f"no {sample}"
    return float(match[1])


def troubles(port: Port) -> set[str]:
    return {one["code"] for one in port.ask("/readyz")[1]["troubles"]}


def test_all_is_well_and_counted(running: tuple[Port, RunningUpdater]) -> None:
    port, updater = running
    until("it is ready", lambda: port.ask("/readyz")[0] == 200)
    assert port.ask("/livez")[0] == 200
    updater.wait_for("all are counted", lambda s: s["events"]["read"] == TASTED + 1)
    until("the metrics have them", lambda: value_of(port, "driftgraph_events_consumed_total") == TASTED + 1)
    assert value_of(port, 'driftgraph_events_total{outcome="applied"}') == TASTED
    assert value_of(port, 'driftgraph_events_rejected_total{reason="bad_json"}') == 1
    assert value_of(port, 'driftgraph_window_events{relation="click"}') == TASTED
    assert value_of(port, "driftgraph_worker_up") == 1
    assert value_of(port, 'driftgraph_memory_bytes{process="worker"}') > 1e7


def test_a_user_is_recommended_what_redis_has(running: tuple[Port, RunningUpdater]) -> None:
    port, _ = running
    found = port.ask("/api/recommend/u1?top=3", token=TOKEN)[1]
    assert (found["source"], len(found["items"])) == ("list", 3)


def test_the_page_shows_a_run_and_one_user_of_it(
    running: tuple[Port, RunningUpdater], open_page: OpenPage
) -> None:
    port, _ = running
    page = open_page(port.address)
    health, shown = page.locator("#health-said"), page.locator("#person-shown")
    until("all is well", lambda: "All is well" in health.inner_text())
    until("the window is counted", lambda: f"{TASTED:,}" in page.locator("#tiles").inner_text())
    until("the bad event is counted", lambda: "bad json" in page.locator("#rejected-shown").inner_text())
    page.get_by_label("The user's id").fill("u1")
    page.keyboard.press("Enter")
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    until("the reasons are shown", lambda: "Because" in shown.inner_text())
    assert "click" in shown.locator(".card").first.inner_text(), "what the user did is beside"


def test_the_worker_says_why_and_what_a_user_did(running: tuple[Port, RunningUpdater]) -> None:
    port, updater = running

    def told() -> Any:
        return port.ask("/api/recommend/u1?top=3&why=true", token=TOKEN)[1]

    until("the worker knows the user", lambda: "why_not" not in told())
    for one in told()["items"]:
        assert sum(one["why"]["parts"].values()) == pytest.approx(one["score"], rel=1e-3, abs=1e-3)
        assert one["why"]["says"].startswith("because ")
    recent = port.ask("/api/events/recent/u1?top=1000", token=TOKEN)[1]["events"]
    assert recent == sorted(recent, key=lambda event: -event["event_ms"])
    assert {one["behavior"] for one in recent} == {"click"}
    command = [
        sys.executable,
        "-c",
        CODE,
        "recommend",
        "u1",
        "--top",
        "3",
        "--why",
        "--config",
        str(updater.config),
    ]
    for is_json in (True, False):
        done = subprocess.run(
            [*command, *(["--json"] if is_json else [])], capture_output=True, text=True, check=True
        )
        if is_json:
            assert json.loads(done.stdout)["items"][0]["why"]["says"] == told()["items"][0]["why"]["says"]
        else:
            assert "because " in done.stdout


def test_posted_events_are_applied_and_bad_ones_shown(running: tuple[Port, RunningUpdater]) -> None:
    port, updater = running
    before = updater.status()["events"]["applied"]
    batch = [
        {"user_id": "poster", "item_id": f"i{n}", "behavior": "click", "ts": SystemClock().now_ms() + n}
        for n in range(5)
    ]
    said = port.ask("/api/events", method="POST", token=TOKEN, body=batch)
    assert said == (200, {"delivered": 5, "ignored": 0})
    updater.wait_for("they are applied", lambda s: s["events"]["applied"] == before + 5)
    until("the window has them", lambda: port.ask("/api/events/recent/poster", token=TOKEN)[0] == 200)
    recent = port.ask("/api/events/recent/poster", token=TOKEN)[1]["events"]
    assert [one["item"] for one in recent] == [one["item_id"] for one in reversed(batch)]
    rejected = port.ask("/api/rejected", token=TOKEN)[1]
    assert rejected["reasons"] == {"bad_json": 1}
    [example] = rejected["examples"]
    assert (example["event"], example["reason"], example["topic"]) == (
        "{",
        "bad_json",
        updater_topic(updater),
    )
    assert port.ask("/api/rejected/retry", method="POST", token=TOKEN)[1]["retried"] == 1
    until("it is rejected again", lambda: port.ask("/api/rejected", token=TOKEN)[1]["total"] == 2)


def updater_topic(updater: RunningUpdater) -> str:
    return str(next(iter(updater.status()["position"]))).partition("[")[0]


def test_a_killed_worker_is_said_and_over_again(
    running: tuple[Port, RunningUpdater], open_page: OpenPage
) -> None:
    port, updater = running
    health = open_page(port.address).locator("#health-said")
    pid = updater.status()["worker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until("it is said", lambda: troubles(port) & {"worker_down", "worker_failing"}, 20)
    until("the page says it", lambda: "The worker has ended" in health.inner_text(), 20)
    until("it is over", lambda: port.ask("/readyz")[0] == 200)
    until("it is counted", lambda: value_of(port, "driftgraph_worker_starts_total") >= 2)
    until("the page says so", lambda: "All is well" in health.inner_text(), 20)


def test_a_kafka_that_goes_away_is_said_and_over_again(
    running: tuple[Port, RunningUpdater], real_kafka: RealKafka
) -> None:
    port, _ = running
    real_kafka.kill()
    try:
        until("it is said", lambda: "kafka_away" in troubles(port))
        assert value_of(port, "driftgraph_kafka_up") == 0
        assert port.ask("/livez")[0] == 200, "the loop moves without Kafka"
    finally:
        real_kafka.start()
    until("it is over", lambda: "kafka_away" not in troubles(port))


def test_it_ends_with_the_updater(running: tuple[Port, RunningUpdater]) -> None:
    _, updater = running
    folder = Path(updater.config).parent / "var"
    status, _ = updater.terminate()
    assert status == 0
    until("the process of the port has ended", lambda: (told(folder, "web") or {})["state"] == "gone", 10)
