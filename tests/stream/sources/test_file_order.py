"""Files that are not in order of time, and rows of wrong clocks: all forms, and all commands say the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from driftgraph.app.commands.replay import replay as replay_file
from driftgraph.app.console.progress import NoProgress
from driftgraph.stream.dead_letters.files import FileLetterBox
from driftgraph.stream.events import Rejected
from driftgraph.stream.formats.field_mapping import EventMapping
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.sources import event_sort, first_pass
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.sources.line_blocks import TextFile
from driftgraph.stream.time.clock import ManualClock, TimeRules
from tests.app.cli.test_cli import Shell
from tests.app.cli.test_cli import shell as shell  # noqa: PLC0414  a fixture
from tests.decoded import events_of
from tests.kafka_brokers import mock_kafka
from tests.kafka_brokers import produce as put
from tests.stream.dead_letters.test_dead_letters import records_of

HEADER = "user_id,item_id,behavior,timestamp\n"
START_S = 1_365_984_000  # 2013-04-15
Row = tuple[str, str, str, Any]
# Users in turn, a row a minute; four rows share each time.
ROWS: list[Row] = [
    (f"u{n % 7}", f"i{n}", "buy" if n % 5 == 0 else "pv", START_S + 60 * (n // 4)) for n in range(400)
]
BAD: list[Row] = [("", "i", "pv", START_S), ("u1", "i", "pv", "soon")]


def by_user(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row[0])


def shuffled(rows: list[Row]) -> list[Row]:
    return Random(3).sample(rows, len(rows))


ORDERS: dict[str, Callable[[list[Row]], list[Row]]] = {
    "by user": by_user,
    "newest first": lambda rows: rows[::-1],
    "shuffled": shuffled,
    "one row too late": lambda rows: [*rows[1:], rows[0]],
}


def csv_text(rows: list[Row], header: str = HEADER) -> str:
    return header + "".join(",".join(map(str, row)) + "\n" for row in rows)


def iso(ts: Any) -> Any:
    return ts if isinstance(ts, str) else datetime.fromtimestamp(ts, UTC).isoformat()


def as_csv(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    path = folder / "e.csv"
    path.write_text(csv_text(rows), encoding="utf-8")
    return path, FileOptions()


def as_gz(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    path = folder / "e.csv.gz"
    path.write_bytes(gzip.compress(csv_text(rows).encode()))
    return path, FileOptions()


def as_zst(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    path = folder / "e.jsonl.zst"
    path.write_bytes(pa.compress(as_json(folder, rows)[0].read_bytes(), "zstd", asbytes=True))
    return path, FileOptions()


def as_tsv(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    path = folder / "e.tsv"
    path.write_text(csv_text(rows).replace(",", "\t"), encoding="utf-8")
    return path, FileOptions()


def as_json(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    """Times as RFC 3339."""
    path = folder / "e.jsonl"
    names = ("user_id", "item_id", "behavior", "ts")
    lines = [json.dumps(dict(zip(names, (*row[:3], iso(row[3])), strict=True))) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path, FileOptions()


def as_taobao(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    path = folder / "UserBehavior.csv"
    path.write_text("".join(f"{u},{i},7,{b},{t}\n" for u, i, b, t in rows), encoding="utf-8")
    return path, FileOptions(no_header=True)


def as_parquet(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    """Times as milliseconds; a text that is none becomes null."""
    path = folder / "e.parquet"
    users, items, behaviors, times = zip(*rows, strict=True)
    numbers = [t * 1000 if isinstance(t, int) else None for t in times]
    columns = {
        "user_id": users,
        "item_id": items,
        "behavior": behaviors,
        "timestamp": pa.array(numbers, pa.int64()),
    }
    parquet.write_table(pa.table(columns), path, row_group_size=50)
    return path, FileOptions()


def as_mapped(folder: Path, rows: list[Row]) -> tuple[Path, FileOptions]:
    """Segment-like messages in microseconds, read by a mapping."""
    path = folder / "m.jsonl"
    lines = [
        json.dumps({"who": {"id": u}, "what": i, "did": b, "when": t * 10**6 if isinstance(t, int) else t})
        for u, i, b, t in rows
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    mapping = EventMapping.of(
        {"user": "who.id", "item": "what", "behavior": "did", "ts": "when"}, erase="$erase"
    )
    return path, FileOptions(decoder=lambda rules: MappingDecoder(rules, mapping))


FORMS = [as_csv, as_gz, as_zst, as_tsv, as_json, as_taobao, as_parquet, as_mapped]


def read(source: FileSource) -> tuple[list[Any], list[str]]:
    """All events with the names of their relations, and the reasons of all letters."""
    events: list[Any] = []
    reasons: list[str] = []
    done = 0
    while (part := source.next_batch()) is not None:
        events += [(u, i, source.relations[code], ms) for u, i, code, ms, *_ in events_of(part.batch)]
        reasons += [letter.reason for letter in part.rejected]
        assert part.position == source.position()
        assert source.position()[next(iter(source.position()))] >= done
    assert source.read_share() == 1.0
    return events, reasons


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("memory", ["in memory", "on disk"])
def test_every_form_comes_in_order_of_time_and_a_bad_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, order: str, memory: str
) -> None:
    if memory == "on disk":
        monkeypatch.setattr(event_sort, "RUN_BYTES", 20_000)
        monkeypatch.setattr(first_pass, "KEPT_BYTES", 0)
    rows = ORDERS[order](ROWS + BAD)
    path, options = form(tmp_path, rows)
    said: list[str] = []
    source = FileSource(path, FileOptions(**{**_fields(options), "sort_in": tmp_path}), say=said.append)
    events, reasons = read(source)
    good = [row for row in rows if row not in BAD]
    assert events == [(u, i, b, t * 1000) for u, i, b, t in sorted(good, key=lambda row: row[3])]
    assert sorted(reasons) == sorted(["bad_id", "bad_time"])
    assert source.sorting is not None
    assert source.sorting.rows == len(ROWS)
    assert [text.partition(" in ")[0] for text in said] == ["the file is not"]
    assert "sorted 400 rows in" in said[0]
    assert sorted(tmp_path.iterdir()) == sorted({path, *(tmp_path.glob("e.jsonl"))}), "something is left"


def _fields(options: FileOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in FileOptions.__dataclass_fields__}


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_a_file_in_order_is_not_sorted_and_comes_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setattr(first_pass, "KEPT_BYTES", kept_bytes)
    path, _ = as_csv(tmp_path, ROWS + BAD)
    said: list[str] = []
    source = FileSource(path, FileOptions(sort_in=tmp_path, span_ms=1), say=said.append)
    assert read(source)[0] == [(u, i, b, t * 1000) for u, i, b, t in ROWS]
    assert (source.sorting, said) == (None, [])


def test_a_small_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its relations, its times and its events come from one pass, whether it must be sorted or not."""
    opened: list[Path] = []

    def text_file(path: Path) -> TextFile:
        opened.append(path)
        return TextFile(path)

    monkeypatch.setattr("driftgraph.stream.sources.file.TextFile", text_file)
    for rows in (ROWS, by_user(ROWS)):
        for relations in (None, ("pv", "buy")):
            path, _ = as_csv(tmp_path, rows)
            opened.clear()
            read(FileSource(path, FileOptions(relations=relations, sort_in=tmp_path, span_ms=1)))
            assert opened == [path]


