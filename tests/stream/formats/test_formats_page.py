"""docs/formats.md: each configuration loads, and each message gives the events that stand below it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings, load
from driftgraph.stream.formats.event_rules import Reason, RowOrigin, Rows
from driftgraph.stream.time.clock import ManualClock
from tests.decoded import events_of

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(toml|json message|json events)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RELATIONS = ("view", "click", "cart", "favorite", "purchase")
NOW_MS = 1_783_000_000_123


def settings_of(text: str, tmp_path: Path) -> Settings:
    path = tmp_path / "driftgraph.toml"
    path.write_text(text + "".join(f"\n[relations.{name}]" for name in RELATIONS), encoding="utf-8")
    return load(path)


def examples() -> list[tuple[str, str, str]]:
    """Configuration, message, events."""
    found, config = [], ""
    for (kind, text), (next_kind, events) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if kind == "toml":
            config = text
        elif kind == "json message":
            found.append((config, text, events if next_kind == "json events" else ""))
            config = ""
    return found


def test_the_page_has_an_example_of_each_format_that_is_text() -> None:
    assert len(examples()) == 10
    named = {name for kind, text in BLOCKS if kind == "toml" for name in re.findall(r'format = "(.+)"', text)}
    assert named == {
        "mapping", "segment", "ga4", "ga4-mp", "snowplow", "cloudevents", "registry", "arrow",
    }  # fmt: skip


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "toml"])
def test_each_configuration_loads(text: str, tmp_path: Path) -> None:
    settings = settings_of(text, tmp_path)
    topic_decoder(settings, event_rules(settings, ManualClock(NOW_MS)))


@pytest.mark.parametrize(("config", "message", "events"), examples())
def test_each_message_gives_its_events(config: str, message: str, events: str, tmp_path: Path) -> None:
    settings = settings_of(config, tmp_path)
    rules = event_rules(settings, ManualClock(NOW_MS))
    rows = Rows([message.encode()], lambda row: RowOrigin("t[0]@0"))
    decoded = topic_decoder(settings, rules).decode(rows)
    assert decoded.rejected == ()
    keys = ("user_id", "item_id", "behavior", "ts")
    found = [
        {**dict(zip(keys, (u, i, RELATIONS[r], t), strict=True)), **({"event_id": e} if e else {})}
        for u, i, r, t, _, e in events_of(decoded.batch)
    ]
    assert found == [json.loads(line) for line in events.splitlines()]
    assert len(found) + len(decoded.erased) > 0


def test_each_reason_is_explained() -> None:
    assert [reason for reason in Reason if f"`{reason.value}`" not in PAGE] == []
