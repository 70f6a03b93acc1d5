"""doctor beside a real broker, and a Redis that is not there."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import pytest

from driftgraph.app.commands.doctor import examine
from driftgraph.app.commands.findings import State
from driftgraph.app.config.settings import load
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic

pytestmark = pytest.mark.services

NOWHERE = "redis://127.0.0.1:1/0"


def options(kafka: str, topic: str, capacity: int) -> dict[str, object]:
    return {
        "kafka": {"bootstrap_servers": kafka, "topic": topic},
        "relations": {"click": {"span": "3d", "capacity": capacity}},
        "redis": {"url": NOWHERE},
    }


@pytest.mark.parametrize(("capacity", "state"), [(4_096, State.OK), (500, State.FAIL)])
def test_the_rate_of_a_topic_is_held_against_the_capacity(
    real_kafka: RealKafka, capacity: int, state: State
) -> None:
    """300 clicks in the last day and a span of three days: 900, and half as many again for busy days."""
    now_ms = SystemClock().now_ms()
    click = msgspec.json.encode({"user_id": "u", "item_id": "i", "behavior": "click", "ts": now_ms})
    topic = f"doctor-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 4)
    produce(real_kafka.address, topic, [{"value": click, "timestamp": now_ms - n} for n in range(300)])
    findings = examine(load(options=options(real_kafka.address, topic, capacity)))
    by_name = {check.name: check for check in findings.checks}
    assert by_name["topic"].detail.endswith("300 messages a day")
    assert by_name["events"].detail.startswith("300 looked at, 300 would be applied, 0 rejected")
    assert findings.needs[0].events == 900
    assert by_name["capacity"].state is state
    if state is State.FAIL:
        assert by_name["capacity"].detail.endswith("set relations.click.capacity to 2,048 or more")
    assert by_name["redis"].state is State.FAIL, "there is none"
    clocks = [(check.state, check.detail) for check in findings.checks if check.name == "clock"]
    assert clocks[0] == (State.OK, "not behind the newest record on the topic")
    assert findings.partitions == 4
    assert by_name["device"].state is State.OK


def test_a_record_of_the_future_is_held_against_our_clock(real_kafka: RealKafka) -> None:
    topic, now_ms = f"doctor-{uuid4().hex[:8]}", SystemClock().now_ms()
    make_topic(real_kafka.address, topic, 3)
    produce(
        real_kafka.address,
        topic,
        [
            {"value": b"{}", "partition": 0, "timestamp": now_ms - 5_000},
            {"value": b"{}", "partition": 1, "timestamp": now_ms + 900_000},
        ],
    )
    findings = examine(load(options=options(real_kafka.address, topic, 100)))
    clock = next(check for check in findings.checks if check.name == "clock")
    assert (clock.state, "ahead of this machine's clock, more than time.skew" in clock.detail) == (
        State.FAIL,
        True,
    )


@pytest.mark.parametrize(("written_ago_ms", "is_late"), [(3_600_000, True), (5 * 86_400_000, False)])
def test_attributes_that_were_written_after_the_events_are_told(
    real_kafka: RealKafka, written_ago_ms: int, is_late: bool
) -> None:
    """Five clicks of yesterday and one of now; one of last month is outside of every span."""
    now_ms = SystemClock().now_ms()
    topic, items = f"doctor-{uuid4().hex[:8]}", f"doctor-items-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 2)
    make_topic(real_kafka.address, items, 2)
    times = [now_ms - 30 * 86_400_000, *[now_ms - 86_400_000] * 5, now_ms]
    click = {"user_id": "u", "item_id": "i", "behavior": "click"}
    produce(
        real_kafka.address,
        topic,
        [
            {"value": msgspec.json.encode({**click, "ts": ms}), "timestamp": ms, "partition": 0}
            for ms in times
        ],
    )
    record = {"key": "i", "value": b'{"colour": "red"}', "timestamp": now_ms - written_ago_ms}
    produce(real_kafka.address, items, [record])
    own = options(real_kafka.address, topic, 100)
    own["events"] = {"attributes": {"item": {"colour": "category"}, "item_topic": items}}
    found = [check for check in examine(load(options=own)).checks if check.name == "attributes"]
    late = [check.detail for check in found if "older than the first record" in check.detail]
    assert [detail.startswith("5 messages of ") for detail in late] == ([True] if is_late else [])


@pytest.mark.parametrize(
    ("relations", "state", "said"),
    [
        (
            {},
            State.FAIL,
            "60 looked at: view 30, fav 20, buy 10; write in driftgraph.toml [relations.view] "
            "[relations.fav] [relations.buy], a line each",
        ),
        ({"view": {}}, State.WARN, "most for unknown_behavior (no relation: fav 20, buy 10); see"),
    ],
)
def test_the_behaviors_of_a_topic_that_are_no_relation_are_named(
    real_kafka: RealKafka, relations: dict[str, object], state: State, said: str
) -> None:
    topic, now_ms = f"doctor-{uuid4().hex[:8]}", SystemClock().now_ms()
    make_topic(real_kafka.address, topic, 1)
    names = ["view"] * 30 + ["fav"] * 20 + ["buy"] * 10
    clicks = [{"user_id": "u", "item_id": "i", "behavior": name, "ts": now_ms} for name in names]
    produce(real_kafka.address, topic, [{"value": msgspec.json.encode(one)} for one in clicks])
    findings = examine(load(options={**options(real_kafka.address, topic, 100), "relations": relations}))
    [events] = [check for check in findings.checks if check.name == "events"]
    assert (events.state, said in events.detail) == (state, True), events.detail
