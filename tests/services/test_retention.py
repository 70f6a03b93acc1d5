"""Topics and old events: nothing that is put on a topic may vanish from it without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from driftgraph.app.commands.doctor import checks as doctor_module
from driftgraph.app.commands.doctor.checks import examine
from driftgraph.app.commands.doctor.findings import State
from driftgraph.app.config.letter_place import letter_box, letter_place
from driftgraph.app.config.settings import load
from driftgraph.stream.kafka.topics import ensure_topic, topic_rules
from driftgraph.stream.time.clock import SystemClock
from tests.app.cli.test_cli import Shell
from tests.app.cli.test_cli import shell as shell  # noqa: PLC0414  a fixture
from tests.kafka_brokers import event, produce, source_of
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import until
from tests.stream.dead_letters.test_dead_letters import LETTER, records_of

pytestmark = pytest.mark.services

DAY_S = 86_400
IN_2017_S = 1_511_539_200
WEEK = {"retention.ms": str(7 * DAY_S * 1_000)}


@pytest.fixture
def topic() -> str:
    return f"old-{uuid4().hex[:8]}"


def csv_of(folder: Path, times_s: list[int]) -> str:
    path = folder / "events.csv"
    rows = [f"u{n},i{n},click,{at}" for n, at in enumerate(times_s)]
    path.write_text("\n".join(["user_id,item_id,behavior,timestamp", *rows]) + "\n", encoding="utf-8")
    return str(path)


def config_of(address: str, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": address})
    told = admin.describe_configs([resource])[resource].result(10)
    return {name: one.value for name, one in told.items()}


def count_of(address: str, topic: str) -> int:
    """Records that can be read now."""
    source = source_of(address, topic, start="earliest")
    ends = source_of(address, topic, start="latest")
    source.close()
    ends.close()
    return sum(ends.position().values()) - sum(source.position().values())


def now_s() -> int:
    return SystemClock().now_ms() // 1_000


def test_a_topic_that_produce_makes_keeps_events_of_any_age(
    real_kafka: RealKafka, topic: str, shell: Shell, tmp_path: Path
) -> None:
    """The broker looks every second for what seven days have passed: it has emptied another topic by then."""
    make_topic(real_kafka.address, f"{topic}-week", 1, **WEEK)
    old = {"value": event("u"), "partition": 0, "timestamp": IN_2017_S * 1_000}
    path = csv_of(tmp_path, [IN_2017_S + n for n in range(600)])
    done = shell("produce", path, "--topic", topic, "--bootstrap", real_kafka.address, "--json")
    assert (done.code, done.json()["produced"], done.json()["created"], done.json()["warning"]) == (
        0, 600, True, "",
    )  # fmt: skip
    found = config_of(real_kafka.address, topic)
    assert (found["retention.ms"], found["retention.bytes"], found["cleanup.policy"]) == (
        "-1",
        "-1",
        "delete",
    )
    assert found["message.timestamp.before.max.ms"] == str((1 << 63) - 1)
    produce(real_kafka.address, f"{topic}-week", [old])
    until("the broker has looked", lambda: count_of(real_kafka.address, f"{topic}-week") == 0)
    assert count_of(real_kafka.address, topic) == 600


@pytest.mark.parametrize(
    ("config", "times_s", "numbers"),
    [
        (
            WEEK,
            [IN_2017_S, -60],
            ["7 days", "604800000", "2017-11-24T16"],
        ),
        (WEEK, [-8 * DAY_S, -60], ["7 days", "8 days"]),
        ({"cleanup.policy": "compact"}, [-60], ["cleanup.policy"]),
        ({"cleanup.policy": "compact,delete"}, [-60], ["cleanup.policy"]),
        (
            {"message.timestamp.before.max.ms": "3600000"},
            [-7_201],
            ["60 minutes", "2 hours", "before.max.ms"],
        ),
        ({"message.timestamp.after.max.ms": "60000"}, [240], ["60 seconds", "after.max.ms"]),
    ],
)
def test_a_topic_that_would_not_keep_the_events_is_refused_with_numbers(
    real_kafka: RealKafka,
    topic: str,
    shell: Shell,
    tmp_path: Path,
    config: dict[str, str],
    times_s: list[int],
    numbers: list[str],
) -> None:
    """A time below 10^9 is one from now."""
    make_topic(real_kafka.address, topic, 2, **config)
    path = csv_of(tmp_path, [at if at > 10**9 else now_s() + at for at in times_s])
    refused = shell("produce", path, "--topic", topic, "--bootstrap", real_kafka.address)
    assert (refused.code, refused.out) == (1, "")
    said = refused.sentence()
    assert "would not keep the events" in said
    assert ("--force" in said) is ("refuses" not in said)
    for number in numbers:
        assert number in said
    assert count_of(real_kafka.address, topic) == 0


@pytest.mark.parametrize(
    ("config", "times_s"),
    [
        (WEEK, [-6 * DAY_S, -60]),
        ({"retention.ms": "-1"}, [IN_2017_S]),
        ({"retention.ms": "3600000", "message.timestamp.type": "LogAppendTime"}, [IN_2017_S]),
        ({"retention.bytes": "1000000"}, [IN_2017_S]),
    ],
)
def test_a_topic_that_keeps_them_takes_them_without_a_word(
    real_kafka: RealKafka,
    topic: str,
    shell: Shell,
    tmp_path: Path,
    config: dict[str, str],
    times_s: list[int],
) -> None:
    make_topic(real_kafka.address, topic, 2, **config)
    path = csv_of(tmp_path, [at if at > 10**9 else now_s() + at for at in times_s])
    done = shell("produce", path, "--topic", topic, "--bootstrap", real_kafka.address, "--json")
    assert (done.code, done.json()["produced"], done.json()["warning"]) == (0, len(times_s), "")


def test_forced_events_are_sent_with_a_warning(
    real_kafka: RealKafka, topic: str, shell: Shell, tmp_path: Path
) -> None:
    make_topic(real_kafka.address, topic, 2, **WEEK)
    path = csv_of(tmp_path, [IN_2017_S])
    argv = ["produce", path, "--topic", topic, "--bootstrap", real_kafka.address, "--force"]
    people = shell(*argv)
    assert (people.code, "1 events to" in people.out) == (0, True)
    assert "it keeps records for 7 days" in " ".join(people.out.split())
    assert "it keeps records for 7 days" in shell(*argv, "--json").json()["warning"]


def test_more_bytes_than_a_topic_keeps_are_told(
    real_kafka: RealKafka, topic: str, shell: Shell, tmp_path: Path
) -> None:
    make_topic(real_kafka.address, topic, 2, **{"retention.bytes": "1000"})
    path = csv_of(tmp_path, [now_s() - 60] * 100)
    done = shell("produce", path, "--topic", topic, "--bootstrap", real_kafka.address, "--json")
    assert (done.code, "keeps about 2,000 bytes" in done.json()["warning"]) == (0, True)


def test_a_topic_is_made_where_a_broker_knows_no_limit_of_record_times(
    real_kafka: RealKafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka before 3.6 refuses a topic with a property that it does not know."""
    unknown = "message.timestamp.before.max.year"
    monkeypatch.setattr("driftgraph.stream.kafka.topics._BEFORE_MAX", unknown)
    client = {"bootstrap.servers": real_kafka.address}
    assert ensure_topic(client, topic, config={"retention.ms": "-1", unknown: "1"})
    assert topic_rules(client, topic).retention_ms is None


