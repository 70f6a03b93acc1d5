"""doctor: what it computes, and that it looks at everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from driftgraph.app.cli.main import app
from driftgraph.app.commands.doctor.checks import (
    EVENT_BYTES,
    HEAD_BYTES,
    HEADROOM,
    Need,
    _fits,
    _memory,
    examine,
    needs_of,
)
from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.config.settings import Settings
from driftgraph.app.config.tables.model import FitSettings
from driftgraph.stream.time.durations import Duration
from driftgraph.stream.window.writer import Relation

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


def checked(tmp_path: Path, **settings: object) -> dict[str, Check]:
    """What is found without Kafka and Redis."""
    nowhere = {"kafka": {"bootstrap_servers": "127.0.0.1:1"}, "redis": {"url": NOWHERE}}
    found = examine(Settings.model_validate({"data_dir": tmp_path, **nowhere, **settings}))
    return {check.name: check for check in found.checks}


def test_impressions_are_told_apart_from_relations(tmp_path: Path) -> None:
    found = checked(tmp_path, relations={"click": {}}, events={"impressions": ["seen"]})
    assert found["relations"].detail == "click; shown: seen"


def test_a_file_of_attributes_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    attributes = {"item": {"tag": "category"}, "item_file": path}
    relations: dict[str, dict[str, str]] = {"click": {}}
    missing = checked(tmp_path, relations=relations, events={"attributes": attributes})["attributes"]
    assert missing.state is State.FAIL
    assert missing.detail.startswith(f"{path}: no such file; ")
    path.write_text("item_id,tag\ni,red\n", encoding="utf-8")
    good = checked(tmp_path, relations=relations, events={"attributes": attributes})["attributes"]
    assert (good.state, good.detail) == (State.OK, f"{path} has the columns item_id, tag")
    assert "attributes" not in checked(tmp_path, relations=relations)


def test_relations_and_a_device_that_are_not_there_are_told(tmp_path: Path) -> None:
    found = checked(tmp_path, model={"device": "cuda:63"})
    assert (found["relations"].state, found["device"].state) == (State.FAIL, State.FAIL)
    assert "add [relations.NAME]" in found["relations"].detail
    assert "cuda:63" in found["device"].detail


def test_memory_is_held_against_the_disk_that_is_there(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "window": {"user_rows": 1, "item_rows": 1}})
    fits = round(shutil.disk_usage(tmp_path).free / EVENT_BYTES / HEADROOM)
    for share, state in ((0.5, State.OK), (2.0, State.FAIL)):
        events = round(share * fits)
        [check] = _memory(settings, [Need("click", 1.0, 1.0, events, 2 * events)])
        assert check.state is state, check.detail
    rows = shutil.disk_usage(tmp_path).free // HEAD_BYTES
    many = Settings.model_validate({"data_dir": tmp_path, "window": {"user_rows": 1 << 31, "item_rows": 1}})
    needs = [Need(f"r{n}", 1.0, 1.0, 1, 10) for n in range(1 + rows // (1 << 31))]
    [check] = _memory(many, needs)
    assert check.state is State.WARN, check.detail


def test_it_says_when_a_fit_is_due_and_how_often_that_is() -> None:
    every_day = Settings(fit=FitSettings(every=Duration.parse("1d"), events=500))
    [check] = _fits(every_day, [])
    assert check.detail == "one each 1d of event time, and after each 500 new events"
    need = Need("click", per_day=32_000, span_days=30, events=960_000, capacity=1 << 22)
    [check] = _fits(Settings(), [need])
    assert (
        "one in 16 of the window's events is new (2,000 to 100,000 events), 6 hours to 14 days"
        in check.detail
    )
    assert check.detail.endswith("about one each 45 hours at this rate")


def test_every_check_is_made_although_kafka_is_not_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "driftgraph.toml"
    path.write_text(
        f'data_dir = "{path.parent / "var"}"\n'
        f'[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[redis]\nurl = "{NOWHERE}"\n[relations.click]\n'
        '[web]\nlisten = "127.0.0.1:0"\n'
    )
    done = CliRunner().invoke(app, ["doctor", "--config", str(path), "--json"])
    assert done.exit_code == 1
    found = msgspec.json.decode(done.stdout)
    assert found.keys() == {"healthy", "checks", "window"}
    assert all(check.keys() == {"name", "state", "detail"} for check in found["checks"])
    checks = {check["name"]: check["state"] for check in found["checks"]}
    assert checks == {
        "relations": "ok",
        "events": "fail",
        "memory": "warn",
        "machine memory": "ok",
        "disk": "ok",
        "open files": "ok",
        "http": "ok",
        "versions": "ok",
        "data_dir": "ok",
        "redis": "fail",
        "clock": "warn",
        "model": "ok",
        "fits": "ok",
        "device": "ok",
    }
