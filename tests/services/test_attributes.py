"""Attributes on a real Kafka: ``driftgraph run`` keeps them through a kill, serves and forgets them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.commands.saved_window import saved_window
from driftgraph.app.config.attribute_tables import attributes_view
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.live.run import window_folder
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.attributes.attributes import AttributesView
from driftgraph.stream.attributes.fields import tokens_of
from driftgraph.stream.events import Strings
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView
from tests.app.cli.test_cli import Shell
from tests.kafka_brokers import produce
from tests.services.conftest import RealKafka
from tests.services.test_erase import GONE_WITHIN_S, files_holding, holding
from tests.services.test_kafka import make_topic
from tests.services.updaters import TASTED, RunningUpdater, configured, model_served, two_tastes, until

pytestmark = pytest.mark.services

ANN = "ann-to-be-forgotten"
FIELDS = """
[checkpoint]
every = "1s"
[events.attributes.item]
category = "category"
tags = { kind = "tags", field = "video.tags" }
[events.attributes.user]
camp = "category"
"""


def event(user: str, item: str, time_ms: int, **more: object) -> bytes:
    told = {"user_id": user, "item_id": item, "behavior": "click", "ts": time_ms, **more}
    return json.dumps(told).encode()


class Stream:
    """Events with attributes on a topic of two partitions, an item always in the same one.

    ``values`` are, for each item, its (time, category, tags) as they were said, in order.
    """

    def __init__(self, address: str, topic: str) -> None:
        self.address, self.topic = address, topic
        self.values: dict[str, list[tuple[int, str, str]]] = {}
        self.camps: dict[str, str] = {}
        make_topic(address, topic, 2)

    def send(self, events: list[tuple[str, str, int]], turn: str) -> None:
        records = []
        for user, item, time_ms in events:
            side, n = item[-1] in "02468", sum(map(ord, item)) % 2
            category, tags = f"c{side:d}{turn}", f"t{item},{turn}"
            self.values.setdefault(item, []).append((time_ms, category, tags))
            self.camps[user] = f"camp{user[-1] in '02468':d}"
            value = event(
                user, item, time_ms, category=category, video={"tags": tags.split(",")}, camp=self.camps[user]
            )
            records.append({"value": value, "key": user, "partition": n, "timestamp": time_ms})
        produce(self.address, self.topic, records)

    def at(self, item: str, before_ms: int) -> list[int]:
        """The tokens of an item as the plainest implementation has them: of the newest value before."""
        known = [(category, tags) for time_ms, category, tags in self.values[item] if time_ms < before_ms]
        category, tags = known[-1] if known else ("", "")
        found = [tokens_of("category", Strings.of([category])), tokens_of("tags", Strings.of([tags]))]
        return [*found[0][0][0].tolist(), *found[1][0][0].tolist()]


def tokens_by_id(
    graph: HeterographView, table: AttributesView, side: int, before_ms: int
) -> dict[str, list[int]]:
    """What every id with a row has as of a time."""
    moment, view = graph.moment(), table[side]
    assert view is not None
    rows = np.arange(len(moment.versions[side]), dtype=np.uint32)
    tokens = view.tokens(rows, before_ms).tolist()
    names = graph.names(side, rows, moment)
    return {name: own for name, own in zip(names, tokens, strict=True) if name is not None}


def live_tables(settings: Settings) -> tuple[HeterographView, AttributesView]:
    """The tables of the running updater, read from this process."""
    graph = HeterographView.attach(window_folder(settings))
    table = attributes_view(settings, graph, window_folder(settings))
    assert table is not None
    return graph, table


def assert_all_is_as_said(
    stream: Stream, graph: HeterographView, table: AttributesView, times_ms: list[int]
) -> None:
    for before_ms in times_ms:
        found = tokens_by_id(graph, table, ITEM, before_ms)
        assert found == {item: stream.at(item, before_ms) for item in stream.values}, before_ms
    camps = {
        user: tokens_of("category", Strings.of([camp]))[0][0].tolist() for user, camp in stream.camps.items()
    }
    assert tokens_by_id(graph, table, USER, max(times_ms)) == camps


def test_attributes_of_events_survive_a_kill_rank_a_new_item_and_go_with_an_erased_user(
    real_kafka: RealKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"attributes-{uuid4().hex[:8]}"
    stream, now_ms = Stream(real_kafka.address, topic), SystemClock().now_ms()
    first = two_tastes(TASTED, now_ms - 60_000)
    stream.send(first[:1_500], "a")
    stream.send([*first[1_500:], (ANN, "i3", now_ms - 59_000)], "b")
    times_ms = [first[700][2], first[1_499][2] + 1, now_ms]
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        config = configured(tmp_path, kafka=real_kafka.address, topic=topic, redis=server.url)
        config.write_text(config.read_text(encoding="utf-8") + FIELDS, encoding="utf-8")
        settings, reader = load(config), EmbeddingReader(client, namespace="shop")
        with RunningUpdater(config) as updater:
            until("the model is served", lambda: updater.status() and model_served(client), 180)
            assert_all_is_as_said(stream, *live_tables(settings), times_ms)
            until("a checkpoint has all", lambda: _applied_in(settings) == TASTED + 1)
            graph, _, attributes = saved_window(settings)
            assert attributes is not None
            assert_all_is_as_said(stream, graph, attributes, times_ms)

            stream.send(
                [("u1", f"i{n}", now_ms - 50_000 + n) for n in range(40)], "c"
            )  # in no checkpoint yet
            updater.wait_for("they are applied", lambda s: s["events"]["applied"] == TASTED + 41)
            os.kill(updater.status()["worker"]["pid"], signal.SIGKILL)
            updater.process.kill()
            updater.process.wait(10)
        stream.send([("u2", f"i{n}", now_ms - 40_000 + n) for n in range(0, 40, 3)], "d")
        with RunningUpdater(config) as updater:
            updater.wait_for("all is applied", lambda s: sum(s["window"].values()) == TASTED + 41 + 14, 120)
            assert_all_is_as_said(stream, *live_tables(settings), [*times_ms, now_ms - 40_000])

            until("it refreshes", lambda: "serves generation" in updater.output(), 120)
            new_ms = SystemClock().now_ms()
            stream.send([("u7", "new-1", new_ms)], "b")
            until("the first who touched it", lambda: reader.recommend("u7", 1).event_ms == new_ms)
            stream.send([("u9", "i5", new_ms + 1)], "d")
            until("another user", lambda: reader.recommend("u9", 1).event_ms == new_ms + 1)
            assert "new-1" in [item for item, _ in reader.recommend("u9", 100).items]
            assert "new-1" not in [item for item, _ in reader.recommend("u7", 100).items]

            assert Shell(capsys, monkeypatch)("erase", ANN, "-c", str(config)).code == 0
            until("gone from Redis", lambda: not holding(client, ANN), GONE_WITHIN_S)
            until("gone from the disk", lambda: not files_holding(tmp_path / "var", ANN), GONE_WITHIN_S)
            del stream.camps[ANN]
            later_ms = SystemClock().now_ms()
            assert_all_is_as_said(stream, *live_tables(settings), [later_ms])
            bare = event(ANN, "i4", later_ms)
            produce(real_kafka.address, topic, [{"value": bare, "key": ANN, "timestamp": later_ms}])
            until("a new user", lambda: reader.recommend(ANN, 1).event_ms == later_ms, GONE_WITHIN_S)
            live, table = live_tables(settings)
            assert tokens_by_id(live, table, USER, later_ms + 1)[ANN] == [0]
            updater.terminate()


def _applied_in(settings: Settings) -> int:
    """Events in the newest checkpoint's window; 0 before there is one."""
    if not (settings.data_dir / "checkpoints").exists():
        return 0
    window = saved_window(settings).graph.window
    return sum(window.live().values())
