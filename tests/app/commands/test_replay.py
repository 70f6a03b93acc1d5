"""Replay: a file through the whole job by the command line, and everything that its report promises."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis as redis_py

from driftgraph.app.cli.main import main
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.commands.replay import replay
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import NoProgress
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.dead_letters.files import FileLetterBox
from tests.app.cli.test_cli import Shell
from tests.shop_worlds import small_shop, write_csv

SHOP = small_shop()
COUNTS = (
    "events_read",
    "events_applied",
    "events_late",
    "events_rejected",
    "events_duplicate",
    "events_ignored",
    "events_erased",
    "events_forgotten",
)
SMALL = ("--fit-every", "12h", "--dim", "16", "--json")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_csv(SHOP, Path("shop.csv"))
    return Shell(capsys, monkeypatch)


def replayed(shell: Shell, *argv: str) -> dict[str, Any]:
    done = shell("replay", *argv)
    assert done.code == 0, done.err
    report: dict[str, Any] = done.json()
    assert report["events_read"] == sum(report[name] for name in COUNTS[1:]), "an event is lost"
    return report


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what a clock measured."""
    return {k: v for k, v in report.items() if k not in ("elapsed_s", "events_per_second")}


def files() -> set[str]:
    return {path.name for path in Path().iterdir()}


# --- the report --------------------------------------------------------------------------------------