def test_requests_to_erase_reach_the_same_in_every_order(tmp_path: Path) -> None:
    """At their own time; without one, behind the newest event before them."""
    lines = [json.dumps({"user_id": u, "item_id": i, "behavior": b, "ts": t}) for u, i, b, t in ROWS]
    timed = json.dumps({"user_id": "u1", "behavior": "$erase", "ts": START_S + 600})
    found = []
    for order in ([*lines[:100], timed, *lines[100:]], [*lines, timed][::-1], [timed, *lines]):
        (tmp_path / "e.jsonl").write_text("\n".join(order), encoding="utf-8")
        source = FileSource(tmp_path / "e.jsonl", FileOptions(sort_in=tmp_path))
        if source.sorting is None:
            continue
        before = 0
        while (part := source.next_batch()) is not None:
            if part.erased:
                [one] = part.erased
                found.append((one.user, before + one.place, one.time_ms))
            before += len(part.batch)
    # 10 minutes are 40 rows, and those of that very minute stand before it where they do in the file
    assert found == [("u1", 40, (START_S + 600) * 1000)]


# --- wrong clocks ------------------------------------------------------------------------------------

NOW_MS = 1_790_000_000_000  # 2026-09-21


def judged(
    folder: Path, rows: list[Row], now_ms: int = NOW_MS, **options: Any
) -> tuple[list[Any], list[str], list[str]]:
    path, _ = as_csv(folder, rows)
    said: list[str] = []
    times = TimeRules(ManualClock(now_ms))
    all_options = {"sort_in": folder, "span_ms": 30 * 86_400_000, "times": times, **options}
    source = FileSource(path, FileOptions(**all_options), say=said.append)
    return *read(source), said


