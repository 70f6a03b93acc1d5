"""What a message says to do is said in the words of the command at hand, and doing it works."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import load
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.demo.run import demo
from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import EMPTY, Decoded, Rejected
from driftgraph.stream.formats.event_rules import RowOrigin, Rows
from driftgraph.stream.ingest.breaker import Breaker, RejectedTooManyError
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.wording import BY_KEY, BY_OPTION
from tests.app.cli.test_cli import Outcome, Shell
from tests.app.cli.test_cli import shell as shell  # noqa: PLC0414  a fixture

HEADER = "user_id,item_id,behavior,timestamp\n"
ROWS = "7,9,view,1511539200\n8,9,cart,1511539201\n"
OTHER_NAMES = "uid,sku,what,when\n" + ROWS
NAMED = "--columns user=…,item=…,behavior=…,ts=…"
COMMANDS = (
    ("replay", "--redis", "none", "--dim", "8"),
    ("validate",),
    ("produce", "--bootstrap", "127.0.0.1:1", "--topic", "t"),
)


def write_parquet(path: Path) -> None:
    names = ("uid", "sku", "what", "when")
    parquet.write_table(pa.table(dict(zip(names, (["7"], ["9"], ["view"], [1511539200]), strict=True))), path)


def ran(shell: Shell, command: tuple[str, ...], *argv: str) -> Outcome:
    return shell(command[0], *argv, *command[1:])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("name", "text", "way"),
    [
        ("e.csv", OTHER_NAMES, f"name the columns with {NAMED}, or give --no-header if"),
        ("e.csv", ROWS, "or give --no-header if the first line is an event"),
        ("e.csv", OTHER_NAMES.replace(",", ";"), "give --separator ';'"),
        ("e.csv", OTHER_NAMES.replace(",", "\t"), "give --separator '\\t'"),
        ("e.csv", HEADER + "".join(f"1,2,b{n},1511539200\n" for n in range(40)),
         f"If not, name the columns with {NAMED}; if it is, name the behaviors that count with --relations"),
        ("e.log", ROWS, "name it with --format one of csv, taobao, json, parquet"),
        ("e.csv", "\xe9\xe8,x", "name it with --format csv, taobao, json, parquet"),
        ("e.parquet", "PAR1 not really", "name it with --format csv, taobao or json"),
        ("e.jsonl", '{"uid": 7, "item_id": 9, "behavior": "view"}\n', f"name the columns with {NAMED}"),
    ],
)  # fmt: skip
def test_a_file_of_another_shape_says_which_option_helps(
    shell: Shell, command: tuple[str, ...], name: str, text: str, way: str
) -> None:
    Path(name).write_bytes(text.encode("latin-1"))
    done = ran(shell, command, name)
    assert done.code == 1
    assert way in (done.err + done.out).replace("\n", " ")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_parquet_file_with_other_names_says_which_option_helps(
    shell: Shell, command: tuple[str, ...]
) -> None:
    write_parquet(Path("e.parquet"))
    said = ran(shell, command, "e.parquet").sentence()
    assert said.endswith(f"it has: uid, sku, what, when; name the columns with {NAMED}")


@pytest.mark.parametrize(
    ("name", "text", "argv"),
    [
        ("e.csv", OTHER_NAMES, ["--columns", "user=uid,item=sku,behavior=what,ts=when"]),
        ("e.csv", ROWS, ["--no-header"]),
        ("e.csv", ROWS, ["--no-header", "--columns", "user=0,item=1,behavior=2,ts=3"]),
        ("e.csv", OTHER_NAMES.replace(",", ";"),
         ["--separator", ";", "--columns", "user=uid,item=sku,behavior=what,ts=when"]),
        ("e.csv", ROWS.replace(",", "\t"), ["--separator", "\\t", "--no-header"]),
        ("e.tsv", ROWS.replace(",", "\t"), ["--no-header"]),
        ("e.tsv.csv", ROWS.replace(",", "|"), ["--no-header", "--separator", "|"]),
        ("e.log", ROWS, ["--format", "csv", "--no-header"]),
    ],
)  # fmt: skip
def test_what_was_said_helps_validate_and_replay_alike(
    shell: Shell, name: str, text: str, argv: list[str]
) -> None:
    Path(name).write_text(text, encoding="utf-8")
    told = shell("validate", name, *argv, "--json")
    report = shell("replay", name, *argv, "--redis", "none", "--dim", "8", "--json").json()
    assert (told.code, told.json()["relations"]) == (0, {"cart": 1, "view": 1})
    assert report["window"] == {"cart": 1, "view": 1}


def test_a_wrong_separator_is_refused(shell: Shell) -> None:
    Path("e.csv").write_text(ROWS, encoding="utf-8")
    for separator in ("", ";;", "a", '"', "7"):
        failed = shell("replay", "e.csv", "--separator", separator)
        assert (failed.code, failed.out) == (2, "")
        assert "events.separator" in failed.err


def test_the_live_updater_names_keys_of_the_configuration() -> None:
    out = io.BytesIO()
    table = pa.table({"uid": ["7"], "item_id": ["9"], "behavior": ["view"], "ts": [1511539200]})
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    settings = load(options={"events": {"format": "arrow"}, "relations": {"view": {}}})
    rules = event_rules(settings, ManualClock(1_783_000_000_000))
    for wording, decoder in (
        (BY_KEY, topic_decoder(settings, rules)),
        (BY_OPTION, topic_decoder(settings, rules, BY_OPTION)),
    ):
        [letter] = decoder.decode(Rows([out.getvalue()], lambda row: RowOrigin("t[0]@0"))).rejected
        assert letter.detail.endswith(wording.columns)
    breaker = Breaker(share_max=0.5, window=10)
    missing = Rejected("missing_field", "the event has no user id", b"{}", "t[0]@0")
    with pytest.raises(
        RejectedTooManyError, match=r"name the columns under \[events.columns\] in driftgraph.toml"
    ):
        breaker.judge(Decoded(EMPTY, (missing,) * 20))


def test_the_demo_has_no_option_and_says_how_its_file_must_be(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(OTHER_NAMES, encoding="utf-8")
    with pytest.raises(
        SourceError, match="name the columns in its first line user_id,item_id,behavior,timestamp"
    ):
        demo(data=tmp_path / "e.csv", keep=False, seconds=5, seed=0, progress=NoProgress(), as_json=True)


# --- validate ----------------------------------------------------------------------------------------


def test_validate_takes_every_option_of_replay(shell: Shell) -> None:
    Path("e.csv").write_text(OTHER_NAMES, encoding="utf-8")
    argv = (
        *("e.csv", "--columns", "user=uid,item=sku,behavior=what,ts=when", "--relations", "cart"),
        *("--format", "csv", "--separator", ",", "--redis", "none", "--data-dir", "d", "--fit-every", "2d"),
        *("--span", "9d"),
        *("--dim", "8", "--seed", "3", "--predictions", "p.parquet", "--json"),
    )  # fmt: skip
    told = shell("validate", *argv)
    assert (told.code, told.json()["relations"], told.json()["events"]["ignored"]) == (0, {"cart": 1}, 1)
    assert [path.name for path in Path().iterdir()] == ["e.csv"], "it writes nothing"
    assert shell("replay", *argv).json()["window"] == {"cart": 1}
    help_of = {name: shell(name, "--help").out for name in ("replay", "validate")}
    options = {word.strip(",") for word in help_of["replay"].split() if word.startswith("--")}
    assert {"--columns", "--no-header", "--separator", "--relations", "--span"} <= options
    assert [option for option in options if option not in help_of["validate"]] == []
    failed = shell("validate", "e.csv", "--dim", "-3")
    assert (failed.code, "model.dim" in failed.err) == (2, True)


@pytest.mark.parametrize(
    ("name", "content", "code", "rejected", "error"),
    [
        ("e.csv", b"", 1, {}, "it is empty"),
        ("e.csv", HEADER.encode(), 1, {}, "it is empty"),
        ("e.csv", HEADER.encode() + b"u,i,b,never\n,i,b,7\n", 1, {"bad_time": 1, "bad_id": 1}, None),
        ("e.csv", HEADER.encode() + b"u,i,impression,1511539200\n", 1, {}, None),
        ("e.csv", b"a,b\n1,2\n", 1, {}, "no column 'user_id'"),
        ("e.csv.gz", b"\x1f\x8b\x08 no", 1, {}, "gzip data is damaged"),
        ("e.parquet", b"PAR1 no", 1, {}, "as Parquet"),
        ("e.jsonl", b"[1]\n\xff\n", 1, {"not_object": 1, "bad_utf8": 1}, None),
        ("e.log", b"x", 1, {}, "cannot tell the format"),
        ("none.csv", None, 1, {}, "no such file"),
    ],
)  # fmt: skip
def test_validate_prints_json_where_nothing_is_usable(
    shell: Shell, name: str, content: bytes | None, code: int, rejected: dict[str, int], error: str | None
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    told = shell("validate", name, "--json")
    report = told.json()
    assert told.code == code
    assert {one["reason"]: one["count"] for one in report["rejected"]} == rejected
    assert report["events"]["applied"] == 0
    if error is None:
        assert (report["error"], told.err) == (None, "")
        assert report["notes"][0] == "none of its events can be used: replay will refuse it"
        refused = shell("replay", name, "--redis", "none")
        assert "has no event that can be used" in refused.sentence()
    else:
        assert error in report["error"]
        assert report["error"] in told.sentence()
