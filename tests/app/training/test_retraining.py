"""A fit that somebody asks for: the files of request and answer, without a worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from driftgraph.app.training.retraining import FOLDER, Answer, Request, Requests, RetrainError
from driftgraph.model.fitting.fit_report import no_fit
from driftgraph.snapshots.checkpoints.checkpoint import CheckpointError

ANSWER = Answer("a", "published", "", 7, 3, 9)


def test_a_request_stands_for_the_worker_until_it_is_answered(tmp_path: Path) -> None:
    asking, worker = Requests(tmp_path), Requests(tmp_path)
    assert worker.waiting() is None
    with asking.ask(Request("a", full=True)):
        assert worker.waiting() == Request("a", full=True)
        assert asking.answered(Request("a", full=True)) is None
        worker.answer(ANSWER)
        assert worker.waiting() is None
        assert asking.answered(Request("a", full=True)) == ANSWER
    assert asking.answered(Request("a", full=True)) is None, "the next one finds no answer of this one"


def test_an_answer_to_another_request_is_none_to_this_one(tmp_path: Path) -> None:
    """As of a worker that answers late, when another one asks already."""
    requests = Requests(tmp_path)
    with requests.ask(Request("b", full=False)):
        Requests(tmp_path).answer(ANSWER)
        assert requests.answered(Request("b", full=False)) is None


def test_an_answer_that_was_left_is_gone_when_the_next_one_asks(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "answer.json").write_text(ANSWER.json())
    with Requests(tmp_path).ask(Request("a", full=False)):
        assert not (tmp_path / FOLDER / "answer.json").exists()


def test_a_request_that_is_given_up_is_taken_back_and_no_other(tmp_path: Path) -> None:
    requests = Requests(tmp_path)
    with pytest.raises(KeyboardInterrupt), requests.ask(Request("a", full=False)):
        raise KeyboardInterrupt
    assert requests.waiting() is None
    with requests.ask(Request("a", full=False)):
        (tmp_path / FOLDER / "request.json").write_text('{"id": "c", "full": true}')
    assert requests.waiting() == Request("c", full=True), "somebody else's stays"


def test_two_at_once_are_refused_and_one_after_the_other_are_not(tmp_path: Path) -> None:
    one, other = Requests(tmp_path), Requests(tmp_path)
    with (
        one.ask(Request("a", full=False)),
        pytest.raises(RetrainError, match=str(tmp_path)),
        other.ask(Request("b", full=False)),
    ):
        pass
    with other.ask(Request("b", full=False)):
        assert one.waiting() == Request("b", full=False)


def test_a_request_that_nobody_can_have_meant_is_removed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for text in ("", "{", '{"id": 3}', "[]"):
        (tmp_path / FOLDER / "request.json").write_text(text)
        assert Requests(tmp_path).waiting() is None
        assert not (tmp_path / FOLDER / "request.json").exists()


def test_a_disk_that_takes_no_answer_leaves_the_request(tmp_path: Path) -> None:
    requests = Requests(tmp_path)
    with requests.ask(Request("a", full=False)):
        (tmp_path / FOLDER / "answer.json").mkdir()
        with pytest.raises(CheckpointError, match="answer"):
            requests.answer(ANSWER)
        assert requests.waiting() == Request("a", full=False)
        (tmp_path / FOLDER / "answer.json").rmdir()


def test_answers_say_how_a_fit_ended() -> None:
    asked = Request("a", full=False)
    made = no_fit(4)
    assert Answer.of(asked, made).outcome == "nothing new"
    for is_accepted, outcome in ((True, "published"), (False, "rejected")):
        reason = "" if is_accepted else "worse"
        report = replace(made, accepted=is_accepted, code=reason, reason=reason, new_examples=12)
        found = Answer.of(asked, report)
        assert (found.id, found.outcome, found.reason, found.new_examples) == (
            "a", outcome, report.reason, 12,
        )  # fmt: skip
    held = Answer.held(asked, "promote of 5", 8)
    assert (held.outcome, held.model_version) == ("held", 8)
    assert held.reason.startswith("promote of 5 holds")
    assert Answer.read(held.json()) == held
    assert Answer.read("nonsense") is None
    assert Answer.read('{"id": "a", "outcome": "maybe"}') is None


def test_no_two_new_requests_are_equal() -> None:
    assert len({Request.new(full=True).id for _ in range(100)}) == 100
