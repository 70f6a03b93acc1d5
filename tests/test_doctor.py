"""doctor: what it computes, and that it looks at everything."""

from __future__ import annotations

import msgspec
import pytest
from typer.testing import CliRunner

from driftgraph.app.cli import app
from driftgraph.app.doctor import HEADROOM, needs_of
from driftgraph.stream.window import Relation

DAY_MS = 86_400_000
NOWHERE = "redis://127.0.0.1:1/0"


def test_a_capacity_is_the_rate_times_the_span_with_room_for_busy_days() -> None:
    relations = (Relation("click", 3 * DAY_MS, 450), Relation("buy", 30 * DAY_MS, 299))
    click, buy = needs_of(relations, 110, {"click": 100 / 110, "buy": 10 / 110})
    assert (click.events, buy.events) == (300, 300)
    assert HEADROOM == 1.5
    assert click.enough
    assert not buy.enough


def test_a_relation_that_the_sample_does_not_show_needs_nothing() -> None:
    [need] = needs_of((Relation("fav", DAY_MS, 10),), 1_000, {"click": 1.0})
    assert (need.events, need.enough) == (0, True)


def test_every_check_is_made_although_kafka_is_not_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "driftgraph.toml"
    path.write_text(
        f'data_dir = "{path.parent / "var"}"\n'
        f'[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[redis]\nurl = "{NOWHERE}"\n[relations.click]\n'
    )
    done = CliRunner().invoke(app, ["doctor", "--config", str(path), "--json"])
    assert done.exit_code == 1
    checks = {check["name"]: check["state"] for check in msgspec.json.decode(done.stdout)["checks"]}
    assert checks == {
        "relations": "ok", "events": "fail", "memory": "ok", "redis": "fail", "model": "ok", "device": "ok"
    }  # fmt: skip
