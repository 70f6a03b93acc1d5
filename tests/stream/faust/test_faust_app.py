"""The Faust app as it is built, before anything is connected."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import faust
import mode
import pytest

from driftgraph.stream.faust import app as faust_app
from driftgraph.stream.faust.app import make_app
from driftgraph.stream.faust.options import FaustOptions
from driftgraph.stream.formats import JSON_NAMES
from driftgraph.stream.formats.event_rules import Behaviors, EventRules
from driftgraph.stream.time.clock import REPLAY_TIMES

OPTIONS = FaustOptions(
    name="shop",
    brokers="k1:9092, k2:9092",
    topic="events",
    rules=EventRules(Behaviors(["click"]), REPLAY_TIMES),
    names=JSON_NAMES,
    dead_letter_headers=lambda _: [],
    source_topic="site",
)


def agents_of(app: faust.App) -> set[str]:
    return {name.rpartition(".")[2] for name in app.agents}


def test_the_app_is_built_without_a_broker() -> None:
    app = make_app(OPTIONS)
    assert agents_of(app) == {"normalize", "count", "trends"}
    assert [(url.host, url.port) for url in app.conf.broker] == [("k1", 9092), ("k2", 9092)]
    assert app.conf.id == "shop-faust"


def test_without_a_source_topic_there_are_trends_alone() -> None:
    assert agents_of(make_app(replace(OPTIONS, source_topic=None))) == {"count", "trends"}


@pytest.mark.parametrize(
    ("function", "erase_by_key", "becomes"),
    [
        (None, None, "tombstone"),
        ("mysite:normalize", None, "letter"),
        ("mysite:normalize", True, "tombstone"),
        ("mysite:normalize", False, "nothing"),
        (None, False, "nothing"),
    ],
)
def test_a_record_without_a_value_passes_only_if_its_key_is_the_user(
    function: str | None, erase_by_key: bool | None, becomes: str
) -> None:
    """In the canonical topic it would erase whom its key names, which may be a row of the site's own."""
    options = replace(OPTIONS, normalize=function, erase_by_key=erase_by_key)
    agent = faust_app._Normalize(make_app(options), options, "site")
    message = SimpleNamespace(
        key=b"7", value=None, timestamp=1_783_000_000.0, headers=[], topic="site", partition=0, offset=1
    )
    sent = agent._messages(SimpleNamespace(message=message), None)  # type: ignore[arg-type]
    topics = {"events": "tombstone", "site.dlq": "letter"}
    assert [topics[one.topic.get_topic_name()] for one in sent] == ([] if becomes == "nothing" else [becomes])
    assert all(one.key == b"7" for one in sent)


def test_an_agent_that_ends_takes_the_worker_with_it() -> None:
    """Faust's default starts it again for ever, and the process looks fine."""
    supervisor: object = make_app(OPTIONS).conf.agent_supervisor
    assert supervisor is mode.CrashingSupervisor