def test_the_report_has_what_was_promised(shell: Shell) -> None:
    report = replayed(shell, "shop.csv", *SMALL, "--redis", "embedded")
    assert report["events_read"] == report["events_applied"] == len(SHOP)
    assert report["events_per_second"] > 0
    assert report["window"] == {
        name: int((SHOP.behavior == n).sum()) for n, name in enumerate(("click", "favorite", "purchase"))
    }
    assert len(report["digest"]) == 32
    numbers = [generation["generation"] for generation in report["generations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == 8  # four days, one each 12 hours
    metrics = {"recall_at_20", "ndcg_at_20", "mrr_at_20"}
    for generation in report["generations"][1:]:
        assert generation["metrics"].keys() == metrics
        baselines = {"recent_popularity", "co_visitation", "frozen_first", "started_anew"}
        assert generation["baselines"].keys() == baselines | {"vectors", "bank", "paths", "similar_users"}
        assert sum(generation["shares"].values()) == pytest.approx(1)
        assert all(values.keys() == metrics for values in generation["baselines"].values())
        assert generation["evaluated_events"] > 0
    assert report["overall"]["metrics"]["model"]["recall_at_20"] > 0
    assert sum(report["overall"]["shares"].values()) == pytest.approx(1)
    assert report["redis"]["manifest"] == 3
    newest = report["generations"][-1]
    assert newest["generation"] == newest["model_version"]


def test_the_same_file_gives_the_same_window_and_model_twice(shell: Shell) -> None:
    """From a plain file and a compressed one, with Redis and without: bit for bit, but for the clock."""
    Path("shop.csv.gz").write_bytes(gzip.compress(Path("shop.csv").read_bytes()))
    one = replayed(shell, "shop.csv", *SMALL, "--redis", "none")
    other = replayed(shell, "shop.csv.gz", *SMALL, "--redis", "none", "--data-dir", "elsewhere")
    assert one["redis"] == {}
    assert without_times(one) | {"source": ""} == without_times(other) | {"source": ""}
    seeded = replayed(shell, "shop.csv", *SMALL, "--redis", "none", "--seed", "9")
    assert seeded["digest"] == one["digest"]
    assert seeded["generations"][-1]["metrics"] != one["generations"][-1]["metrics"]


def test_relations_may_be_chosen_and_the_rest_is_counted_as_ignored(shell: Shell) -> None:
    report = replayed(shell, "shop.csv", *SMALL, "--redis", "none", "--relations", "purchase,favorite")
    assert list(report["window"]) == ["purchase", "favorite"]
    assert report["events_ignored"] == int((SHOP.behavior == 0).sum())
    assert report["events_applied"] == int((SHOP.behavior > 0).sum())


def test_a_replay_says_that_it_does_not_read_the_topics_of_attributes(shell: Shell) -> None:
    own = '[events.attributes]\nitem_topic = "items"\n[events.attributes.item]\nsort = "category"\n'
    Path("driftgraph.toml").write_text(own, encoding="utf-8")
    report = replayed(shell, "shop.csv", *SMALL, "--redis", "none", "--fit-every", "9d")
    assert [said for said in report["warnings"] if "does not read the topics of attributes (items)" in said]


def test_a_file_of_another_shape_is_read_with_its_columns_named(shell: Shell) -> None:
    rows = Path("shop.csv").read_text(encoding="utf-8").splitlines()[1:]
    turned = [
        ",".join((ts, behavior, item, user)) for user, item, behavior, ts in (r.split(",") for r in rows)
    ]
    Path("turned.csv").write_text("\n".join(turned), encoding="utf-8")
    options = (*SMALL, "--redis", "none", "--fit-every", "2d")
    one = replayed(shell, "shop.csv", *options)
    columns = ("--no-header", "--columns", "user=3,item=2,behavior=1,ts=0")
    assert replayed(shell, "turned.csv", *options, *columns)["digest"] == one["digest"]


def test_the_progress_moves_with_each_fit_of_a_file_that_is_one_read(tmp_path: Path) -> None:
    """And the loops are compiled before, so that the events a second are those of ingestion."""
    write_csv(SHOP, tmp_path / "shop.csv")
    seen: list[tuple[str, int]] = []

    class Seen(NoProgress):
        def start(self, label: str, total: int | None = None) -> None:
            seen.append((label, 0))

        def advance(self, n: int) -> None:
            seen.append((seen[-1][0], seen[-1][1] + n))

    options = {"data_dir": tmp_path / "var", "fit": {"every": "12h"}, "model": {"dim": 16}}
    report = replay(
        Settings.model_validate(options),
        tmp_path / "shop.csv",
        redis="none",
        predictions=None,
        progress=Seen(),
    )
    assert [label for label, done in seen if done == 0][:2] == [
        "loading the compiled loops, which a first start compiles", "replay"
    ]  # fmt: skip
    at = [done for label, done in seen if label == "replay"]
    fits = len(report.generations) - 1  # the last one is behind the file's end
    assert len(set(at[1:-1])) >= fits // 2 > 1, at
    assert at == sorted(at)
    assert at[-1] == 100


def test_a_person_gets_a_table_and_progress_as_plain_lines(shell: Shell) -> None:
    done = shell("replay", "shop.csv", "--fit-every", "2d", "--dim", "16", "--redis", "none")
    assert done.code == 0, done.err
    assert "events read" in done.out
    assert "recall@20" in done.out.lower()
    assert "generation 1 (model version 1)\n" in done.err
    assert "generation 2 (model version 2): Recall@20 " in done.err
    assert "replay: 100/100" in done.err


# --- bad input ---------------------------------------------------------------------------------------


def test_bad_rows_are_counted_and_kept_and_the_run_goes_on(shell: Shell) -> None:
    """A row without a user, one without a time, one cut short, one of 1970. One out of order is not bad."""
    lines = Path("shop.csv").read_text(encoding="utf-8").splitlines()
    bad = [",i1,click,1783000000", "u1,i1,click,soon", "u1,i1", "u1,i1,click,12"]
    lines[100:100] = bad
    lines.append(lines.pop(1))
    Path("bad.csv").write_text("\n".join(lines), encoding="utf-8")
    report = replayed(shell, "bad.csv", *SMALL, "--redis", "none")
    assert (report["events_rejected"], report["events_late"]) == (4, 0)
    assert report["reasons"] == {"bad_id": 1, "bad_time": 1, "bad_row": 1, "time_too_old": 1}
    kept = {
        letter.origin: letter
        for letter in (one.rejected for one in FileLetterBox(Path("var/dead_letters")).letters())
    }
    assert {name: kept[name].payload.decode() for name in kept if name.startswith("bad.csv:")} == {
        f"bad.csv:{100 + n}": row for n, row in enumerate(bad)
    }
    good = replayed(shell, "shop.csv", *SMALL, "--redis", "none")
    assert report["digest"] == good["digest"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["shop.csv", "--columns", "user=customer"], "customer"),
        (["empty.csv"], "empty.csv"),
        (["broken.csv.gz"], "broken.csv.gz"),
        (["shop.csv", "--redis", "redis://127.0.0.1:1"], "127.0.0.1:1"),
        (["shop.csv", "--data-dir", "shop.csv"], "shop.csv"),
    ],
)
def test_what_cannot_be_replayed_is_one_sentence(shell: Shell, argv: list[str], says: str) -> None:
    Path("empty.csv").write_bytes(b"")
    Path("broken.csv.gz").write_bytes(gzip.compress(Path("shop.csv").read_bytes())[:2_000])
    before = files()
    redis = () if "--redis" in argv else ("--redis", "none")
    failed = shell("replay", *argv, *redis, "--predictions", "p.parquet")
    assert (failed.code, failed.out) == (1, "")
    assert says in failed.err.strip().splitlines()[-1]
    assert "Traceback" not in failed.err
    assert files() - before <= {"var"}


