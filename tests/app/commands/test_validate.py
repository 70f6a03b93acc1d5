"""driftgraph validate: what it counts, what it shows, how it ends, and that it changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.app.cli.test_cli import Shell
from tests.kafka_brokers import mock_kafka, produce

NOW_MS = 1_783_000_000_123
RELATIONS = "[relations.click]\n[relations.purchase]\n"


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return Shell(capsys, monkeypatch)


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with mock_kafka() as address:
        yield address


def event(n: int, **changed: Any) -> dict[str, Any]:
    return {"user_id": f"u{n}", "item_id": "i", "behavior": "click", "ts": NOW_MS + n, **changed}


MIXED: list[Any] = [
    event(0),
    [event(1, behavior="purchase"), event(2, item_id=" i")],
    event(3, item_id=None),
    {"user_id": "u1", "behavior": "$erase"},
    event(4, behavior="impression"),
    event(5, behavior="share"),
    event(6),
]


def write(name: str, messages: list[Any], config: str = RELATIONS) -> None:
    Path(name).write_text("".join(json.dumps(message) + "\n" for message in messages), encoding="utf-8")
    Path("driftgraph.toml").write_text(config, encoding="utf-8")


def test_a_file_is_counted_by_relation_and_reason_with_an_example_each(shell: Shell) -> None:
    write("e.jsonl", MIXED)
    before = sorted(Path().iterdir())
    got = shell("validate", "e.jsonl", "--json")
    assert (got.code, got.err) == (1, "")
    report = got.json()
    assert report["events"] == {"read": 8, "applied": 3, "ignored": 1, "erased": 1, "rejected": 3}
    assert report["relations"] == {"click": 2, "purchase": 1}
    assert (report["source"], report["format"]) == ("e.jsonl", "json")
    assert report["times"] == {"from": "2026-07-02T13:46:40.123+00:00", "to": "2026-07-02T13:46:40.129+00:00"}
    assert [(fault["reason"], fault["count"]) for fault in report["rejected"]] == [
        ("bad_id", 2), ("unknown_behavior", 1),
    ]  # fmt: skip
    assert report["rejected"][0]["example"] == {
        "origin": "e.jsonl:2",
        "detail": "element [1]: item id has white space at an end: ' i'",
        "payload": json.dumps(MIXED[1]),
    }
    assert sorted(Path().iterdir()) == before, "it writes nothing"


def test_people_see_the_counts_and_then_the_examples(shell: Shell) -> None:
    write("e.jsonl", MIXED)
    got = shell("validate", "e.jsonl")
    assert got.code == 1
    lines = [line.rstrip() for line in got.out.splitlines()]
    assert lines[0] == "e.jsonl as json: 8 events, 3 would be applied, 3 rejected"
    assert "edge click                       2" in lines
    assert "rejected, bad_id                 2" in lines
    at = lines.index("bad_id, such as e.jsonl:2")
    assert lines[at + 1] == "  element [1]: item id has white space at an end: ' i'"
    assert lines[at + 2] == f"  {json.dumps(MIXED[1])}"


def test_a_good_file_ends_with_0(shell: Shell) -> None:
    write("e.jsonl", [event(0), event(1)])
    got = shell("validate", "e.jsonl", "--json")
    assert (got.code, got.json()["rejected"]) == (0, [])
    assert shell("validate", "e.jsonl").out.startswith(
        "e.jsonl as json: 2 events, 2 would be applied, 0 rejected"
    )


def test_without_relations_it_shows_which_behaviors_there_are(shell: Shell) -> None:
    write("e.jsonl", [event(0), event(1, behavior="share")], config="")
    assert shell("validate", "e.jsonl", "--json").json()["relations"] == {"click": 1, "share": 1}


def test_impressions_are_no_edges(shell: Shell) -> None:
    write("e.jsonl", [event(0), event(1, behavior="seen"), event(2, behavior="seen")])
    report = shell("validate", "e.jsonl", "--impressions", "seen", "--json").json()
    assert (report["relations"], report["impressions"]) == ({"click": 1}, {"seen": 2})
    assert report["events"]["applied"] == 3
    out = shell("validate", "e.jsonl", "--impressions", "seen").out
    assert "shown, seen" in out
    assert "edge seen" not in out


def test_impressions_that_a_file_does_not_have_are_named(shell: Shell) -> None:
    write("e.jsonl", [event(0), event(1, behavior="seen")])
    report = shell("validate", "e.jsonl", "--impressions", "sen", "--json").json()
    assert report["notes"][0] == "no event has the behavior sen of impressions; is it written right?"


def test_what_to_do_about_behaviors_that_are_no_relation_is_told(shell: Shell) -> None:
    messages = [event(n, behavior=("click", "fav", "pv")[n]) for n in range(3)]
    write("e.jsonl", messages)
    assert shell("validate", "e.jsonl", "--json").json()["notes"] == [ADVICE]
    write("e.jsonl", messages, config="")
    assert shell("validate", "e.jsonl", "--json").json()["notes"] == []


ADVICE = (
    "2 events have a behavior that is no relation, fav 1, pv 1: give --relations click,fav,pv, or write in "
    "driftgraph.toml [relations.fav] [relations.pv], a line each; events.ignore names behaviors that do "
    "not count"
)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ('item = { author = "category" }', "items.csv has no column 'author', it has: item_id, tag"),
        ('item = { tag = "category" }\nitem_key = "id"', "items.csv has no column 'id'"),
        (
            'item = { tag = "category" }\nuser = { city = "category" }\nuser_file = "no.csv"',
            "no.csv: no such file",
        ),
    ],
)
def test_a_file_of_attributes_that_a_replay_refuses_is_refused(
    shell: Shell, attributes: str, says: str
) -> None:
    Path("items.csv").write_text("item_id,tag\ni,red\n", encoding="utf-8")
    attributes = f'[events.attributes]\nitem_file = "items.csv"\n{attributes}\n'
    write("e.jsonl", [event(0)], config=RELATIONS + attributes)
    got = shell("validate", "e.jsonl")
    assert got.code == 1
    assert says in got.sentence()


def test_a_time_ahead_of_the_clock_is_rejected_as_the_updater_would(shell: Shell) -> None:
    write("e.jsonl", [event(0, ts="2137-01-01T00:00:00Z")])
    [fault] = shell("validate", "e.jsonl", "--json").json()["rejected"]
    assert fault["reason"] == "time_in_future"


def test_times_without_a_zone_are_read_in_the_configured_one(shell: Shell) -> None:
    lines = ["u1,i,click,2026-07-02 21:46:40", "u2,i,click,2026-07-02 13:46:40+00"]
    Path("e.csv").write_text("\n".join(["user_id,item_id,behavior,timestamp", *lines]))
    Path("driftgraph.toml").write_text(RELATIONS)
    got = shell("validate", "e.csv", "--json")
    assert [(one["reason"], one["count"]) for one in got.json()["rejected"]] == [("time_without_zone", 1)]
    assert "events.timezone" in got.json()["rejected"][0]["example"]["detail"]
    Path("driftgraph.toml").write_text('[events]\ntimezone = "Asia/Shanghai"\n' + RELATIONS)
    got = shell("validate", "e.csv", "--json")
    at = "2026-07-02T13:46:40.000+00:00"
    assert (got.code, got.json()["times"]) == (0, {"from": at, "to": at})


def test_one_wrong_clock_does_not_take_the_zone_from_the_others(shell: Shell) -> None:
    lines = [f"u{n},i,click,2026-07-02 21:{n:02}:00" for n in range(60)]
    lines.insert(30, "phone,i,click,2037-01-01 00:00:00")
    Path("e.csv").write_text("\n".join(["user_id,item_id,behavior,timestamp", *lines]))
    Path("driftgraph.toml").write_text('[events]\ntimezone = "Asia/Shanghai"\n' + RELATIONS)
    report = shell("validate", "e.csv", "--json").json()
    assert report["events"]["applied"] == 60
    assert [(one["reason"], one["count"]) for one in report["rejected"]] == [("time_in_future", 1)]
    assert report["times"]["from"] == "2026-07-02T13:00:00.000+00:00"


def test_a_folder_of_part_files_is_looked_at_as_one_file(shell: Shell) -> None:
    for day in ("1", "2"):
        Path(f"events/day={day}").mkdir(parents=True)
        write(f"events/day={day}/part-0.jsonl", [event(int(day))])
    Path("events/_SUCCESS").write_bytes(b"")
    assert shell("validate", "events", "--json").json()["events"]["applied"] == 2


def test_a_preset_by_option_and_its_unused_relations(shell: Shell) -> None:
    rows = [
        {"event_name": name, "user_id": "u", "event_timestamp": NOW_MS * 1000, "items": [{"item_id": "i"}]}
        for name in ("select_item", "purchase", "add_to_cart", "page_view")
    ]
    write("e.jsonl", rows)
    report = shell("validate", "e.jsonl", "--format", "ga4", "--json").json()
    assert report["relations"] == {"click": 1, "purchase": 1}
    assert (report["events"]["ignored"], report["events"]["rejected"]) == (2, 0)


def test_a_limit_stops_early(shell: Shell) -> None:
    write("e.jsonl", [event(n, more="x" * 200) for n in range(20_000)])
    whole = shell("validate", "e.jsonl", "--limit", "100000", "--json").json()["events"]["read"]
    some = shell("validate", "e.jsonl", "--limit", "10", "--json").json()["events"]["read"]
    assert whole == 20_000
    assert 10 <= some < 20_000


@pytest.mark.parametrize(
    ("source", "config", "code", "said"),
    [
        (
            "nowhere.jsonl",
            "",
            1,
            "nowhere.jsonl: no such file; name a file of events, or a topic as kafka:TOPIC",
        ),
        ("e.jsonl", '[events]\nformat = "arrow"', 2, "events.format = arrow is for Kafka"),
        ("kafka:t", '[events]\nformat = "csv"', 2, "events.format = csv is for files"),
        ("kafka:t", '[kafka]\nbootstrap_servers = "127.0.0.1:1"', 1, "cannot reach Kafka at 127.0.0.1:1"),
        ("e.jsonl", '[events]\nformat = "mapping"', 2, "mapping.user is missing"),
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(
    shell: Shell, source: str, config: str, code: int, said: str
) -> None:
    write("e.jsonl", [event(0)], config)
    got = shell("validate", source)
    assert got.code == code
    assert said in got.sentence()


def config_of(kafka: str, more: str = "") -> str:
    return f'[kafka]\nbootstrap_servers = "{kafka}"\noptions = {{ log_level = 0 }}\n{more}{RELATIONS}'


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere/p.parquet", "nowhere/p.parquet: No such file or directory"),
        ("folder", "folder: Is a directory"),
        ("e.jsonl/p.parquet", "e.jsonl/p.parquet: Not a directory"),
        ("s3://k:h5sh@b/p.parquet", "to the place: it is an address and no file of this machine"),
    ],
)
def test_predictions_have_a_place_that_a_replay_could_write(shell: Shell, place: str, says: str) -> None:
    write("e.jsonl", [event(0)])
    Path("folder").mkdir()
    for command in (["validate"], ["replay", "--redis", "none"]):
        failed = shell(*command, "e.jsonl", "--predictions", place)
        assert failed.code == 1
        assert "cannot write predictions to" in failed.sentence()
        assert says in failed.sentence()
        assert "h5sh" not in failed.sentence()
    assert shell("validate", "e.jsonl", "--predictions", "folder/p.parquet").code == 0
    assert list(Path("folder").iterdir()) == []


@pytest.mark.parametrize("command", [["validate"], ["replay"], ["produce"], ["demo", "--data"]])
def test_a_file_that_is_an_address_is_told_without_its_secret(shell: Shell, command: list[str]) -> None:
    failed = shell(*command, "https://me:h5sh@host/e.csv")
    assert failed.code == 1
    assert "https://… is an address and no file of this machine" in failed.sentence()


def test_a_topic_is_looked_at_and_nothing_is_committed(shell: Shell, kafka: str) -> None:
    topic = f"t-{uuid4().hex[:8]}"
    values = [{"value": json.dumps(m).encode(), "partition": n % 3} for n, m in enumerate(MIXED)]
    produce(kafka, topic, [*values, {"value": None, "key": b"u9", "partition": 0}])
    write("unused.jsonl", [], config_of(kafka))
    before = sorted(Path().iterdir())
    got = shell("validate", f"kafka:{topic}", "--json")
    assert got.code == 1
    report = got.json()
    assert report["source"] == f"kafka:{topic}"
    assert report["events"] == {"read": 9, "applied": 3, "ignored": 1, "erased": 2, "rejected": 3}
    assert sorted(Path().iterdir()) == before
    group = Consumer({"bootstrap.servers": kafka, "group.id": "driftgraph"})
    committed = group.committed([TopicPartition(topic, p) for p in range(3)], timeout=10)
    group.close()
    assert {part.offset for part in committed} == {-1001}, "nothing is committed"


def test_records_without_a_value_that_are_left_out_are_shown(shell: Shell, kafka: str) -> None:
    topic = f"t-{uuid4().hex[:8]}"
    changes = [
        {"value": json.dumps({"op": "c", "u": f"u{n}", "i": "i", "t": NOW_MS}).encode()} for n in range(2)
    ]
    produce(kafka, topic, [*changes, {"value": None, "key": b'{"id": 7}'}, {"value": None, "key": b"7"}])
    mapping = """
        [events]
        format = "mapping"
        [events.mapping]
        user = "u"
        item = "i"
        behavior = "op"
        ts = "t"
        behaviors = { c = "click" }
    """
    write("unused.jsonl", [], config_of(kafka) + mapping)
    got = shell("validate", f"kafka:{topic}", "--json")
    assert (got.code, got.json()["events"]["ignored"], got.json()["ignored_tombstones"]) == (0, 2, 2)
    said = shell("validate", f"kafka:{topic}").out
    assert re.search(r"of them records without a value +2", said)


def test_of_a_long_topic_the_newest_messages_are_looked_at(shell: Shell, kafka: str) -> None:
    topic = f"t-{uuid4().hex[:8]}"
    old = [{"value": b"{", "partition": n % 4} for n in range(400)]
    new = [{"value": json.dumps(event(n)).encode(), "partition": n % 4} for n in range(40)]
    produce(kafka, topic, [*old, *new])
    write("unused.jsonl", [], config_of(kafka))
    got = shell("validate", f"kafka:{topic}", "--limit", "40", "--json")
    assert (got.code, got.json()["events"]["applied"]) == (0, 40)


def test_a_topic_without_messages_is_told(shell: Shell, kafka: str) -> None:
    topic = f"t-{uuid4().hex[:8]}"
    Producer({"bootstrap.servers": kafka}).list_topics(topic, timeout=10)  # the mock makes it
    write("unused.jsonl", [], config_of(kafka))
    got = shell("validate", f"kafka:{topic}")
    assert (got.code, got.sentence()) == (1, f"driftgraph: the topic {topic} has no messages to look at")
    write("unused.jsonl", [], config_of(kafka).replace("[kafka]", f'[kafka]\ntopic = "{topic}"'))
    found = shell("doctor", "--json").json()["checks"]
    [events] = [one for one in found if one["name"] == "events"]
    assert events == {
        "name": "events", "state": "warn", "detail": f"{topic} has none yet; a run waits for the first one",
    }  # fmt: skip


def test_a_registry_that_is_away_is_told_soon(
    shell: Shell, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from driftgraph.app.commands import validate

    monkeypatch.setattr(validate, "HELD_FOR_S", 0.5)
    topic = f"t-{uuid4().hex[:8]}"
    produce(kafka, topic, [{"value": b"\x00\x00\x00\x00\x01x", "partition": 0}])
    registry = '[events]\nformat = "registry"\nregistry.url = "http://127.0.0.1:1"\n'
    write("unused.jsonl", [], config_of(kafka, registry))
    got = shell("validate", f"kafka:{topic}")
    assert got.code == 1
    assert "driftgraph: the schema registry at http://127.0.0.1:1 cannot be reached" in got.err


def test_behaviors_that_are_no_relation_are_counted_with_what_to_write(shell: Shell) -> None:
    """The option has those that are there, too: it stands in the place of the configured relations."""
    others = [event(n, behavior="share") for n in range(1, 4)] + [event(4, behavior="wish list")]
    write("e.jsonl", [event(0), others[0], others[1:]])
    report = shell("validate", "e.jsonl", "--json").json()
    assert report["unknown_behaviors"] == {"share": 3, "wish list": 1}
    assert (
        "4 events have a behavior that is no relation, share 3, wish list 1: give --relations "
        "click,share,wish list, or write in driftgraph.toml [relations.share] "
        '[relations."wish list"], a line each; events.ignore names behaviors that do not count'
    ) in report["notes"]
    assert shell("validate", "e.jsonl", "--relations", "click,share,wish list").code == 0


def test_fields_within_others_are_named_with_the_format_that_reads_them(shell: Shell) -> None:
    write("e.jsonl", [{"actor": {"id": 7}, "verb": "click", "at": NOW_MS}] * 3)
    report = shell("validate", "e.jsonl", "--json").json()
    assert report["rejected"][0]["example"]["detail"] == (
        "the event has no behavior; its fields are actor.id, verb, at"
    )
    assert any('set events.format = "mapping"' in note for note in report["notes"])
    write("e.jsonl", [{"uid": 7, "verb": "click", "at": NOW_MS}] * 3)
    assert not any("mapping" in note for note in shell("validate", "e.jsonl", "--json").json()["notes"])


def test_messages_of_a_schema_registry_are_known_by_their_first_bytes(shell: Shell, kafka: str) -> None:
    """And what a terminal cannot show is escaped."""
    topic = f"avro-{uuid4().hex[:8]}"
    produce(kafka, topic, [{"value": b"\x00\x00\x00\x00\x07\xfc\x0asku-5"}] * 5)
    Path("driftgraph.toml").write_text(f'[kafka]\nbootstrap_servers = "{kafka}"\n', encoding="utf-8")
    report = shell("validate", f"kafka:{topic}", "--json").json()
    assert any(
        'zero byte, and schema 7): set events.format = "registry"' in note for note in report["notes"]
    ), report["notes"]
    assert report["rejected"][0]["example"]["payload"] == "\\x00\\x00\\x00\\x00\\x07\\xfc\\nsku-5"
