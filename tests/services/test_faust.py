"""The Faust app as processes on a real broker: what goes in comes out, whatever happens to the worker."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import pytest
import redis as redis_py
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.events import PAYLOAD_BYTES_KEPT
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import produce
from tests.services.faust_worker import FaustWorker
from tests.services.test_kafka import make_topic
from tests.services.updaters import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

OWN = 'normalize = "mysite:normalize"'
PARTITIONS = 4
DLQ_BYTES_MAX = 200_000  # a larger dead letter is cut


class Site:
    """Two topics, one worker between them."""

    def __init__(self, folder: Path, kafka: str, redis_url: str, own: str = OWN) -> None:
        stem = uuid4().hex[:8]
        self.kafka, self.source, self.topic = kafka, f"site-{stem}", f"events-{stem}"
        make_topic(kafka, self.source, PARTITIONS)
        make_topic(kafka, self.topic, PARTITIONS)
        make_topic(kafka, f"{self.source}.dlq", PARTITIONS, **{"max.message.bytes": str(DLQ_BYTES_MAX)})
        self.worker = FaustWorker(
            folder, kafka=kafka, source=self.source, topic=self.topic, redis=redis_url, own=own
        )

    def records(self, topic: str) -> list[Any]:
        """All that is on a topic now, without what was aborted."""
        options = {"isolation.level": "read_committed", "enable.partition.eof": True}
        with contextlib.closing(Consumer({**self._client(), **options})) as consumer:
            consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
            found, ended, limit = list[Any](), set[int](), time.monotonic() + 20
            while len(ended) < PARTITIONS:
                assert time.monotonic() < limit, f"{len(found)} records of {topic} came"
                for message in consumer.consume(1_000, 0.2):
                    error = message.error()
                    if error is None:
                        found.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended.add(message.partition() or 0)
            return found

    def events(self) -> list[dict[str, Any]]:
        """The canonical events there are, tombstones left out."""
        return [json.loads(m.value()) for m in self.records(self.topic) if m.value() is not None]

    def count(self, topic: str) -> int:
        """Records on a topic, by its offsets."""
        with contextlib.closing(Consumer(self._client())) as consumer:
            places = [TopicPartition(topic, p) for p in range(PARTITIONS)]
            return sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)

    def _client(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.kafka, "group.id": "test", "log_level": 0}


def act(user: str, item: str, **more: Any) -> dict[str, Any]:
    """A record of the site's own."""
    event = {"who": user, "which": item, "what": "click", "when": SystemClock().now_ms(), **more}
    return {"value": json.dumps(event).encode(), "key": user}


@pytest.fixture
def site(
    tmp_path: Path, kafka_address: str, redis_server: EmbeddedRedis, redis_client: redis_py.Redis
) -> Iterator[Site]:
    found = Site(tmp_path, kafka_address, redis_server.url)
    with found.worker:
        yield found


def test_nothing_is_lost_by_kill_9_and_what_comes_again_is_known_by_its_id(site: Site) -> None:
    """Kill the worker in the middle, start it again: the distinct ids are the ledger, one event each."""
    ledger = [(f"u{n % 50}", f"i{n % 20}") for n in range(3_000)]
    produce(site.kafka, site.source, [act(who, which) for who, which in ledger])
    until("some are through", lambda: site.count(site.topic) > 0)
    site.worker.kill()
    through = site.count(site.topic)
    produce(site.kafka, site.source, [act("after", f"i{n}") for n in range(100)])
    site.worker.start()
    ids = until(
        "all are through",
        lambda: (
            (found := {e["event_id"]: (e["user_id"], e["item_id"]) for e in site.events()})
            and len(found) >= 3_100
            and found
        ),
        90,
    )
    assert len(ids) == 3_100
    assert Counter(ids.values()) == Counter([*ledger, *(("after", f"i{n}") for n in range(100))])
    assert through < 3_100
    assert site.worker.terminate() == 0


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_topics_are_read(site: Site, codec: str) -> None:
    producer = Producer({"bootstrap.servers": site.kafka, "compression.type": codec, "linger.ms": 50})
    for n in range(200):
        producer.produce(site.source, **act(f"u{n}", "i1"))
    assert producer.flush(30) == 0
    until("all are through", lambda: site.count(site.topic) >= 200)
    assert {e["user_id"] for e in site.events()} == {f"u{n}" for n in range(200)}