# --- predictions -------------------------------------------------------------------------------------


def test_the_predictions_are_one_row_for_each_scored_event_and_give_the_metrics(shell: Shell) -> None:
    report = replayed(shell, "shop.csv", *SMALL, "--redis", "none", "--predictions", "p.parquet")
    table = pq.read_table("p.parquet")
    assert table.column_names == ["ts_ms", "user_id", "item_id", "behavior", "generation", "top_items"]
    rows = table.to_pylist()
    scored = {g["evaluated_generation"]: g for g in report["generations"] if g["metrics"]}
    assert len(rows) == sum(g["evaluated_events"] for g in scored.values())
    lines = Path("shop.csv").read_text(encoding="utf-8").splitlines()
    happened = {(u, i, b, int(ts) * 1_000) for u, i, b, ts in (line.split(",") for line in lines[1:])}
    for row in rows:
        assert (row["user_id"], row["item_id"], row["behavior"], row["ts_ms"]) in happened
        assert len(set(row["top_items"])) == len(row["top_items"]) == 20
    for number, generation in scored.items():
        mine = [row for row in rows if row["generation"] == number]
        assert len(mine) == generation["evaluated_events"]
        hits = [row["item_id"] in row["top_items"] for row in mine]
        places = [
            row["top_items"].index(row["item_id"]) + 1 for row in mine if row["item_id"] in row["top_items"]
        ]
        tie = 1.5 / len(mine)  # a tie at the last place may count on either side of it
        assert sum(hits) / len(mine) == pytest.approx(generation["metrics"]["recall_at_20"], abs=tie)
        mrr = sum(1 / place for place in places) / len(mine)
        assert mrr == pytest.approx(generation["metrics"]["mrr_at_20"], abs=tie), "not the best first?"
    assert files() == {"shop.csv", "var", "p.parquet"}


@pytest.mark.parametrize("place", ["nowhere/p.parquet", "shop.csv/p.parquet", "taken"])
def test_predictions_that_cannot_be_written_are_one_sentence(shell: Shell, place: str) -> None:
    Path("taken").mkdir()
    before = files()
    failed = shell("replay", "shop.csv", "--redis", "none", "--predictions", place)
    assert (failed.code, failed.out) == (1, "")
    assert f"cannot write predictions to {place}" in failed.sentence()
    assert files() == before
    assert list(Path("taken").iterdir()) == []