@pytest.mark.parametrize("years", [2014, 2020, 2027, 2037])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("place", [0, 200, 400])
def test_a_phone_from_the_future_costs_its_own_rows(
    tmp_path: Path, years: int, count: int, place: int
) -> None:
    ts = int(datetime(years, 3, 1, tzinfo=UTC).timestamp())
    phone: list[Row] = [("phone", f"p{n}", "pv", ts + n) for n in range(count)]
    events, reasons, said = judged(tmp_path, ROWS[:place] + phone + ROWS[place:])
    assert events == [(u, i, b, t * 1000) for u, i, b, t in ROWS]
    assert reasons == ["time_in_future"] * count
    ahead = ts * 1000 > NOW_MS
    assert bool(said) != ahead, "only what the clock does not tell needs a sentence, and it is no disorder"
    if said:
        assert (
            f"{count} of the file's rows are dated far beyond all others, which end before 2013-04-15"
            in said[0]
        )


def test_a_row_of_tomorrow_in_a_file_of_today_is_refused(tmp_path: Path) -> None:
    fresh = [(u, i, b, NOW_MS // 1000 - 30_000 + n) for n, (u, i, b, _) in enumerate(ROWS)]
    events, reasons, _ = judged(tmp_path, [*fresh, ("u1", "i1", "pv", NOW_MS // 1000 + 86_400)])
    assert (len(events), reasons) == (400, ["time_in_future"])


def test_the_letter_says_what_is_wrong(tmp_path: Path) -> None:
    path, _ = as_csv(tmp_path, [*ROWS, ("phone", "i", "pv", 1_577_836_800)])
    source = FileSource(path, FileOptions(sort_in=tmp_path, span_ms=1))
    letters: list[Rejected] = []
    while (part := source.next_batch()) is not None:
        letters += part.rejected
    [letter] = letters
    assert (letter.origin, letter.payload) == ("e.csv:402", b"phone,i,pv,1577836800")
    assert "far beyond the rest of the file, which ends before 2013-04-15" in letter.detail


# --- the commands ------------------------------------------------------------------------------------

COUNTS = ("applied", "rejected", "ignored")


def replayed(shell: Shell, *argv: str) -> dict[str, Any]:
    done = shell("replay", *argv, "--redis", "none", "--fit-every", "900d", "--dim", "8", "--json")
    assert done.code == 0, done.err
    report: dict[str, Any] = done.json()
    return report


def counts_of(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[f"events_{name}"] for name in COUNTS}


def validated(shell: Shell, *argv: str) -> dict[str, Any]:
    report: dict[str, Any] = shell(
        "validate", *argv, "--redis", "none", "--fit-every", "900d", "--dim", "8", "--json"
    ).json()
    return report


def test_the_four_rows_of_two_users_are_all_applied(shell: Shell) -> None:
    Path("e.csv").write_text(
        HEADER
        + "u1,i1,click,1783000000\nu1,i2,click,1783086400\nu2,i1,click,1783000100\nu2,i3,click,1783086500\n"
    )
    report = replayed(shell, "e.csv")
    assert (report["events_applied"], report["events_late"]) == (4, 0)
    assert report["sorted"]["rows"] == 4
    assert report["sorted"]["out_of_order"] == 1
    told = shell("replay", "e.csv", "--redis", "none", "--dim", "8")
    assert "the file is not in order of time: sorted 4 rows in 0.0 s" in told.err
    assert "not in order of time: 4 rows were sorted in 0.0 s" in told.out
    assert shell("validate", "e.csv").out.splitlines()[2] == (
        "the file is not in order of time: 1 events are older than one before them; "
        "replay and produce will sort it"
    )


@pytest.mark.parametrize("order", ORDERS)
def test_replay_and_validate_agree_in_every_order(shell: Shell, order: str) -> None:
    phones: list[Row] = [("p1", "i1", "pv", 2_114_380_800), ("p2", "i1", "pv", 1_577_836_800)]
    rows = ROWS + BAD
    Path("e.csv").write_text(csv_text(rows), encoding="utf-8")
    expected = replayed(shell, "e.csv")
    Path("e.csv").write_text(csv_text(ORDERS[order](rows + phones)), encoding="utf-8")
    report, told = replayed(shell, "e.csv"), validated(shell, "e.csv")
    assert (report["digest"], report["window"]) == (expected["digest"], expected["window"])
    assert (report["events_applied"], report["events_late"], report["events_rejected"]) == (400, 0, 4)
    assert report["reasons"] == {"bad_id": 1, "bad_time": 1, "time_in_future": 2}
    assert counts_of(report) == {name: told["events"][name] for name in COUNTS}
    assert report["events_read"] == told["events"]["read"]
    assert {one["reason"]: one["count"] for one in told["rejected"]} == report["reasons"]
    assert told["relations"] == report["window"]
    assert told["out_of_order"] == report["sorted"]["out_of_order"]
    letters = [one.rejected.reason for one in FileLetterBox(Path("var/dead_letters")).letters()]
    assert letters.count("time_in_future") == 2


def test_an_old_row_costs_no_thousands_of_fits(shell: Shell) -> None:
    old: list[Row] = [
        ("old", "i1", "pv", 5),
        ("old", "i1", "pv", 993_000_000),
        ("old", "i1", "pv", 1_110_000_000),
    ]
    Path("e.csv").write_text(csv_text(ROWS[:200] + old + ROWS[200:]), encoding="utf-8")
    done = shell("replay", "e.csv", "--redis", "none", "--fit-every", "6h", "--dim", "8", "--json").json()
    assert (done["events_applied"], done["reasons"]) == (401, {"time_too_old": 2})
    assert done["window"] == {"pv": 320, "buy": 80}
    assert len(done["generations"]) <= 4


def test_a_row_of_a_slow_clock_makes_no_first_model(shell: Shell) -> None:
    """The first fit waits for events to learn from: with such a row there are as many fits as without."""
    days: list[Row] = [(f"u{n % 7}", f"i{n % 40}", "pv", START_S + 600 * n) for n in range(400)]
    found = []
    for rows in (days, [*days, ("old", "i1", "pv", 1_110_000_000), ("old", "i2", "pv", 1_210_000_000)]):
        Path("e.csv").write_text(csv_text(rows), encoding="utf-8")
        done = shell(
            "replay", "e.csv", "--redis", "none", "--fit-every", "12h", "--dim", "8", "--json"
        ).json()
        found.append((len(done["generations"]), done["digest"]))
    assert found[0] == found[1]


def test_configured_relations_judge_a_file_as_they_judge_a_topic(shell: Shell) -> None:
    """What is named nowhere is a dead letter; what --relations leaves out is left out on purpose."""
    Path("driftgraph.toml").write_text("[relations.buy]\n", encoding="utf-8")
    Path("e.csv").write_text(csv_text(by_user(ROWS)), encoding="utf-8")
    for argv, counts in (([], (80, 320, 0)), (["--relations", "buy"], (80, 0, 320))):
        report, told = replayed(shell, "e.csv", *argv), validated(shell, "e.csv", *argv)
        assert tuple(report[f"events_{name}"] for name in COUNTS) == counts
        assert tuple(told["events"][name] for name in COUNTS) == counts


def test_produce_sends_in_order_of_time_and_no_future_time(shell: Shell) -> None:
    with mock_kafka() as address:
        put(address, "t", [{"value": b"first", "partition": 0}])
        phones: list[Row] = [("p1", "i1", "pv", 2_114_380_800), ("p2", "i1", "pv", 1_577_836_800)]
        Path("e.csv").write_text(csv_text(by_user(ROWS + phones)), encoding="utf-8")
        told = shell("produce", "e.csv", "--topic", "t", "--bootstrap", address, "--json")
        report = told.json()
        assert (report["produced"], report["rejected"]) == (400, 2)
        assert report["reasons"] == {"time_in_future": 2}
        assert (report["sorted"]["rows"], report["sorted"]["out_of_order"] > 300) == (400, True)
        assert "sorted 400 rows in" in told.err
        by_partition: dict[int, list[int]] = {}
        for record in records_of(address, "t", 401):
            if record.value() != b"first":
                by_partition.setdefault(record.partition(), []).append(record.timestamp()[1])
        assert all(times == sorted(times) for times in by_partition.values())
        assert max(map(max, by_partition.values())) == ROWS[-1][3] * 1000


def test_produce_sends_requests_to_erase(shell: Shell) -> None:
    lines = [json.dumps({"user_id": u, "item_id": i, "behavior": b, "ts": t}) for u, i, b, t in ROWS[:8]]
    lines.insert(4, json.dumps({"user_id": "u1", "behavior": "$erase"}))
    Path("e.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with mock_kafka() as address:
        put(address, "t", [{"value": b"first", "partition": 0}])
        report = shell("produce", "e.jsonl", "--topic", "t", "--bootstrap", address, "--json").json()
        assert (report["produced"], report["erased"]) == (9, 1)
        [request] = [r for r in records_of(address, "t", 10) if b"$erase" in r.value()]
        assert json.loads(request.value()) == {"user_id": "u1", "behavior": "$erase", "ts": START_S * 1000}
        assert (request.key(), request.timestamp()[1]) == (b"u1", START_S * 1000)


def test_the_clock_of_a_replay_says_what_lies_ahead(shell: Shell, tmp_path: Path) -> None:
    from driftgraph.app.config.settings import load

    Path("e.csv").write_text(csv_text(ROWS), encoding="utf-8")
    settings = load(options={"fit": {"every": "900d"}, "model": {"dim": 8}})
    clock = ManualClock((START_S + 600) * 1000)
    report = replay_file(
        settings, Path("e.csv"), redis="none", predictions=None, progress=NoProgress(), clock=clock
    )
    assert report.counts.reasons == {"time_in_future": 400 - 4 * 16}  # of 16 minutes, with a skew of 5


# --- files that cannot be used, or empty the window ---------------------------------------------------


CLICKS: list[Row] = [("u1", "i1", "click", START_S), ("u2", "i2", "click", START_S + 60)]


@pytest.mark.parametrize(
    ("rows", "options", "config", "why"),
    [
        (CLICKS, ["--relations", "buy,cart"], "", "2 are of other behaviors than buy, cart"),
        (CLICKS, [], "[relations.buy]", "2 rejected, e.csv:2 since behavior 'click' is no relation"),
        (CLICKS, ["--relations", "buy"], "[relations.click]", "2 are of other behaviors than buy"),
        (BAD, [], "[relations.pv]", "2 rejected, e.csv:2 since"),
        (BAD, [], "", "2 rejected, e.csv:2 since"),
        ([("u1", "i1", "impression", START_S)], [], "[relations.pv]", "1 are of other behaviors than pv"),
    ],
)
def test_replay_and_validate_refuse_a_file_without_an_event(
    shell: Shell, rows: list[Row], options: list[str], config: str, why: str
) -> None:
    Path("e.csv").write_text(csv_text(rows), encoding="utf-8")
    Path("driftgraph.toml").write_text(config, encoding="utf-8")
    replayed = shell("replay", "e.csv", "--redis", "none", *options)
    assert replayed.code == 1
    assert replayed.out == ""
    assert f"e.csv has no event that can be used: {why}" in replayed.sentence()
    validated = shell("validate", "e.csv", *options, "--json")
    assert validated.code == 1
    assert "none of its events can be used: replay will refuse it" in validated.json()["notes"]


def test_a_file_of_other_behaviors_than_those_of_init_says_which_it_has_and_what_to_write(
    shell: Shell,
) -> None:
    """The order of the README: ``init``, then a replay."""
    rows = [
        ("u1", "i1", "pv", START_S),
        ("u2", "i1", "pv", START_S + 1),
        ("u1", "i2", "add to cart", START_S + 2),
    ]
    Path("e.csv").write_text(csv_text(rows), encoding="utf-8")
    assert shell("init").code == 0
    refused = shell("replay", "e.csv", "--redis", "none").sentence()
    assert "e.csv:2 since behavior 'pv' is no relation; there are: click, favorite, purchase" in refused
    assert refused.endswith(
        "the file has pv 2 times, add to cart 1 times: give --relations pv,add to cart, or write in "
        'driftgraph.toml [relations.pv] [relations."add to cart"], a line each'
    )
    config = Path("driftgraph.toml")
    config.write_text(config.read_text() + '[relations.pv]\n[relations."add to cart"]\n', encoding="utf-8")
    assert shell("replay", "e.csv", "--redis", "none").code == 0
    chosen = shell("replay", "e.csv", "--redis", "none", "--relations", "cart").sentence()
    assert "3 are of other behaviors than cart; the file has pv 2 times" in chosen


def test_produce_refuses_a_file_without_an_event_that_was_asked_for(shell: Shell) -> None:
    Path("e.csv").write_text(csv_text(CLICKS), encoding="utf-8")
    done = shell("produce", "e.csv", "--topic", "t", "--bootstrap", "localhost:1", "--relations", "buy")
    assert done.code == 1
    assert "e.csv has no event that can be used: 2 are of other behaviors than buy" in done.sentence()


def test_requests_to_erase_alone_are_something_to_do_where_the_relations_are_known(shell: Shell) -> None:
    Path("e.jsonl").write_text(json.dumps({"user_id": "u1", "behavior": "$erase"}), encoding="utf-8")
    assert shell("replay", "e.jsonl", "--redis", "none").code == 1
    assert shell("validate", "e.jsonl").code == 1
    Path("driftgraph.toml").write_text("[relations.buy]", encoding="utf-8")
    done = shell("replay", "e.jsonl", "--redis", "none", "--json")
    assert (done.code, done.json()["events_erased"]) == (0, 1)
    validated = shell("validate", "e.jsonl", "--json")
    assert (validated.code, validated.json()["notes"]) == (0, [])


@pytest.mark.parametrize(("count", "ahead"), [(10, 1), (400, 12)])
def test_rows_that_empty_the_window_are_told_by_every_command(shell: Shell, count: int, ahead: int) -> None:
    """A file of fewer than 20 rows, and one of which 3 in a hundred are dated years ahead."""
    rows = ROWS[:count] + [("u1", f"i{n}", "pv", 1_577_836_800 + n) for n in range(ahead)]
    Path("e.csv").write_text(csv_text(rows), encoding="utf-8")
    done = shell("replay", "e.csv", "--redis", "none", "--json")
    report = done.json()
    assert (report["events_applied"], sum(report["window"].values())) == (count + ahead, ahead)
    [warning] = report["warnings"]
    assert warning.startswith(f"{count} of the file's events end before 2013-04-15 ")
    assert f"{ahead} date from 2020-01-01 00:00+00:00 on" in warning
    assert "remove them from the file if their clock was wrong" in warning
    assert f"WARNING: {warning}" in shell("replay", "e.csv", "--redis", "none").out
    assert warning in shell("validate", "e.csv", "--json").json()["notes"]
    with mock_kafka() as address:
        put(address, "t", [{"value": b"first", "partition": 0}])
        sent = shell("produce", "e.csv", "--topic", "t", "--bootstrap", address, "--json")
        assert sent.json()["warning"].startswith(warning)
