"""What the routes of users, generations and rejected events answer, on a real Redis and real letters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.worker_socket import NoAnswerError, answering, ask
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.dead_letters.files import FileDeadLetters, FileLetterBox
from driftgraph.stream.events import Rejected
from tests.app.web.serving import TOKEN, Port, served, settings_of, updater_says
from tests.services_redis import filled, publish
from tests.waits import until


@pytest.fixture
def port(tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis_py.Redis) -> Iterator[Port]:
    assert redis_client.ping()
    updater_says(tmp_path)
    with served(settings_of(tmp_path, redis_server.url, token=TOKEN)) as found:
        yield found


def post(port: Port, path: str, body: object = None) -> tuple[int, Any]:
    return port.ask(path, method="POST", token=TOKEN, body=body)


def test_generations_are_rolled_back_promoted_and_held(port: Port, store: GenerationStore) -> None:
    for number in (1, 2, 3):
        publish(store, number)

    def act(path: str, body: object = None) -> dict[str, Any]:
        """What was done; the answer has the number of the act, by which it is known in /api/status."""
        before = store.choices.newest().act_ms
        status, said = post(port, path, body)
        assert (status, said.pop("at_ms")) == (200, store.choices.newest().act_ms)
        assert store.choices.newest().act_ms > before
        return dict(said)

    assert act("/api/rollback") == {"generation": 2, "was": 3, "held": False}
    assert act("/api/rollback", {"hold": True}) == {"generation": 1, "was": 2, "held": True}
    assert store.choices.newest().is_held
    assert store.choices.newest().by == "HTTP"
    chosen = {"generation": 2, "hold": True}
    assert act("/api/promote", chosen) == {"generation": 2, "was": 1, "held": True}
    assert act("/api/promote", {}) == {"generation": 3, "was": 2, "held": False}
    assert not store.choices.newest().is_held
    status, said = post(port, "/api/promote", {"generation": 9})
    assert (status, store.served().number) == (409, 3)  # type: ignore[union-attr]
    assert "generation 9 is not there: Redis keeps 1, 2, 3" in said["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"number": 2}, "there is no field 'number' here, only generation, hold"),
        ({"generation": "2"}, "generation should be of type int"),
        ({"generation": True}, "generation should be of type int"),
        ({"generation": 0}, "from 1 on"),
        ({"hold": 1}, "hold should be of type bool"),
        ([], "should be a JSON object"),
        (b"{", "should be a JSON object"),
        (b"[" * 4_000, "should be a JSON object"),
    ],
)
def test_a_wrong_body_is_said_and_nothing_is_switched(
    port: Port, store: GenerationStore, body: object, said: str
) -> None:
    publish(store, 1)
    publish(store, 2)
    status, answer = post(port, "/api/promote", body)
    assert status == 400
    assert said in answer["error"]
    assert store.choices.newest().act_ms == 0


def test_what_rises_over_all_behaviors(port: Port, store: GenerationStore) -> None:
    publish(store, 1)
    assert port.ask("/api/trending") == (200, {"items": [], "generation": 1})
    store.trending.replace({"click": {"a": 1.0, "b": 3.0}, "buy": {"a": 4.0}})
    assert port.ask("/api/trending?top=5")[1]["items"] == [
        {"item": "a", "score": 5.0}, {"item": "b", "score": 3.0},
    ]  # fmt: skip
    assert [one["item"] for one in port.ask("/api/trending?top=1")[1]["items"]] == ["a"]


def told_by_worker(question: dict[str, Any]) -> dict[str, Any]:
    """A worker that knows one user."""
    if question.get("ask") == "recent":
        events = [{"item": "i9", "behavior": "click", "event_ms": 5}]
        return {"events": events[: question["top"]] if question["user"] == "u1" else None}
    if question.get("generation") != 1:
        raise NoAnswerError("generation 2 is not the one that the worker refreshes now")
    parts = {"vectors": 0.5, "paths": 1.0}
    because = [{"item": "i9", "behavior": "click", "event_ms": 5, "users": 3, "share": 1.0}]
    why = {"parts": parts, "because": because, "says": f"because of {question['user']}"}
    return {"items": [why, *[None] * (len(question["items"]) - 1)]}


def publish_lists(store: GenerationStore, number: int) -> None:
    """With a list of three items for each user."""
    users, items = filled("u", 2, number), filled("i", 9, number)
    listed = msgspec.json.encode(["i1", "i2", "i3"]), np.array([3, 2, 1], "<f4").tobytes()
    store.publish(number, replace(users, lists=[listed] * 2), items, {"lists": 3})


def is_answering(folder: Path) -> bool:
    try:
        return bool(ask(folder, {"ask": "recent", "user": "", "top": 1}))
    except NoAnswerError:
        return False


def test_a_users_events_and_reasons_come_from_the_worker(
    port: Port, store: GenerationStore, tmp_path: Path
) -> None:
    publish_lists(store, 1)
    assert port.ask("/api/events/recent/u1", token=TOKEN)[0] == 503, "no worker runs"
    plain = port.ask("/api/recommend/u1?top=3", token=TOKEN)[1]
    alone = port.ask("/api/recommend/u1?top=3&why=true", token=TOKEN)[1]
    assert "no worker of" in alone.pop("why_not")
    assert alone == plain, "the list is there all the same"
    with answering(tmp_path, told_by_worker):
        until(lambda: is_answering(tmp_path))
        assert port.ask("/api/events/recent/u1?top=5", token=TOKEN) == (
            200, {"user": "u1", "events": [{"item": "i9", "behavior": "click", "event_ms": 5}]},
        )  # fmt: skip
        status, said = port.ask("/api/events/recent/u2", token=TOKEN)
        assert (status, said) == (404, {"error": "the window has no event of user 'u2'"})
        found = port.ask("/api/recommend/u1?top=3&why=true", token=TOKEN)[1]
        assert found["items"][0]["why"]["says"] == "because of u1"
        assert found["why_not"] == "2 of the items have left the window since"
        assert [one["item"] for one in found["items"]] == [one["item"] for one in plain["items"]]
        unknown = port.ask("/api/recommend/nobody?why=true", token=TOKEN)[1]
        assert "no list by a scorer" in unknown["why_not"]
        publish_lists(store, 2)
        assert "generation 2" in port.ask("/api/recommend/u1?top=3&why=true", token=TOKEN)[1]["why_not"]
    assert port.ask("/api/recommend/u1?why=yes", token=TOKEN)[0] == 400


def test_rejected_events_are_counted_and_shown_newest_first(port: Port, tmp_path: Path) -> None:
    assert port.ask("/api/rejected", token=TOKEN)[1] == {
        "total": 3, "reasons": {"json": 2, "late": 1}, "examples": [],
        "examples_why_not": "no dead letter is open",
    }  # fmt: skip
    letters = FileDeadLetters(tmp_path / "dead_letters")
    for n in range(25):
        letters.put(Rejected("bad_json", f"line {n}", b"\xff" + b"x" * 9_000, f"events[1]@{n}"))
    letters.put(Rejected("late", "too late", b"{}", "partition 2"))
    letters.close()
    found = port.ask("/api/rejected", token=TOKEN)[1]["examples"]
    assert len(found) == 20
    assert (found[0]["reason"], found[0]["topic"], found[0]["event"]) == ("late", None, "{}")
    assert (found[1]["topic"], found[1]["partition"], found[1]["offset"]) == ("events", 1, 24)
    assert found[1]["event"].startswith("\\xffxxx")
    assert len(found[1]["event"]) == 2_000
    box = FileLetterBox(tmp_path / "dead_letters")
    box.mark_done([one.id for one in box.letters() if one.rejected.detail != "line 3"])
    assert [one["detail"] for one in port.ask("/api/rejected", token=TOKEN)[1]["examples"]] == ["line 3"]


def test_a_retry_without_letters_sends_none(port: Port) -> None:
    status, said = post(port, "/api/rejected/retry")
    assert (status, said["retried"]) == (200, 0)
