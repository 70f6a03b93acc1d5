"""The feed of the page: samples, rates, and its listeners over a real HTTP process."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.status_files import told
from driftgraph.app.console.troubles import Facts
from driftgraph.app.web import live_feed
from driftgraph.app.web.answers import Answers
from driftgraph.app.web.live_feed import LISTENERS_MAX, LiveFeed, columns, event, sample_of
from driftgraph.stream.time.clock import SystemClock
from tests.app.web.serving import TOKEN, Port, served, settings_of, updater_says, updater_status
from tests.app.web.troubled import facts
from tests.waits import until


@pytest.fixture
def port(tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis_py.Redis) -> Iterator[Port]:
    assert redis_client.ping()
    updater_says(tmp_path)
    with served(settings_of(tmp_path, redis_server.url, token=TOKEN)) as found:
        yield found


class Listener:
    """Reads server-sent events of a port."""

    def __init__(self, port: Port) -> None:
        where = urlsplit(port.address)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        self._connection.request("GET", "/api/stream")
        self.answer = self._connection.getresponse()

    def next(self) -> tuple[str, Any]:
        """The next event: its name and its value."""
        name = self.answer.readline().decode().removeprefix("event: ").strip()
        value = json.loads(self.answer.readline().decode().removeprefix("data: "))
        assert self.answer.readline() == b"\n"
        return name, value

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


class Said(Answers):
    """Answers whose facts a test says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(settings_of(folder, "redis://localhost:1"), SystemClock(), os.getpid())
        self.said: Facts = facts()

    def facts(self) -> Facts:
        return self.said


def test_a_listener_gets_the_past_and_then_each_second(port: Port) -> None:
    first = Listener(port)
    assert first.answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    assert first.next()[0] == "history"
    times = [first.next() for _ in range(3)]
    assert {name for name, _ in times} == {"now"}
    sampled = [value["sample"]["time_ms"] for _, value in times]
    assert sampled == sorted(set(sampled))
    second = Listener(port)
    name, past = second.next()
    assert name == "history"
    assert set(sampled) <= set(past["time_ms"]), "a page that is loaded now shows what was before"
    assert all(len(past["window"]["click"]) == len(past[name]) for name in ("time_ms", "rate", "lag"))
    assert second.next()[1]["sample"]["lag"] == 7
    first.close()
    second.close()


def test_the_feed_says_what_the_status_says_but_the_manifest(port: Port) -> None:
    listener = Listener(port)
    listener.next()
    now, status = listener.next()[1], port.ask("/api/status")[1]
    assert now.keys() == (status.keys() - {"manifest"}) | {"sample"}
    changing = {"time_ms", "redis_error", "troubles"}
    assert {k: v for k, v in now.items() if k not in {*changing, "sample"}} == {
        k: v for k, v in status.items() if k not in {*changing, "manifest"}
    }
    listener.close()


def test_no_more_listen_than_may_and_one_that_goes_makes_place(port: Port) -> None:
    with ExitStack() as stack:
        listeners = [Listener(port) for _ in range(LISTENERS_MAX)]
        for one in listeners:
            stack.callback(one.close)
            assert one.answer.status == 200
        refused = Listener(port)
        assert refused.answer.status == 429
        assert "listen already" in json.loads(refused.answer.read())["error"]
        refused.close()
        listeners[0].close()
        until(lambda: listens(port))


def listens(port: Port) -> bool:
    again = Listener(port)
    again.close()
    return again.answer.status == 200


def test_a_listener_that_does_not_read_holds_up_nobody(port: Port) -> None:
    where = urlsplit(port.address)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_024)
        deaf.connect((where.hostname, where.port))
        deaf.sendall(b"GET /api/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        hearing = Listener(port)
        assert [hearing.next()[0] for _ in range(4)] == ["history", "now", "now", "now"]
        hearing.close()


def test_the_server_ends_while_somebody_listens(
    tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis_py.Redis
) -> None:
    assert redis_client.ping()
    updater_says(tmp_path)
    with served(settings_of(tmp_path, redis_server.url)) as port:
        listener = Listener(port)
        listener.next()
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 4, "it was not killed"
    assert (told(tmp_path, "web") or {})["state"] == "gone"
    listener.close()


def test_a_rate_is_of_the_newest_seconds_and_of_one_process(tmp_path: Path) -> None:
    answers = Said(tmp_path)
    feed = LiveFeed(answers)
    found = []
    for second, (pid, read) in enumerate([(1, 0), (1, 100), (1, 100), (1, 400), (2, 10), (2, 30), (2, None)]):
        status = None
        if read is not None:
            own = {**updater_status()["events"], "read": read}
            status = updater_status(pid=pid, time_ms=1_000_000 + 1_000 * second, events=own)
        answers.said = replace(facts(), updater=status)
        feed.sample()
        found.append(feed.samples[-1]["rate"])
    assert found == [None, 100.0, 50.0, 133.3, None, 20.0, None]
    answers.close()


def test_a_status_that_was_not_renewed_leaves_the_rate_as_it_is(tmp_path: Path) -> None:
    answers = Said(tmp_path)
    feed = LiveFeed(answers)
    for time_ms, read in ((1_000, 0), (2_000, 70), (2_000, 70)):
        own = {**updater_status()["events"], "read": read}
        answers.said = replace(facts(), updater=updater_status(time_ms=time_ms, events=own))
        feed.sample()
    assert [one["rate"] for one in feed.samples] == [None, 70.0, 70.0]
    answers.close()


def test_an_hour_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "KEPT", 3)
    answers = Said(tmp_path)
    feed = LiveFeed(answers)
    for second in range(5):
        answers.said = replace(facts(), now_ms=second)
        feed.sample()
    assert [one["time_ms"] for one in feed.samples] == [2, 3, 4]
    answers.close()


def test_columns_have_a_place_for_each_relation_at_each_time() -> None:
    one = {**sample_of(replace(facts(), now_ms=1)), "rate": None, "window": {"click": 5}}
    two = {**sample_of(replace(facts(), now_ms=2)), "rate": 2.0, "window": {"click": 6, "buy": 1}}
    found = columns([one, two])
    assert found["time_ms"] == [1, 2]
    assert found["rate"] == [None, 2.0]
    assert found["window"] == {"click": [5, 6], "buy": [None, 1]}
    assert columns([])["window"] == {}


def test_nobody_is_sampled_where_nobody_says_anything() -> None:
    found = sample_of(replace(facts(), updater=None, worker=None, now_ms=9))
    assert found == {"time_ms": 9, "lag": None, "waiting": None, "p50_ms": None, "p99_ms": None, "window": {}}


def test_an_event_is_one_line_and_has_no_number_that_json_lacks() -> None:
    assert event("now", {"a": float("nan"), "b": "x\ny"}) == b'event: now\ndata: {"a":null,"b":"x\\ny"}\n\n'