def test_bad_records_cost_themselves_and_a_tombstone_is_one_of_them(site: Site) -> None:
    """A bad record is once on the dead letter topic, byte by byte; one that kills the process too.

    A record without a value is, too: the site's own key need not be the user that it would erase.
    """
    bad = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"who":"u1","which":"i1","when":1}']
    wrong: list[dict[str, Any]] = [
        {"what": "dance"}, {"which": None}, {"who": ""}, {"when": 3e18}, {"when": None}, {"die": 1},
        {"lines": ["fine", None]}, {"which": "x" * 3 * DLQ_BYTES_MAX},
    ]  # fmt: skip
    bad += [act("u1", "i1", **more)["value"] for more in wrong]
    headers: list[tuple[str, str | bytes | None]] = [("trace", b"\x00\x01"), ("trace", b"two")]
    producer = Producer({"bootstrap.servers": site.kafka, "log_level": 0})
    for n, value in enumerate(bad):
        producer.produce(site.source, value=value, key="k", headers=headers)
        producer.produce(site.source, **act("good", f"i{n}", lines=[f"i{n}", f"j{n}"]))
    producer.produce(site.source, value=None, key="gone")
    producer.produce(site.source, **act("good", "skipped", skip=1))
    producer.produce(site.source, **act("good", "last"))
    assert producer.flush(30) == 0
    until("the last one is through", lambda: any(e["item_id"] == "last" for e in site.events()), 90)
    until("the dead letters are there", lambda: site.count(f"{site.source}.dlq") > len(bad))

    found = site.records(f"{site.source}.dlq")
    [nobody] = [m for m in found if m.key() == b"gone"]
    assert dict(nobody.headers())["driftgraph.reason"] == b"tombstone"
    letters = [m for m in found if m is not nobody]
    assert Counter(m.value() or b"" for m in letters) == Counter([*bad[:-1], bad[-1][:PAYLOAD_BYTES_KEPT]])
    sizes = [dict(m.headers()).get("driftgraph.payload.bytes") for m in letters]
    assert [size for size in sizes if size] == [b"%d" % len(bad[-1])]
    assert all(m.key() == b"k" and m.headers()[:2] == headers for m in letters)
    assert all(dict(m.headers())["driftgraph.reason"] for m in letters)
    dead = next(m for m in letters if b'"die"' in m.value())
    assert b"ended its process" in dict(dead.headers())["__connect.errors.exception.message"]
    assert Counter(e["item_id"] for e in site.events()) == Counter(
        [*(f"{x}{n}" for n in range(len(bad)) for x in "ij"), "last"]
    )
    assert [m.key() for m in site.records(site.topic) if m.value() is None] == []


def test_a_slow_record_keeps_only_its_lane_waiting(site: Site) -> None:
    """10 s of burning in one lane: what has other keys passes, and the web view answers."""
    site.worker.wait_ready()
    produce(site.kafka, site.source, [act(f"u{n}", "warm") for n in range(40)])
    until("all are through", lambda: site.count(site.topic) >= 40)
    produce(site.kafka, site.source, [act("slow", "slow", burn_s=10)])
    start, waits = time.monotonic(), []
    sent: dict[str, float] = {}
    while time.monotonic() < start + 4:
        name = f"x{len(sent)}"
        sent[name] = time.monotonic()
        produce(site.kafka, site.source, [act(name, "quick")])
        asked = time.monotonic()
        assert site.worker.get("/trends/click/")[0] == 200
        waits.append(time.monotonic() - asked)
        time.sleep(0.1)
    there = {e["user_id"] for e in site.events()}
    assert "slow" not in there, "the slow record was not slow: the test shows nothing"
    others = [name for name in sent if time.monotonic() - sent[name] > 1]
    passed = [name for name in others if name in there]
    assert len(passed) >= len(others) / 4, f"{len(passed)} of {len(others)}"  # half have the other lane
    assert median(waits) < 1
    until("all are through", lambda: site.count(site.topic) >= 41 + len(sent))