def test_a_letter_of_an_old_event_outlives_a_dead_letter_topic_that_goes_by_age(
    real_kafka: RealKafka, topic: str
) -> None:
    """Somebody made it with a week: the letter has the time at which it is kept, and its event's beside."""
    settings = load(
        options={
            "kafka": {"bootstrap_servers": real_kafka.address, "topic": topic},
            "relations": {"click": {}},
            "dead_letters": {"to": "kafka"},
        }
    )
    make_topic(real_kafka.address, f"{topic}.dlq", 1, **WEEK)
    make_topic(real_kafka.address, f"{topic}-week", 1, **WEEK)
    place = letter_place(settings)
    place.put(replace(LETTER, timestamp_ms=IN_2017_S * 1_000))
    place.flush()
    produce(
        real_kafka.address,
        f"{topic}-week",
        [{"value": event("u"), "partition": 0, "timestamp": IN_2017_S * 1_000}],
    )
    until("the broker has looked", lambda: count_of(real_kafka.address, f"{topic}-week") == 0)
    [letter] = letter_box(settings).letters()
    assert letter.rejected.timestamp_ms == IN_2017_S * 1_000
    assert letter.rejected.payload == LETTER.payload


@pytest.mark.parametrize(
    ("config", "state", "said"),
    [
        ({"retention.ms": "-1"}, State.OK, "keeps records for ever; the longest span is 30 days"),
        ({"retention.ms": str(40 * DAY_S * 1_000)}, State.OK, "keeps records for 40 days"),
        (WEEK, State.WARN, "after 7 days (retention.ms = 604800000), and the longest span is 30 days"),
        (WEEK, State.WARN, f"set retention.ms to {31 * DAY_S * 1_000} or more"),
        ({"retention.bytes": "15000"}, State.WARN, "records go after about 2"),
        ({"retention.bytes": "15000000"}, State.OK, "at most 15,000,000 bytes"),
        ({"cleanup.policy": "compact"}, State.WARN, "it is compacted (cleanup.policy)"),
    ],
)
def test_doctor_holds_what_a_topic_keeps_against_the_longest_span(
    real_kafka: RealKafka,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, str],
    state: State,
    said: str,
) -> None:
    """100 messages a day of some 100 bytes: 15,000 bytes hold a day or two."""
    monkeypatch.setattr(doctor_module, "_device", lambda _: iter(()))
    make_topic(real_kafka.address, topic, 1, **config)
    now_ms = SystemClock().now_ms()
    produce(
        real_kafka.address,
        topic,
        [{"value": event("u", time_ms=now_ms), "key": f"k{n}", "timestamp": now_ms - n} for n in range(60)],
    )
    settings = load(
        options={
            "kafka": {"bootstrap_servers": real_kafka.address, "topic": topic},
            "relations": {"click": {"span": "30d"}, "buy": {"span": "3d"}},
            "redis": {"url": "redis://127.0.0.1:1/0"},
        }
    )
    [check] = [check for check in examine(settings).checks if check.name == "retention"]
    assert check.state is state, check
    assert said in check.detail


