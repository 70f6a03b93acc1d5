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
    assert by_name["device"].state is State.OK
