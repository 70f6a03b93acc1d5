"""The demo: it ends by itself, loses nothing on the way through Kafka, and shows what it found."""

from __future__ import annotations

import io
import json
import math
import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka.admin import AdminClient
from rich.console import Console

from driftgraph.app.console.progress import NoProgress
from driftgraph.app.demo import run as demo_module
from driftgraph.app.demo.report import DemoReport
from driftgraph.app.demo.run import demo
from driftgraph.app.demo.shop import BEHAVIORS, ShopOptions, open_shop
from driftgraph.app.demo.view import Frame, TerminalView
from driftgraph.app.training.generation_report import GenerationReport
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.ingest.ingest import Counts
from driftgraph.stream.window.writer import Relation
from tests.app.web.serving import Port
from tests.shop_worlds import batch_of, graph_of
from tests.waits import until

EVENTS = 3_000


class Notes(NoProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


SEEN: dict[str, Any] = {}  # what the page of the demo answered when the report was there


def look_at_page(notes: Notes, report: DemoReport) -> None:
    """Ask the demo's page, as a browser does, while Kafka and Redis are still up."""
    [line] = [line for line in notes.lines if line.startswith("the page: ")]
    found = re.fullmatch(r"the page: (http://127\.0\.0\.1:\d+)/ \(its token: (\S+)\)", line)
    assert found is not None, line
    port, token = Port(found[1]), found[2]
    user = report.after.user if report.after is not None else ""
    until(lambda: port.ask("/readyz")[0] == 200)
    until(lambda: port.ask("/api/status")[1]["updater"]["events"]["read"] == report.counts.read)
    newest = report.generations[-1].generation
    until(lambda: port.ask("/api/quality")[1][-1]["generation"] == newest)
    until(lambda: port.ask("/api/status")[1]["generation"] == newest)
    question = f"/api/recommend/{user}?why=true&top=5"
    until(lambda: "why" in port.ask(question, token=token)[1]["items"][0])  # a busy demo asks for patience
    SEEN.update({
        "page": port.ask("/")[1],
        "metrics": port.ask("/metrics")[0],
        "status": port.ask("/api/status")[1],
        "quality": port.ask("/api/quality")[1],
        "recommended": port.ask(question, token=token)[1],
        "recent": port.ask(f"/api/events/recent/{user}", token=token)[1],
        "refused": port.ask(f"/api/recommend/{user}", token="another")[0],
    })  # fmt: skip


@pytest.fixture(scope="module")
def shown() -> Iterator[tuple[DemoReport, Notes]]:
    """A small shop's demo, run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "SHOP_EVENTS", EVENTS)
        patch.setattr(demo_module, "FIT_EVERY", "24h")
        notes = Notes()
        look = partial(look_at_page, notes)
        yield demo(data=None, keep=False, seconds=2, seed=3, progress=notes, as_json=False, show=look), notes


def test_it_ends_with_every_event_in_the_window_once(shown: tuple[DemoReport, Notes]) -> None:
    """The digest is that of the shop's events without Kafka, whatever the order of the partitions."""
    report, _ = shown
    shop = open_shop(ShopOptions(event_count=EVENTS, seed=3))
    counts = report.counts
    assert (counts.read, counts.applied, counts.late, counts.rejected) == (len(shop), len(shop), 0, 0)
    assert report.window == {name: int((shop.behavior == n).sum()) for n, name in enumerate(BEHAVIORS)}
    graph = graph_of([], [Relation(name, 2 * shop.options.span_ms, 1 << 14) for name in BEHAVIORS])
    graph.apply(batch_of(shop))
    graph.expire(int(shop.time_ms.max()))
    assert report.digest == graph.digest(graph.moment().cut)


def test_its_page_shows_the_demo_as_it_shows_a_run(shown: tuple[DemoReport, Notes]) -> None:
    report, _ = shown
    assert "<title>driftgraph</title>" in SEEN["page"]
    assert SEEN["metrics"] == 200
    status = SEEN["status"]
    assert status["troubles"] == []
    assert status["updater"]["window"] == report.window
    assert status["generation"] == report.generations[-1].generation
    assert [row["generation"] for row in SEEN["quality"]][-1] == report.generations[-1].generation
    assert SEEN["refused"] == 401
    after = report.after
    assert after is not None
    assert [one["item"] for one in SEEN["recommended"]["items"]] == after.items
    assert all(one["why"]["parts"] for one in SEEN["recommended"]["items"]), SEEN["recommended"]
    assert SEEN["recent"]["user"] == after.user
    assert SEEN["recent"]["events"]


def test_its_first_generation_knows_the_history_and_the_others_follow(
    shown: tuple[DemoReport, Notes],
) -> None:
    report, notes = shown
    shop = open_shop(ShopOptions(event_count=EVENTS, seed=3))
    first, *others = report.generations
    assert first.fit.accepted
    assert first.watermark_ms >= shop.time_ms[round(len(shop) * demo_module.HISTORY)] - 86_400_000
    assert len(others) >= 9
    assert report.redis["manifest"] == 3
    told = [line for line in notes.lines if "generation" in line]
    assert len(told) == len(report.generations), "a generation was told twice, or not at all"
    assert told[0].startswith("before the drift, generation 1")
    assert told[-1].startswith(f"after the drift, generation {report.generations[-1].generation} (")


def test_its_report_tells_of_the_drift_and_of_one_user(shown: tuple[DemoReport, Notes]) -> None:
    report, _ = shown
    told = json.loads(json.dumps(report.to_json()))
    # on a busy machine the partitions come so far apart that no event before the drift can be scored
    assert {"after", "end"} <= told["recall_at_20"].keys() <= {"before", "after", "end"}
    for phase in told["recall_at_20"].values():
        baselines = {"frozen_first", "started_anew", "recent_popularity", "co_visitation"}
        assert phase.keys() == baselines | {"model", "vectors", "bank", "paths", "similar_users"}
        assert all(0 <= value <= 1 for value in phase.values())
    before, after = told["user_before"], told["user_after"]
    assert before["user"] == after["user"]
    assert set(before["taste"]).isdisjoint(after["taste"])
    assert before["generation"] < after["generation"] == report.generations[-1].generation
    assert len(before["top"]) == len(after["top"]) == 5
    assert after["top_in_taste"] == sum(item.rpartition("-")[0] in after["taste"] for item in after["top"])


def test_its_report_is_a_table_for_people(shown: tuple[DemoReport, Notes]) -> None:
    report, _ = shown
    out = io.StringIO()
    report.render(Console(file=out, width=120))
    text = out.getvalue()
    assert f"{report.counts.applied:,} events in" in text
    assert report.after is not None
    for word in (
        "right after",
        "at the end",
        "live model",
        "frozen first",
        "its paths alone",
        "by these shares",
    ):
        assert word in text
    assert ("before the drift" in text) == ("before" in report.phases())
    assert f"Top 5 of {report.after.user}, from Redis" in text
    phases = report.phases()
    for scorer, title in (("model", "live model"), ("co_visitation", "co-visitation")):
        [line] = [line for line in text.splitlines() if line.startswith(title)]
        values = line.removeprefix(title).split()
        assert values == [f"{phases[phase][scorer]:.3f}" for phase in ("before", "after", "end")]
    assert all(item in text for item in report.after.items)


def test_its_picture_shows_the_curves_and_the_drift(shown: tuple[DemoReport, Notes]) -> None:
    report, _ = shown
    out = io.StringIO()
    assert report.drift_ms is not None
    with TerminalView(Console(file=out, width=120, force_terminal=True)) as view:
        for generation in report.generations:
            view.generation(generation, drifted=generation.watermark_ms > report.drift_ms)
            view.show(
                Frame(
                    watermark_ms=generation.watermark_ms,
                    applied=1_234,
                    total=5_678,
                    events_per_second=99.0,
                    window={"click": 777},
                    generation=generation.generation,
                    model_version=generation.model_version,
                )
            )
        view.close()
    text = out.getvalue()
    for word in (
        "1,234 of 5,678",
        "click 777",
        "live model",
        "co-visitation",
        "frozen first",
        "its paths",
        "changed their taste",
    ):
        assert word in text


def picture_of(recalls: list[float], *, drift_at: int | None = None, width: int = 120) -> list[str]:
    """The last picture of a demo whose model had these recalls, without colors."""
    out = io.StringIO()
    with TerminalView(Console(file=io.StringIO(), width=width, force_terminal=True)) as view:
        for n, recall in enumerate(recalls):
            metrics = {"model": {"recall_at_20": recall}, "frozen_first": {"recall_at_20": recall / 2}}
            report = SimpleNamespace(evaluation=SimpleNamespace(metrics=metrics))
            drifted = None if drift_at is None else n >= drift_at
            view.generation(cast(GenerationReport, report), drifted=drifted)
            view.show(Frame(1_783_000_000_000, 1, 2, 3.0, {"click": 1}, n, n))
        assert view._frame is not None
        Console(file=out, width=width, color_system=None).print(view._picture(view._frame))
        view.close()
    return [line.rstrip() for line in out.getvalue().splitlines()]


def line_of(title: str, lines: list[str]) -> str:
    [line] = [line for line in lines if title in line]
    return line


def test_an_interval_without_a_scored_event_is_a_gap_and_not_a_zero() -> None:
    lines = picture_of([math.nan, 0.5, math.nan, 0.25, 0.0, math.nan])
    assert line_of("live model", lines).split() == ["live", "model", "·█·▄", "·", "0.000"]
    assert line_of("frozen first", lines).split() == ["frozen", "first", "·▄·▂", "·", "0.000"]
    assert line_of("recent popularity", lines).split() == ["recent", "popularity", "······"]
    assert not any("nan" in line for line in lines)


def test_what_was_measured_last_stands_behind_the_curve() -> None:
    assert line_of("live model", picture_of([0.5, 0.25, math.nan, math.nan])).endswith("0.250")
    assert line_of("live model", picture_of([math.nan, math.nan])).split() == ["live", "model", "··"]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_each_part_of_the_picture_has_a_line_of_its_own(width: int) -> None:
    bar, *others = picture_of([0.5], width=width)
    assert set(bar.replace(" ", "")) <= set("━╸╺")
    assert others[0].split()[:2] == ["event", "time"]


@pytest.mark.parametrize("drift_at", [0, 1, 20, 28, 29, 30, 39])
def test_the_arrow_stands_below_the_interval_of_the_drift(drift_at: int) -> None:
    lines = picture_of([0.5] * drift_at + [0.25] * (40 - drift_at), drift_at=drift_at, width=80)
    begin = line_of("live model", lines).index("█")  # the highest is the first
    assert line_of("▲", lines).index("▲") - begin == drift_at
    assert "half changed their taste" in line_of("▲", lines)


def test_a_file_is_streamed_instead_and_keep_leaves_the_services_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three users: some partitions never have an event, and yet time passes."""
    chance = random.Random(1)
    lines = [f"u{n % 3},i{chance.randrange(300)},view,{1_700_000_000 + 60 * n}" for n in range(600)]
    chance.shuffle(lines)
    lines[7:7] = ["phone,i1,view,2114380800", "phone,i1,view,1780000000"]  # years ahead of all others
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["user_id,item_id,behavior,timestamp", *lines]), encoding="utf-8")
    notes, answers, told_before = Notes(), list[bool](), list[DemoReport]()

    def look() -> None:
        assert told_before, "the report is there while the services are still up"
        [said] = [line for line in notes.lines if line.startswith("still up")]
        words = said.split()
        kafka, redis = words[words.index("Kafka") + 1], words[words.index("Redis") + 1]
        topics = AdminClient({"bootstrap.servers": kafka, "log_level": 0}).list_topics(timeout=5).topics
        client = connect(redis)
        answers.extend(["events" in topics, EmbeddingReader(client, namespace="demo").current() > 0])
        client.close()
        page = Port(next(line for line in notes.lines if line.startswith("the page")).split()[2].rstrip("/"))
        told_ms = page.ask("/api/status")[1]["worker"]["time_ms"]
        until(lambda: page.ask("/api/status")[1]["worker"]["time_ms"] > told_ms)
        answers.append(page.ask("/readyz")[1]["ready"])

    monkeypatch.setattr(demo_module, "_wait_for_interrupt", look)
    report = demo(
        data=path, keep=True, seconds=1, seed=0, progress=notes, as_json=True, show=told_before.append
    )
    assert told_before == [report]
    assert answers == [True, True, True]
    assert (report.counts.applied, report.counts.late) == (600, 0)
    assert report.window == {"view": 600}
    assert 10 < len(report.generations) <= 17  # 20 intervals, the first quarter being history
    assert report.drift_ms is None
    assert report.phases() == {}
    told = report.to_json()
    assert told["user_after"] is None
    assert math.isfinite(told["overall"]["metrics"]["model"]["recall_at_20"])
    assert not any("the drift" in line for line in notes.lines)
    out = io.StringIO()
    report.render(Console(file=out, width=120))
    assert "all intervals" in out.getvalue()


def test_it_is_not_over_before_all_that_was_acknowledged_is_read() -> None:
    """The end of every partition may have been seen before the last events were written."""
    counts = Counts(read=9)
    producer = SimpleNamespace(failure=None, done=True, acknowledged=10)
    lockstep, source = SimpleNamespace(ingest=SimpleNamespace(counts=counts)), SimpleNamespace(caught_up=True)
    runner = cast("demo_module._Runner", SimpleNamespace(producer=producer, lockstep=lockstep, source=source))
    assert not demo_module._Runner._is_over(runner)
    counts.read = 10
    assert demo_module._Runner._is_over(runner)


def test_events_that_cannot_be_produced_end_it_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(demo_module, "SHOP_EVENTS", EVENTS)
    monkeypatch.setattr("driftgraph.app.demo.run.EventProducer.send", broken)
    with pytest.raises(DriftgraphError, match="could not be produced: RuntimeError: out of paper"):
        demo(data=None, keep=False, seconds=1, seed=0, progress=NoProgress(), as_json=True)