def test_a_retry_of_an_old_letter_is_not_removed_from_its_topic(
    shell: Shell, real_kafka: RealKafka, topic: str
) -> None:
    """The record has the time of now; of one whose time is that of a request to erase, the letter stays."""
    make_topic(real_kafka.address, topic, 1, **WEEK)
    old_ms = IN_2017_S * 1_000
    Path("driftgraph.toml").write_text(
        f'[kafka]\nbootstrap_servers = "{real_kafka.address}"\ntopic = "{topic}"\n[relations.click]\n',
        encoding="utf-8",
    )
    settings = load()
    place = letter_place(settings)
    place.put(replace(LETTER, origin=f"{topic}[0]@1", payload=b'{"user_id": "u1"}', timestamp_ms=old_ms))
    place.put(replace(LETTER, origin=f"{topic}[0]@2", reason="tombstone", payload=b"", timestamp_ms=old_ms))
    place.flush()
    place.close()
    before_ms = SystemClock().now_ms()
    report = shell("dlq", "retry", "--json").json()
    assert report == {
        "sent": 1,
        "reasons": {LETTER.reason: 1},
        "cut": 0,
        "foreign": 0,
        "retimed": 1,
        "too_old": 1,
    }
    [record] = records_of(real_kafka.address, topic, 1)
    assert record.value() == b'{"user_id": "u1"}'
    assert before_ms <= record.timestamp()[1] <= SystemClock().now_ms()
    assert [one.rejected.reason for one in letter_box(settings).letters() if not one.done] == ["tombstone"]
