"""What the worker tells of a user: as the window, the scorer and Redis have it, through its socket."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from driftgraph.app.console import worker_socket
from driftgraph.app.console.worker_socket import Answering, NoAnswerError, answering, ask
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.process.user_answers import UserAnswers, says_of
from driftgraph.model.score.scorer import PARTS
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.window.heterograph import Heterograph
from tests.app.publishing.test_refresher import LATER_MS, USER_ID, click, graph, worker_on
from tests.services_redis import NAMESPACE
from tests.shop_worlds import RELATIONS
from tests.waits import until

__all__ = ["graph"]  # the fixture


def answers(folder: Path, question: dict[str, object] | None = None) -> bool:
    with contextlib.suppress(NoAnswerError):
        ask(folder, question or {})
        return True
    return False


@contextlib.contextmanager
def asked(worker: Worker, folder: Path) -> Iterator[None]:
    assert worker.refresher is not None
    told = UserAnswers(worker.graph, worker.refresher)
    with answering(folder, told.answer, told.warm_up):
        until(lambda: answers(folder, {"ask": "recent", "user": "", "top": 1}))
        yield


def test_the_parts_are_those_of_the_list_that_readers_have(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_client: redis.Redis
) -> None:
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    listed = EmbeddingReader(redis_client, namespace=NAMESPACE).recommend(USER_ID, 20)
    items = [item for item, _ in listed.items]
    question = {"ask": "why", "generation": 1, "user": USER_ID, "items": [*items, "nothing"]}
    with asked(worker, tmp_path):
        *told, nothing = ask(tmp_path, question)["items"]
        with pytest.raises(NoAnswerError, match="generation 7 is not the one"):
            ask(tmp_path, {**question, "generation": 7})
        with pytest.raises(NoAnswerError, match="no event of user 'nobody'"):
            ask(tmp_path, {**question, "user": "nobody"})
        recent = ask(tmp_path, {"ask": "recent", "user": USER_ID, "top": 1_000})["events"]
    assert nothing is None
    names = {"popularity" if name == "bank" else name for name in PARTS}
    own = {(one["item"], one["behavior"], one["event_ms"]) for one in recent}
    for why, (item, score) in zip(told, listed.items, strict=True):
        assert why["parts"].keys() == names
        assert sum(why["parts"].values()) == pytest.approx(score, rel=1e-4, abs=1e-4)
        for way in why["because"]:
            assert (way["item"], way["behavior"], way["event_ms"]) in own
            assert item != way["item"]
    assert any(why["because"] for why in told)


def test_recent_events_are_those_of_the_window_newest_first(
    graph: Heterograph, tmp_path: Path, store: GenerationStore
) -> None:
    worker = worker_on(tmp_path, store)
    for n in range(3):
        click(graph, "newcomer", f"i{n}", n)
    with asked(worker, tmp_path):
        assert ask(tmp_path, {"ask": "recent", "user": "newcomer", "top": 2})["events"] == [
            {"item": f"i{n}", "behavior": RELATIONS[0].name, "event_ms": LATER_MS + n} for n in (2, 1)
        ]
        assert ask(tmp_path, {"ask": "recent", "user": "nobody", "top": 2})["events"] is None
        graph.erase(["newcomer"])
        assert ask(tmp_path, {"ask": "recent", "user": "newcomer", "top": 2})["events"] is None


def test_before_the_first_model_it_says_that_nothing_is_learned(
    graph: Heterograph, tmp_path: Path, store: GenerationStore
) -> None:
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    with asked(worker, tmp_path), pytest.raises(NoAnswerError, match="known after the first fit"):
        ask(tmp_path, {"ask": "why", "generation": 1, "user": USER_ID, "items": []})


def test_without_a_worker_that_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match="no worker of"):
        ask(tmp_path, {})
    with answering(tmp_path, dict):
        until(lambda: answers(tmp_path))
    with pytest.raises(NoAnswerError, match="no worker of"):
        ask(tmp_path, {})


def test_a_socket_that_a_killed_worker_left_is_replaced_and_no_other_account_may_connect(
    tmp_path: Path,
) -> None:
    path = tmp_path / "status" / worker_socket.NAME
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with answering(tmp_path, lambda question: {"heard": question}):
        until(lambda: answers(tmp_path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ask(tmp_path, {"ä": 1}) == {"heard": {"ä": 1}}


def test_what_is_no_question_or_a_fault_of_ours_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_socket, "SENT_WITHIN_S", 0.2)
    monkeypatch.setattr(worker_socket, "QUESTION_BYTES_MAX", 1 << 16)
    path = tmp_path / "status" / worker_socket.NAME
    with answering(tmp_path, lambda question: {"heard": question["a"]}):
        until(lambda: answers(tmp_path, {"a": 1}))
        for sent in (b"", b"{", b"\x80\x04N.", b"[" * 50_000, b'"' + b"x" * (1 << 17)):
            with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(OSError):
                line.connect(str(path))
                line.sendall(sent)
        with pytest.raises(NoAnswerError, match="unexpected KeyError"):
            ask(tmp_path, {"b": 1})
        assert ask(tmp_path, {"a": 1}) == {"heard": 1}
    assert "a question to the worker" in caplog.text


def test_a_worker_that_is_silent_is_said(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(tmp_path / "status" / worker_socket.NAME))
        line.listen(1)
        with pytest.raises(NoAnswerError, match=r"not answered within 0\.1 s"):
            ask(tmp_path, {}, within_s=0.1)


def test_a_folder_that_takes_no_socket_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status").write_text("")
    thread = Answering(tmp_path, dict)
    thread.start()
    thread.join(10)
    assert "takes no socket" in caplog.text


@pytest.mark.parametrize(
    ("strongest", "said"),
    [
        ("paths", "because of your click of i1: 3 other users with it chose this item, too"),
        ("bank", "because many choose this item now"),
        ("own", "because you chose this item before"),
    ],
)
def test_the_sentence_names_the_path_or_the_strongest_part(strongest: str, said: str) -> None:
    parts = dict.fromkeys(PARTS, 0.0) | {strongest: 1.0}
    because = json.loads('[{"item": "i1", "behavior": "click", "event_ms": 1, "users": 3, "share": 1.0}]')
    assert says_of(parts, because if strongest == "paths" else []) == said
