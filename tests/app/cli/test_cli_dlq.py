"""The dlq commands as their user has them: files here, a topic through the mock broker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driftgraph.app.config.letter_place import letter_place
from driftgraph.app.config.settings import load
from driftgraph.stream.dead_letters.files import FileDeadLetters
from driftgraph.stream.dead_letters.letters import DeadLetters
from driftgraph.stream.events import Rejected
from driftgraph.stream.time.clock import ManualClock, SystemClock
from tests.app.cli.test_cli import Shell
from tests.app.cli.test_cli import shell as shell  # noqa: PLC0414  a fixture
from tests.kafka_brokers import mock_kafka, produce
from tests.stream.dead_letters.test_dead_letters import records_of

DAY_MS = 86_400_000
TEXT = Rejected(
    "bad_json", "it is no JSON", b"{\xc3\xbc", "events[0]@7", key=b"u1", timestamp_ms=1_783_000_000_000
)
BINARY = Rejected(
    "bad_utf8", "not UTF-8", b"\xff\x00", "events[1]@8", headers=(("trace", b"\xfe"), ("app", b"web"))
)
OLD = replace(TEXT, origin="events[0]@1")


@pytest.fixture
def kafka() -> Iterator[str]:
    with mock_kafka() as address:
        produce(address, "events", [{"value": b"first", "partition": 0}])
        yield address


@pytest.fixture
def letters(shell: Shell, kafka: str) -> None:
    """Three letters as files, the first of them 40 days old, and a configuration that finds them."""
    Path("driftgraph.toml").write_text(f'[kafka]\nbootstrap_servers = "{kafka}"', encoding="utf-8")
    clock = ManualClock(SystemClock().now_ms() - 40 * DAY_MS)
    place = FileDeadLetters(Path("var/dead_letters"), clock=clock)
    place.put(OLD)
    clock.advance(40 * DAY_MS)
    place.put(TEXT)
    place.put(BINARY)
    place.close()


def reasons_of(shell: Shell, *argv: str) -> dict[str, int]:
    told = shell("dlq", "ls", "--json", *argv).json()
    assert told["open"] == sum(group["count"] for group in told["reasons"])
    return {group["reason"]: group["count"] for group in told["reasons"]}


def test_ls_counts_by_reason_with_the_newest_as_example(shell: Shell, letters: None) -> None:
    told = shell("dlq", "ls", "--json").json()
    assert (told["place"], told["open"], told["done"]) == ("var/dead_letters", 3, 0)
    first, second = told["reasons"]
    assert (first["reason"], first["count"], first["tried_before"]) == ("bad_json", 2, 0)
    assert first["example"] == {"id": "1-2", "origin": "events[0]@7", "detail": "it is no JSON"}
    assert second["reason"] == "bad_utf8"
    people = shell("dlq", "ls").out
    assert people.startswith("var/dead_letters: 3 open, 0 done\n        2  bad_json, newest 20")
    assert "1-3: events[1]@8: not UTF-8" in people


def test_ls_of_one_reason_names_its_letters_the_newest_first(shell: Shell, letters: None) -> None:
    told = shell("dlq", "ls", "--reason", "bad_json", "--json").json()
    assert [one["id"] for one in told] == ["1-2", "1-1"]
    assert [
        one["id"] for one in shell("dlq", "ls", "--reason", "bad_json", "--limit", "1", "--json").json()
    ] == ["1-2"]
    assert "events[0]@7: it is no JSON" in shell("dlq", "ls", "--reason", "bad_json").out


def test_show_prints_all_of_a_letter(shell: Shell, letters: None) -> None:
    told = shell("dlq", "show", "1-2", "--json").json()
    assert (told["payload"], told["payload_is"], told["payload_bytes"]) == ("{ü", "text", 3)
    assert (told["key"], told["timestamp_ms"], told["origin"]) == ("u1", TEXT.timestamp_ms, "events[0]@7")
    assert (told["attempts"], told["done"], told["reason"], told["detail"]) == (
        0,
        False,
        "bad_json",
        "it is no JSON",
    )
    binary = shell("dlq", "show", "1-3", "--json").json()
    assert (binary["payload"], binary["payload_is"]) == ("ff 00", "hex")
    assert binary["headers"] == [["trace", "fe"], ["app", "web"]]
    people = shell("dlq", "show", "1-3").out
    for line in ("header trace  fe", "header app    web", "2 bytes, as hex", "ff 00"):
        assert line in people


def test_a_letter_that_is_not_there_is_told(shell: Shell, letters: None) -> None:
    assert (
        shell("dlq", "show", "9-9")
        .sentence()
        .startswith("driftgraph: there is no dead letter 9-9 in var/dead")
    )
    assert (
        "'first' is no dead letter: they are named such as 1-17" in shell("dlq", "show", "first").sentence()
    )


def test_without_any_letters_everything_says_so(shell: Shell, kafka: str) -> None:
    assert shell("dlq", "ls").out == "var/dead_letters: 0 open, 0 done\n"
    assert shell("dlq", "purge", "--yes", "--json").json() == {"removed": 0}
    Path("driftgraph.toml").write_text(f'[kafka]\nbootstrap_servers = "{kafka}"', encoding="utf-8")
    assert shell("dlq", "retry").out == "sent 0 letters back\n"
    assert shell("dlq", "ls", "--place", "kafka").out == "topic events.dlq: 0 open, 0 done\n"


def test_retry_sends_them_back_once(shell: Shell, letters: None, kafka: str) -> None:
    assert shell("dlq", "retry", "--reason", "bad_json", "--limit", "1", "--json").json() == {
        "sent": 1, "reasons": {"bad_json": 1}, "cut": 0, "foreign": 0,
    }  # fmt: skip
    assert shell("dlq", "retry").out == "sent 2 letters back\n  1 bad_json\n  1 bad_utf8\n"
    assert shell("dlq", "retry").out == "sent 0 letters back\n"
    back = [r for r in records_of(kafka, "events", 4) if r.value() != b"first"]
    assert sorted((r.partition(), r.value(), r.key()) for r in back) == [
        (0, TEXT.payload, b"u1"), (0, TEXT.payload, b"u1"), (1, BINARY.payload, None),
    ]  # fmt: skip
    assert all(("driftgraph.attempts", b"1") in r.headers() for r in back)
    told = shell("dlq", "ls", "--json").json()
    assert (told["open"], told["done"]) == (0, 3)


def test_purge_removes_what_was_asked_for_and_only_with_yes(shell: Shell, letters: None) -> None:
    refused = shell("dlq", "purge")
    assert (refused.code, refused.out) == (2, "")
    assert "--yes" in refused.err
    assert reasons_of(shell) == {"bad_json": 2, "bad_utf8": 1}
    assert shell("dlq", "purge", "--older-than", "30d", "--yes", "--json").json() == {"removed": 1}
    assert reasons_of(shell) == {"bad_json": 1, "bad_utf8": 1}
    assert shell("dlq", "purge", "--reason", "bad_utf8", "--yes").out == "removed 1 letters\n"
    assert reasons_of(shell) == {"bad_json": 1}
    assert shell("dlq", "purge", "--older-than", "soon", "--yes").code == 2
    assert shell("dlq", "show", "1-3").code == 1


def test_the_configuration_says_which_place(shell: Shell, letters: None, kafka: str) -> None:
    text = f'[kafka]\nbootstrap_servers = "{kafka}"\n[dead_letters]\nto = "kafka"\ntopic = "rejects"'
    produce(kafka, "rejects", [{"value": b"x", "headers": [("driftgraph.reason", b"odd")]}])
    Path("driftgraph.toml").write_text(text, encoding="utf-8")
    assert reasons_of(shell) == {"odd": 1}
    assert reasons_of(shell, "--place", "files") == {"bad_json": 2, "bad_utf8": 1}
    assert shell("dlq", "ls", "--place", "paper").code == 2


def test_the_place_of_a_configuration_is_bounded_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None, {"dead_letters": {"max_bytes": 1 << 20}})
    place: DeadLetters = letter_place(settings)
    for number in range(3_000):
        place.put(replace(TEXT, origin=f"events[0]@{number}", payload=b"x" * 1_000))
    place.close()
    size = sum(path.stat().st_size for path in Path("var/dead_letters").glob("*.jsonl"))
    assert (1 << 20) * 0.8 < size <= 1 << 20


def test_a_kafka_that_is_away_is_one_sentence(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from driftgraph.stream.dead_letters import topic

    monkeypatch.setattr(topic, "ANSWER_WITHIN_S", 0.5)
    Path("driftgraph.toml").write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"', encoding="utf-8")
    failed: Any = shell("dlq", "ls", "--place", "kafka")
    assert failed.code == 1
    assert "dead letters cannot be read from events.dlq on Kafka at 127.0.0.1:1" in failed.sentence()