def test_a_full_disk_leaves_no_predictions(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first generation that is written finds the disk full."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    failed = shell("replay", "shop.csv", *SMALL, "--redis", "none", "--predictions", "p.parquet")
    assert (failed.code, failed.out) == (1, "")
    assert "cannot write predictions to p.parquet: No space left on device" in failed.err
    assert files() == {"shop.csv", "var"}


def test_a_fault_elsewhere_is_not_blamed_on_the_predictions(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error", "the disk")

    monkeypatch.setattr("driftgraph.app.training.lockstep.Lockstep.finish", broken)
    failed = shell("replay", "shop.csv", *SMALL, "--redis", "none", "--predictions", "p.parquet")
    assert failed.code == 1
    assert "the disk: Input/output error" in failed.err
    assert "predictions" not in failed.err
    assert files() == {"shop.csv", "var"}


# --- Redis -------------------------------------------------------------------------------------------


def test_what_was_replayed_into_a_redis_is_served_from_there_alone(
    shell: Shell, redis_server: EmbeddedRedis, redis_client: redis_py.Redis
) -> None:
    report = replayed(shell, "shop.csv", *SMALL, "--redis", redis_server.url)
    user = SHOP.user_ids[int(SHOP.user[-1])]
    answer = shell("recommend", user, "--top", "5", "--redis", redis_server.url, "--json").json()
    assert (answer["source"], answer["generation"]) == ("list", report["generations"][-1]["generation"])
    assert len(answer["items"]) == 5
    touched = {SHOP.item_ids[n] for n in SHOP.item[SHOP.user == SHOP.user[-1]].tolist()}
    assert touched.isdisjoint(one["item"] for one in answer["items"])
    raw = redis_client.hget(f"driftgraph:emb:{answer['generation']}:user:{user}", "embedding")
    assert len(raw or b"") == 4 * 16
    reader = EmbeddingReader(redis_client, namespace="driftgraph")
    assert reader.users([user])[0].tobytes() == raw

    again = replayed(shell, "shop.csv", *SMALL, "--redis", redis_server.url)
    assert again["digest"] == report["digest"]
    newest = again["generations"][-1]
    count = report["generations"][-1]["generation"]
    assert (newest["generation"], newest["model_version"]) == (2 * count, count)
    assert newest["evaluated_generation"] == newest["generation"] - 1, "as Redis counts"
    shown = shell("status", "--redis", redis_server.url, "--json").json()
    assert (shown["generation"], shown["manifest"]["generation"]) == (2 * count, 2 * count)
    assert shown["manifest"]["model_version"] == count
    listed = shell("generations", "--redis", redis_server.url, "--json").json()
    assert [one["generation"] for one in listed] == [2 * count - 2, 2 * count - 1, 2 * count]
    assert reader.users([user])[0].tobytes() == raw


# --- real files --------------------------------------------------------------------------------------


def head_of(source: Path, name: str, count: int) -> None:
    """The first lines of a compressed file, as a file here."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        Path(name).write_text("".join(itertools.islice(lines, count)), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "options", "relations"),
    [
        ("taobao_9d/events.csv.gz", ["--fit-every", "1h"], {"buy", "cart", "fav"}),
        (
            "kuairand/events.csv.gz",
            ["--fit-every", "12h"],
            {"click", "long_view", "profile_enter", "like", "comment", "follow", "forward", "hate"},
        ),
        (
            "taobao_2h/UserBehavior.csv.gz",
            ["--format", "taobao", "--fit-every", "1m"],
            {"pv", "cart", "fav", "buy"},
        ),
    ],
)
def test_the_beginning_of_a_real_file_does_the_whole_job(
    shell: Shell,
    shared_data: Callable[[str], Path],
    name: str,
    options: list[str],
    relations: set[str],
) -> None:
    head_of(shared_data(name), "head.csv", 5_000)
    report = replayed(shell, "head.csv", *options, "--dim", "16", "--redis", "embedded", "--json")
    header = "taobao" not in options
    assert report["events_read"] == 5_000 - header
    assert set(report["window"]) == relations
    assert report["events_applied"] == sum(report["window"].values()) > 1_000
    assert report["events_rejected"] == 0
    ignored = Path("head.csv").read_text(encoding="utf-8").count(",impression,")
    assert report["events_ignored"] == ignored
    assert any(generation["generation"] for generation in report["generations"])
    assert report["redis"]["item"] > 100


@pytest.mark.long
@pytest.mark.parametrize("name", ["taobao_9d/events.csv.gz", "kuairand/events.csv.gz"])
def test_a_whole_real_file_gives_the_same_twice(
    shell: Shell, shared_data: Callable[[str], Path], name: str
) -> None:
    argv = (str(shared_data(name)), "--fit-every", "2d", "--redis", "none", "--json")
    assert without_times(replayed(shell, *argv)) == without_times(replayed(shell, *argv))


def test_the_installed_command_replays_a_file(tmp_path: Path) -> None:
    """As a newcomer does it: no configuration, a process of its own, the result alone on stdout."""
    write_csv(SHOP, tmp_path / "shop.csv")
    code = f"import sys; from {main.__module__} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "replay", "shop.csv", *SMALL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events_applied"] == len(SHOP)
    assert "replay: 0/100" in done.stderr


# --- impressions -------------------------------------------------------------------------------------


def write_shown(path: Path) -> int:
    """The shop's file, each event with an impression of its item and one of another; return how many."""
    head, *lines = write_csv(SHOP, path).read_text(encoding="utf-8").splitlines()
    rows = []
    for n, line in enumerate(lines):
        user, item, _, time = line.split(",")
        other = SHOP.item_ids[n * 7 % len(SHOP.item_ids)]
        rows += [f"{user},{item},impression,{time}", f"{user},{other},impression,{time}", line]
    path.write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    return 2 * len(lines)


@pytest.mark.parametrize("named", [(), ("--relations", "click,favorite,purchase")])
def test_a_replay_with_impressions_reports_the_heads(shell: Shell, named: tuple[str, ...]) -> None:
    """Relations that are found and relations that are named; then what Redis serves, and text."""
    shown = write_shown(Path("shown.csv"))
    report = replayed(shell, "shown.csv", *SMALL, *named, "--impressions", "impression", "--redis", "none")
    assert report["events_ignored"] == 0
    assert report["window"]["impression"] == shown
    assert set(report["window"]) == {"click", "favorite", "purchase", "impression"}
    first, *later = report["generations"]
    assert first["heads"] is None
    judged = [one["heads"] for one in later if one["heads"] is not None]
    assert len(judged) >= 5
    overall = report["overall"]["heads"]
    assert overall["impressions"] == sum(one["impressions"] for one in judged) > 2_000
    click = overall["heads"]["click"]
    assert set(click["metrics"]) == {"head", "running_rates"}
    assert set(click["metrics"]["head"]) == {"auc", "user_auc", "log_loss", "ece"}
    expected = sum(
        one["impressions"] * one["heads"]["click"]["metrics"]["head"]["log_loss"] for one in judged
    )
    assert click["metrics"]["head"]["log_loss"] == pytest.approx(expected / overall["impressions"])
    assert click["metrics"]["head"]["log_loss"] < click["metrics"]["running_rates"]["log_loss"]
    assert "purchase" not in report["overall"]["metrics"]


def test_impressions_change_neither_marks_nor_targets_of_a_replay(shell: Shell) -> None:
    """The same marks, targets and candidates with impressions as without."""
    write_shown(Path("shown.csv"))
    own = ("--relations", "click,favorite,purchase", "--redis", "none")
    without = replayed(shell, "shown.csv", *SMALL, *own)
    beside = replayed(shell, "shown.csv", *SMALL, *own, "--impressions", "impression")
    for a, b in zip(without["generations"], beside["generations"], strict=True):
        for name in ("watermark_ms", "evaluated_events", "candidates", "new_item_share", "cold_user_share"):
            assert a[name] == b[name], name


def test_a_replay_with_impressions_says_so_in_text_and_to_a_reader(
    shell: Shell, redis_client: redis_py.Redis, redis_server: EmbeddedRedis
) -> None:
    """One run: its text, the manifest in status and generations, and the probabilities of scores."""
    write_shown(Path("shown.csv"))
    own = ("--impressions", "impression", "--redis", redis_server.url, "--fit-every", "12h", "--dim", "16")
    done = shell("replay", "shown.csv", *own)
    assert done.code == 0, done.err
    for words in (
        "head click: log loss ",
        ", AUC per user ",
        "in brackets the running rates",
        "impressions answered",
    ):
        assert words in done.out
    of_heads = re.findall(r"^(?:head |  AUC |  [\d,]+ of [\d,]+ impr).*$", done.out, re.MULTILINE)
    assert len(of_heads) == 9, "three lines for each behavior"
    assert max(map(len, of_heads)) <= 80
    where = ("--redis", redis_server.url)
    manifest = shell("status", *where, "--json").json()["manifest"]
    assert sorted(json.loads(manifest["head"])["relations"]) == ["click", "favorite", "purchase"]
    assert "head click: log loss " in shell("status", *where).out
    assert "head click: log loss " in shell("generations", *where).out
    user, item = SHOP.user_ids[int(SHOP.user[-1])], SHOP.item_ids[int(SHOP.item[-1])]
    value = shell("scores", user, item, "nothing", *where, "--json").json()
    assert [(one["item"], one["known"]) for one in value["items"]] == [(item, True), ("nothing", False)]
    for one in value["items"]:
        assert all(0 < chance < 1 for chance in one["probability"].values())
    text = shell("scores", user, item, "nothing", *where)
    assert item in text.out
    assert "does not know 'nothing'" in text.err


def test_a_file_of_impressions_alone_is_refused(shell: Shell) -> None:
    Path("seen.csv").write_text(
        "user_id,item_id,behavior,timestamp\nu,i,impression,1782864000\n", encoding="utf-8"
    )
    done = shell("replay", "seen.csv", "--impressions", "impression", "--redis", "none")
    assert done.code == 2
    assert "the file has no behavior but impression, which events.impressions names" in done.err


def test_an_impression_that_is_a_relation_is_refused(shell: Shell) -> None:
    done = shell("replay", "shop.csv", "--relations", "click", "--impressions", "click", "--redis", "none")
    assert done.code == 2
    assert "events.impressions has click, which is a relation too" in done.err