def test_an_aborted_transaction_is_not_normalized(site: Site) -> None:
    producer = Producer({"bootstrap.servers": site.kafka, "transactional.id": site.source})
    producer.init_transactions(30)
    for who, end in (("aborted", producer.abort_transaction), ("kept", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(site.source, **act(who, "i1"))
        producer.flush(30)
        end(30)
    until("the kept one is through", lambda: site.count(site.topic) >= 1)
    time.sleep(1)
    assert {e["user_id"] for e in site.events()} == {"kept"}


def test_what_rises_is_shown_and_is_the_answer_for_users_nobody_knows(
    site: Site, redis_client: redis_py.Redis
) -> None:
    """40 clicks on one item against 20 steady: web view and Redis agree, also after kill -9 and restart."""
    hour_ms = 3_600_000
    now_ms = SystemClock().now_ms()
    before = [act("u", "steady", when=now_ms - hour_ms - 600_000 - n) for n in range(20)]
    now = [act("u", "steady", when=now_ms - n) for n in range(20)]
    now += [act(f"v{n}", "new", when=now_ms - n) for n in range(40)] + [act("w", "b", what="purchase")]
    site.worker.wait_ready()
    produce(site.kafka, f"{site.topic}-faust-steps", [{"value": v} for v in (b"", b"\xff", b"{}", None)])
    produce(site.kafka, site.source, [*before, *now])

    def listed() -> Any:
        status, said = site.worker.get("/trends/click/?n=5")
        return status == 200 and said["items"] and said["items"][0]["now"] == 40 and said["items"]

    items = until("the view tells", listed, 90)
    assert items == [{"item": "new", "score": pytest.approx(40 / 41**0.5), "now": 40, "before": 0}]
    assert site.worker.get("/trends/")[1] == {"behaviors": ["click", "purchase"]}
    assert site.worker.get("/trends/dance/")[0] == 404
    for n in ("0", "x", "1001", "-1", "9" * 5_000):
        assert site.worker.get(f"/trends/click/?n={n}")[0] == 400, n[:9]
    reader = EmbeddingReader(redis_client, namespace="shop")
    [(item, score)] = until("readers have it", lambda: reader.trending("purchase"))
    assert item == "b"
    assert score == pytest.approx(1 / 2**0.5)
    [(item, score)] = reader.trending("click", 1)
    assert item == "new"
    assert score == pytest.approx(40 / 41**0.5)
    assert redis_client.ttl("shop:trending-owner") > 0, "the worker leaves them alone"
    nobody = reader.recommend("nobody", 2)
    assert (nobody.source, [item for item, _ in nobody.items]) == ("trending", ["new", "b"])

    time.sleep(4)  # a commit interval of Faust's: what is committed is not counted again
    site.worker.kill()
    site.worker.start()
    assert until("the view tells again", listed, 90) == items


def test_a_worker_that_cannot_go_on_ends_with_an_error(site: Site) -> None:
    """The function's module is gone, and its process with it: no worker that only looks alive."""
    site.worker.wait_ready()
    (site.worker.folder / "mysite.py").unlink()
    for cached in (site.worker.folder / "__pycache__").glob("mysite*"):
        cached.unlink()
    produce(site.kafka, site.source, [act("u1", "i1")])
    code = until("it ends", lambda: site.worker.ended() is not None and site.worker.ended(), 60)
    assert code not in (0, None)


def test_without_a_function_canonical_events_pass_and_others_are_dead_letters(
    tmp_path: Path, kafka_address: str, redis_server: EmbeddedRedis
) -> None:
    site = Site(tmp_path, kafka_address, redis_server.url, own="")
    good = {"user_id": 42, "item_id": "i1", "behavior": "click", "ts": SystemClock().now_ms(), "more": [1]}
    with site.worker:
        produce(
            site.kafka,
            site.source,
            [
                {"value": json.dumps({**good, **more}).encode()}
                for more in ({}, {"event_id": "e1"}, {"ts": 1})
            ],
        )
        until("both are through", lambda: site.count(site.topic) >= 2)
        until("the third is a dead letter", lambda: site.count(f"{site.source}.dlq") >= 1)
        events = sorted(site.events(), key=lambda e: e["event_id"])
    assert events[0] == {**good, "event_id": "e1"}
    assert {**events[1], "event_id": ""} == {**good, "event_id": ""}
    assert events[1]["event_id"].startswith(f"{site.source}[")
