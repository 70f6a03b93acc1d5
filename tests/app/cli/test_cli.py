"""The command line: what goes where, what each failure says, and that nothing heavy is loaded for help."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import driftgraph.app.commands
import driftgraph.app.demo
import driftgraph.app.live
from driftgraph.app.cli.main import main
from driftgraph.app.cli.operator_text import operator
from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.app.config.settings import Settings, load
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.errors import DriftgraphError
from tests.snapshots.test_where import publish as publish_with_attributes


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def sentence(self) -> str:
        """The one line that a failure may print."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@dataclass
class Shell:
    """Runs a command as its user would, in a folder of its own."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *argv: str) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["driftgraph", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capsys.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # a usage error is not broken over lines
    return Shell(capsys, monkeypatch)


@dataclass
class Report:
    value: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.value

    def render(self, console: Any) -> None:
        console.print("rendered")


@dataclass
class Parts:
    """Stands where live, replay and demo stand; remembers how it was called, or fails as told."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    report: Report = field(default_factory=lambda: Report({}))
    failure: Exception | None = None
    warnings: list[str] = field(default_factory=list)

    def _call(self, **arguments: Any) -> Report:
        self.calls.append(arguments)
        if self.failure is not None:
            raise self.failure
        return self.report

    def replay(
        self, settings: Settings, source: Path, *, redis: str, predictions: Path | None, progress: Any
    ) -> Report:
        progress.start("reading", 2)
        progress.advance(2)
        return self._call(settings=settings, source=source, redis=redis, predictions=predictions)

    def run(self, settings: Settings, *, progress: Any, read_again: Any) -> list[str]:
        self._call(settings=settings)
        return self.warnings

    def demo(self, *, show: Callable[[Report], None], **arguments: Any) -> Report:
        show(report := self._call(**arguments))
        return report


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    found = Parts()
    for room, name in (
        (driftgraph.app.commands, "replay"),
        (driftgraph.app.live, "run"),
        (driftgraph.app.demo, "run"),
    ):
        module = ModuleType(f"{room.__name__}.{name}")
        module.__dict__.update(replay=found.replay, run=found.run, demo=found.demo)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(room, name, module, raising=False)
    return found


def event_file(name: str = "events.csv") -> str:
    Path(name).write_text("user_id,item_id,behavior,timestamp\n1,2,buy,1511539200\n", encoding="utf-8")
    return name


# --- help, usage, version -----------------------------------------------------


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['driftgraph', '--help']\n"
        "from driftgraph.app.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'numba', 'numpy', 'pyarrow', 'redis', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    names = (
        "init",
        "run",
        "replay",
        "produce",
        "dlq",
        "recommend",
        "similar",
        "status",
        "generations",
        "rollback",
        "promote",
        "delist",
        "relist",
    )
    for name in (*names, "demo", "config"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("group", [(), ("config",), ("dlq",)])
def test_on_a_narrow_terminal_no_command_is_described_by_half_a_sentence(
    group: tuple[str, ...], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, _, commands = shell(*group, "--help").out.partition("Commands:\n")
    assert commands
    for line in commands.strip().splitlines():
        assert line.endswith("."), line
        assert not line.endswith("..."), line


def test_a_usage_error_exits_with_2(shell: Shell) -> None:
    assert shell("replay").code == 2
    assert shell("nonsense").code == 2
    assert shell("recommend", "u", "--top", "0").code == 2
    assert shell("similar", "i", "--top", "0").code == 2


def test_version_is_printed(shell: Shell) -> None:
    assert shell("version", "--json").json() == {"version": shell("version").out.strip()}


# --- init and config show -----------------------------------------------------


def test_init_writes_a_file_that_loads_and_does_not_overwrite_it(shell: Shell) -> None:
    assert shell("init").code == 0
    assert set(load(Path("driftgraph.toml")).relations) == {"click", "favorite", "purchase"}
    Path("driftgraph.toml").write_text("seed = 5", encoding="utf-8")
    again = shell("init")
    assert again.code == 1
    assert again.sentence() == "driftgraph: driftgraph.toml is already there; give --force to replace it"
    assert load().seed == 5
    assert shell("init", "--force", "--json").json() == {"path": "driftgraph.toml"}
    assert load().seed == 0
    assert [p.name for p in Path().iterdir()] == ["driftgraph.toml"]


def test_init_into_a_folder_that_is_not_there_says_so(shell: Shell) -> None:
    failed = shell("init", "-c", "nowhere/driftgraph.toml")
    assert failed.code == 1
    assert "nowhere/driftgraph.toml" in failed.sentence()
    assert "No such file or directory" in failed.sentence()


def test_config_show_hides_secrets_and_is_a_file_itself(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTGRAPH__REDIS__PASSWORD", "hush")
    monkeypatch.setenv("DRIFTGRAPH__SEED", "9")
    text, tree = shell("config", "show").out, shell("config", "show", "--json")
    assert "hush" not in text + tree.out
    assert tree.json()["seed"] == 9
    monkeypatch.delenv("DRIFTGRAPH__SEED")
    Path("shown.toml").write_text(text, encoding="utf-8")
    assert load(Path("shown.toml")).seed == 9


def test_a_bad_configuration_is_one_sentence_and_exit_2(shell: Shell) -> None:
    Path("driftgraph.toml").write_text('[fit]\nevery = "often"', encoding="utf-8")
    for argv in (["config", "show"], ["run"], ["status"], ["replay", event_file()]):
        failed = shell(*argv)
        assert failed.code == 2, argv
        assert failed.sentence().startswith('driftgraph: driftgraph.toml: fit.every = "often": should be')


# --- replay -----------------------------------------------------


def test_replay_passes_what_was_asked_for(shell: Shell, parts: Parts) -> None:
    parts.report = Report({"events_read": 1, "loss": float("nan")})
    done = shell(
        *("replay", event_file(), "--relations", "buy,cart", "--columns", "user=u, item=i,behavior=b,ts=t"),
        *("--no-header", "--format", "csv", "--redis", "none", "--data-dir", "d", "--fit-every", "12h"),
        *("--seed", "4", "--span", "9d", "--dim", "32", "--predictions", "p.parquet", "--json"),
    )
    assert done.code == 0, done.err
    assert done.json() == {"events_read": 1, "loss": None}
    assert "reading: 2/2" in done.err
    (call,) = parts.calls
    settings = call["settings"]
    assert (call["source"], call["redis"], call["predictions"]) == (
        Path("events.csv"),
        "none",
        Path("p.parquet"),
    )
    assert list(settings.relations) == ["buy", "cart"]
    assert settings.events.columns.given() == {"user": "u", "item": "i", "behavior": "b", "ts": "t"}
    assert (settings.events.header, settings.events.format) == (False, "csv")
    assert (str(settings.data_dir), settings.seed, settings.model.dim) == ("d", 4, 32)
    assert (str(settings.fit.every), str(settings.window.span)) == ("12h", "9d")


def test_replay_without_options_takes_the_defaults_and_a_redis_of_its_own(shell: Shell, parts: Parts) -> None:
    assert shell("replay", event_file()).code == 0
    assert parts.calls[0]["settings"] == Settings()
    assert parts.calls[0]["redis"] == "embedded"


def test_replay_publishes_where_the_configuration_says(shell: Shell, parts: Parts) -> None:
    Path("driftgraph.toml").write_text('[redis]\nurl = "redis://a:1"\npassword = "p"', encoding="utf-8")
    assert shell("replay", event_file()).code == 0
    assert shell("replay", event_file(), "--redis", "redis://b:2").code == 0
    assert shell("replay", event_file(), "--redis", "none").code == 0
    assert [call["redis"] for call in parts.calls] == ["redis://:p@a:1", "redis://:p@b:2", "none"]


def test_replay_prints_counts_and_generations_for_people(shell: Shell, parts: Parts) -> None:
    metrics = {"recall_at_20": 0.25}
    generation = {
        "generation": 3,
        "model_version": 2,
        "metrics": metrics,
        "baselines": {"recent_popularity": {"recall_at_20": 0.125}},
    }
    parts.report = Report(
        {
            **{"events_read": 12345, "window": {"buy": 7}, "generations": [generation]},
            **{"reasons": {"bad_time": 3}, "warnings": ["some came late"]},
            "sorted": {"out_of_order": 2, "rows": 12345, "seconds": 1.25},
        }
    )
    out = shell("replay", event_file()).out
    for text in ("dead letters, bad_time", "WARNING: some came late", "12,345 rows were sorted in 1.2 s"):
        assert text in out
    for text in ("events read", "12,345", "window, buy", "Recall@20", "popularity", "0.25", "0.125"):
        assert text in out


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["missing.csv"], 1, "missing.csv: no such file; name a CSV, JSONL or Parquet file"),
        (
            ["events.csv", "--columns", "user"],
            2,
            "'user=' should be one of user, item, behavior, ts, event_id",
        ),
        (["events.csv", "--columns", "usr=a"], 2, "'usr=a' should be one of"),
        (["events.csv", "--relations", "buy,,cart"], 2, "'buy,,cart' should be different names"),
        (
            ["events.csv", "--fit-every", "6"],
            2,
            'the command line: fit.every = "6": should be a number and a unit',
        ),
        (["events.csv", "--format", "xml"], 2, 'the command line: events.format = "xml": should be'),
        (["events.csv", "--redis", "localhost"], 2, "the command line: redis.url"),
        (["events.csv", "-c", "no.toml"], 2, "no.toml: no such file"),
    ],
)
def test_replay_refuses(shell: Shell, parts: Parts, argv: list[str], code: int, says: str) -> None:
    event_file()
    failed = shell("replay", *argv)
    assert (failed.code, failed.out) == (code, "")
    assert says in failed.err
    assert not parts.calls


# --- failures on the way -----------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (DriftgraphError("the broker is\naway; start it"), "driftgraph: the broker is away; start it"),
        (
            OSError(errno.ENOSPC, "No space left on device", "var/x"),
            "driftgraph: var/x: the disk is full; free",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "driftgraph: d: the disk is full; free some"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "driftgraph: x: Permission denied; check"),
    ],
)
def test_a_failure_is_one_sentence(shell: Shell, parts: Parts, failure: Exception, says: str) -> None:
    parts.failure = failure
    failed = shell("replay", event_file(), "--data-dir", "d", "--json")
    assert (failed.code, failed.out) == (1, "")
    assert says in failed.err.splitlines()[-1]
    assert "Traceback" not in failed.err


def test_a_fault_of_ours_keeps_its_traceback_in_the_data_dir(shell: Shell, parts: Parts) -> None:
    parts.failure = KeyError("oops")
    failed = shell("replay", event_file(), "--data-dir", "d")
    assert failed.code == 1
    assert (
        "unexpected KeyError: 'oops'; please report it with the traceback in d/errors/traceback-"
        in failed.err
    )
    assert "Traceback" not in failed.err
    (kept,) = Path("d/errors").iterdir()
    assert "KeyError: 'oops'" in kept.read_text(encoding="utf-8")


def test_a_traceback_goes_elsewhere_when_the_data_dir_cannot_be_written(
    shell: Shell, parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    Path("d").write_text("a file where the folder should be", encoding="utf-8")
    parts.failure = KeyError("oops")
    assert str(tmp_path / "elsewhere" / "traceback-") in shell("replay", event_file(), "--data-dir", "d").err


# --- run and demo -----------------------------------------------------


def test_run_needs_relations(shell: Shell, parts: Parts) -> None:
    failed = shell("run")
    assert failed.code == 2
    assert "no relations are configured" in failed.sentence()
    assert not parts.calls


def test_run_follows_what_the_file_says(shell: Shell, parts: Parts) -> None:
    shell("init")
    done = shell("run", "--json")
    assert (done.code, done.json()) == (0, {"stopped": True})
    parts.warnings = ["7 of 10 events came late"]
    assert shell("run", "--json").json() == {"stopped": True, "warnings": parts.warnings}
    assert set(parts.calls[0]["settings"].relations) == {"click", "favorite", "purchase"}


def test_demo_passes_its_options_and_prints_its_report(shell: Shell, parts: Parts) -> None:
    parts.report = Report({"recall": 1})
    assert shell("demo", "--json", "--seconds", "10", "--seed", "3", "--keep").json() == {"recall": 1}
    assert shell("demo").out == "rendered\n"
    first = parts.calls[0]
    assert (first["data"], first["keep"], first["seconds"], first["seed"]) == (None, True, 10.0, 3)
    assert (
        shell("demo", "--data", "missing.csv").sentence().startswith("driftgraph: missing.csv: no such file")
    )


# --- Redis -----------------------------------------------------


@pytest.mark.parametrize(
    "argv", [["recommend", "u1"], ["similar", "i1"], ["generations"], ["rollback"], ["promote"]]
)
def test_a_redis_that_is_away_is_one_sentence(shell: Shell, argv: list[str]) -> None:
    port = free_port()
    failed = shell(*argv, "--redis", f"redis://127.0.0.1:{port}", "--json")
    assert (failed.code, failed.out) == (1, "")
    assert f"127.0.0.1:{port}" in failed.sentence()


def test_status_says_what_the_updater_says_also_while_redis_is_away(shell: Shell) -> None:
    port = free_port()
    told = shell("status", "--redis", f"redis://127.0.0.1:{port}", "--json")
    assert told.code == 1
    value = json.loads(told.out)
    assert (value["generation"], value["updater"]) == (None, None)
    assert value["redis_error"] in told.sentence()
    told = shell("status", "--redis", f"redis://127.0.0.1:{port}")
    assert "none has run with this data_dir" in told.out
    assert f"127.0.0.1:{port}" in told.sentence()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def published(redis_url: str, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Two generations, in each of which user u likes item a, then b; the options that name them."""
    namespace = request.node.name[:40].rstrip("_")
    client = connect(redis_url)
    store = GenerationStore(client, namespace=namespace, epoch=1)
    for number in (1, 2):
        users = Vectors(["u"], np.array([[1, 0]], np.float32), np.array([5], np.int64), [[]])
        items = Vectors(
            ["a", "b"], np.array([[2, 0], [1, 1]], np.float32) * number, np.array([5, 5], np.int64)
        )
        store.publish(number, users, items, {"watermark_ms": 1_511_539_200_000, "note": "x"})
    client.close()
    return ("--redis", redis_url, "--namespace", namespace)


@pytest.mark.services
def test_recommend_answers_from_redis_alone(shell: Shell, published: tuple[str, ...]) -> None:
    answer = shell("recommend", "u", "--top", "1", *published, "--json").json()
    assert answer == {
        "user": "u",
        "generation": 2,
        "source": "embedding",
        "event_ms": 5,
        "items": [{"item": "a", "score": 4.0}],
    }
    assert shell("recommend", "u", *published).out.split() == ["a", "4.0000", "b", "2.0000"]


@pytest.mark.services
def test_recommend_says_that_a_list_is_not_the_models(shell: Shell, redis_url: str) -> None:
    client = connect(redis_url)
    store = GenerationStore(client, namespace="lists", epoch=1)
    vectors, times_ms = np.ones((1, 2), np.float32), np.ones(1, np.int64)
    lists = [(b'["a","b","c"]', np.array([0.5, 0.25, 0.125], "<f4").tobytes())]
    users, items = Vectors(["u"], vectors, times_ms, [["b"]], lists), Vectors(["a"], vectors, times_ms)
    store.publish(1, users, items, {"lists": 5, "made_by": "co-visitation and popularity"})
    told = shell("recommend", "u", "--redis", redis_url, "--namespace", "lists")
    assert told.out.split() == ["a", "0.5000", "c", "0.1250"]
    assert "lists by co-visitation and popularity: no model yet" in told.sentence()
    answer = shell("recommend", "u", "--redis", redis_url, "--namespace", "lists", "--json").json()
    assert (answer["source"], [one["item"] for one in answer["items"]]) == ("list", ["a", "c"])
    store.publish(2, users, items, {"lists": 5, "made_by": "model"})
    told = shell("recommend", "u", "--redis", redis_url, "--namespace", "lists")
    assert (told.out.split()[0], told.err) == ("a", "")
    client.close()


@pytest.mark.services
def test_similar_answers_from_redis_alone_and_says_why_there_is_nothing(shell: Shell, redis_url: str) -> None:
    options = ("--redis", redis_url, "--namespace", "similar")
    failed = shell("similar", "a", *options)
    assert (failed.code, failed.out) == (1, "")
    assert "has no generation in namespace 'similar'" in failed.sentence()
    client = connect(redis_url)
    store = GenerationStore(client, namespace="similar", epoch=1)
    vectors, times_ms = np.ones((3, 2), np.float32), np.ones(3, np.int64)
    lists = [(b'["b","c"]', np.array([0.5, 0.25], "<f4").tobytes()), (b"[]", b""), (b"[]", b"")]
    users = Vectors(["u"], vectors[:1], times_ms[:1])
    store.publish(1, users, Vectors(["a", "b", "c"], vectors, times_ms, lists=lists), {"similar": 5})
    assert shell("similar", "a", *options).out.split() == ["b", "0.5000", "c", "0.2500"]
    answer = shell("similar", "a", *options, "--top", "1", "--json").json()
    assert answer == {"item": "a", "generation": 1, "items": [{"item": "b", "score": 0.5}]}
    nothing = shell("similar", "b", *options)
    assert (nothing.code, nothing.out) == (0, "")
    assert "generation 1 of namespace 'similar' has nothing similar to item 'b' yet" in nothing.sentence()
    assert shell("similar", "b", *options, "--json").json()["items"] == []
    unknown = shell("similar", "x", *options, "--json")
    assert (unknown.code, unknown.out) == (1, "")
    assert "does not know item 'x'" in unknown.sentence()
    store.publish(2, users, Vectors(["a", "b", "c"], vectors, times_ms), {"similar": 0})
    client.close()
    off = shell("similar", "a", *options)
    assert (off.code, off.out) == (1, "")
    assert "set publish.similar above 0" in off.sentence()


@pytest.mark.services
def test_recommend_where_is_that_of_the_reader(shell: Shell, redis_url: str) -> None:
    with contextlib.closing(connect(redis_url)) as client:
        publish_with_attributes(GenerationStore(client, namespace="sorts", epoch=1))
        wanted = EmbeddingReader(client, namespace="sorts").recommend(
            "u1", 5, where={"sort": "shoes", "price": (None, 3)}
        )
    options = ("--redis", redis_url, "--namespace", "sorts")
    where = '{"sort": "shoes", "price": [null, 3]}'
    found = shell("recommend", "u1", "--top", "5", "--where", where, *options, "--json").json()
    assert [(one["item"], one["score"]) for one in found["items"]] == wanted.items
    assert len(wanted.items) == 5
    none = shell("recommend", "u1", "--where", '{"sort": "gloves"}', *options)
    assert (none.code, none.out) == (0, "")
    assert "no item of generation 1 fits --where" in none.sentence()
    wrong = shell("recommend", "u1", "--where", "sort=shoes", *options)
    assert wrong.code == 2
    assert "where must be a JSON object" in wrong.err
    unknown = shell("recommend", "u1", "--where", '{"colour": "red"}', *options)
    assert unknown.code == 1
    assert "no attribute 'colour' of items to choose by, but 'sort', 'tags', 'price'" in unknown.sentence()


@pytest.mark.services
def test_recommend_for_a_stranger_is_empty_and_says_why(shell: Shell, published: tuple[str, ...]) -> None:
    told = shell("recommend", "nobody", *published)
    assert (told.code, told.out) == (0, "")
    assert "does not know user 'nobody'" in told.sentence()


@pytest.mark.services
def test_recommend_where_nothing_was_published_fails(shell: Shell, redis_url: str) -> None:
    failed = shell("recommend", "u", "--redis", redis_url, "--namespace", "empty")
    assert (failed.code, failed.out) == (1, "")
    assert "has no generation in namespace 'empty'" in failed.sentence()
    assert shell("status", "--redis", redis_url, "--namespace", "empty", "--json").json()["generation"] == 0


@pytest.mark.services
def test_rollback_serves_the_generation_before(shell: Shell, published: tuple[str, ...]) -> None:
    listed = shell("generations", *published, "--json").json()
    assert [(one["generation"], one["current"]) for one in listed] == [(1, False), (2, True)]
    assert shell("rollback", *published, "--json").json() == {"generation": 1, "held": False}
    assert shell("status", *published, "--json").json()["generation"] == 1
    again = shell("rollback", *published)
    assert again.code == 1
    assert "no generation before 1" in again.sentence()


@pytest.mark.services
def test_promote_serves_a_kept_generation_and_a_hold_is_shown_until_it_ends(
    shell: Shell, published: tuple[str, ...]
) -> None:
    failed = shell("promote", "7", *published)
    assert failed.code == 1
    assert "generation 7 is not there: Redis keeps 1, 2" in failed.sentence()
    assert shell("promote", "1", "--hold", *published).out == (
        "generation 1 is served now, and held until driftgraph promote\n"
    )
    assert shell("rollback", *published).code == 1
    told = shell("status", *published, "--json").json()
    assert (told["generation"], told["choice"]["generation"], told["choice"]["held"]) == (1, 1, True)
    assert told["choice"]["by"] == operator()
    out = shell("status", *published).out
    assert "chosen" in out
    assert f"by {operator()}: nothing else is published until driftgraph promote" in " ".join(out.split())
    [first, second] = shell("generations", *published, "--json").json()
    assert (first["choice"], second["choice"]) == (told["choice"], None)
    out = shell("generations", *published).out
    assert "  held  " in out
    assert f"generation 1: chosen by {operator()}, " in out
    assert shell("promote", *published, "--json").json() == {"generation": 2, "held": False}
    told = shell("status", *published, "--json").json()
    assert (told["generation"], told["choice"]["held"]) == (2, False)


@pytest.mark.services
def test_a_delisted_item_is_in_no_answer(shell: Shell, published: tuple[str, ...]) -> None:
    done = shell("delist", "a", "never seen", *published, "--json").json()
    assert done == {"delisted": ["a", "never seen"], "lists_mended": 0, "unknown": ["never seen"]}
    assert shell("delist", "a", *published, "--json").json()["unknown"] == [], "it was delisted before"
    assert shell("delist", "typo", *published).out == (
        "1 item is delisted, and 0 lists were mended; the served generation does not have typo: look whether "
        "the id is right\n"
    )
    assert shell("recommend", "u", *published).out.split() == ["b", "2.0000"]
    assert shell("rollback", *published).code == 0
    assert shell("recommend", "u", *published).out.split() == ["b", "1.0000"]
    assert shell("relist", "a", *published).out.startswith("1 item is listed again, within seconds where")


@pytest.mark.services
def test_status_tells_what_the_updater_said_and_whether_it_is_gone(
    shell: Shell, published: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTGRAPH__DATA_DIR", str(tmp_path))
    assert shell("status", *published, "--json").json()["updater"] is None
    told = {
        **{
            "pid": os.getpid(),
            "state": "running",
            "watermark_ms": 1_511_539_200_000,
            "lag": {"t[0]": 2, "t[1]": 5},
        },
        **{"events": {"read": 10, "applied": 9}, "window": {"click": 9}},
    }
    path = tmp_path / "status" / "updater.json"
    path.parent.mkdir()
    path.write_text(json.dumps(told))
    out = shell("status", *published).out
    for words in ("running, pid", "lag", "7", "events applied", "window, click"):
        assert words in out
    letters = {"kept": 3, "waiting": 7, "failure": "the disk is full"}
    erasures = {"users": 1, "waiting": 2, "pending": 40, "failure": "no inode is left"}
    now = told | {"dead_letters": letters, "erasures": erasures, "reading_paused": True}
    path.write_text(json.dumps(now))
    out = shell("status", *published).out
    for words in ("dead letters waiting", "the disk is full", "paused until", "42", "no inode is left"):
        assert words in out
    path.write_text(json.dumps(told | {"pid": 2**22 + 1}))  # above every pid of Linux
    assert shell("status", *published, "--json").json()["updater"]["state"] == "gone"
    path.write_text(json.dumps(told | {"warnings": ["7 of 10 events came late"]}))
    assert "WARNING" in shell("status", *published).out
    assert "7 of 10 events came late" in shell("status", *published).out
    path.write_text(json.dumps(told | {"pid": 2**22 + 1, "state": "failed", "why": "too many rejected"}))
    out = shell("status", *published).out
    assert "failed, pid" in out
    assert "too many rejected" in out
    waits = {"pid": os.getpid(), "state": "standby", "why": "waits as a standby: pid 7 has the lease"}
    (path.parent / "standby.json").write_text(json.dumps(waits))
    assert "pid 7 has the lease" in shell("status", *published).out
    assert shell("status", *published, "--json").json()["standby"]["pid"] == os.getpid()
    (path.parent / "standby.json").write_text(json.dumps(waits | {"pid": 2**22 + 1}))
    assert shell("status", *published, "--json").json()["standby"] is None


@pytest.mark.services
def test_a_worker_that_keeps_failing_is_an_error_state_with_its_reason(
    shell: Shell, published: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In text, JSON and exit code, and doctor fails too; a single failure is told and is none of that."""
    monkeypatch.setenv("DRIFTGRAPH__DATA_DIR", str(tmp_path))
    why = "model.device is away"
    worker = {"state": "failing", "pid": None, "starts": 6, "failures": 5, "why": why}
    said = f"failed 5 times in a row, last: {why}"
    told = {
        **{"pid": os.getpid(), "state": "degraded", "why": f"the worker {said}", "worker": worker},
        **{"watermark_ms": 1, "lag": {}, "events": {}, "window": {}},
    }
    path = tmp_path / "status" / "updater.json"
    path.parent.mkdir()
    path.write_text(json.dumps(told))
    text, as_json = shell("status", *published), shell("status", *published, "--json")
    assert (text.code, as_json.code) == (1, 1)
    assert "degraded, pid" in text.out
    assert text.out.count(said) == 1
    assert json.loads(as_json.out)["updater"]["why"] == f"the worker {said}"
    assert json.loads(as_json.out)["updater"]["worker"] == worker
    monkeypatch.setattr(
        "driftgraph.app.commands.doctor.checks._events", lambda *_: iter(())
    )  # ten seconds for Kafka
    checks = {one["name"]: one for one in json.loads(shell("doctor", "--json").out)["checks"]}
    assert checks["updater"]["state"] == "fail"
    assert checks["updater"]["detail"].endswith(said)
    once = told | {"state": "running", "why": None, "worker": worker | {"state": "running", "failures": 1}}
    path.write_text(json.dumps(once))
    text = shell("status", *published)
    assert text.code == 0
    assert f"failed: {why}" in text.out


def saved_by(folder: Path, **meta: object) -> None:
    """A checkpoint of a trainer, as far as its sizes are told."""
    said = {
        "format": 5,
        "relations": ["click"],
        "dim": 64,
        "layers": 1,
        "heads": 4,
        "model_version": 7,
        **meta,
    }
    checkpoint.write(folder / "var" / "trainer", 7, [("trainer.json", json.dumps(said).encode())], {})


@pytest.mark.parametrize(
    ("meta", "state", "words"),
    [
        ({}, "ok", "model version 7 in var/trainer/7 goes on"),
        ({"relations": ["view", "click"]}, "warn", "model version 7 in var/trainer/7 goes on: view is gone"),
        ({"relations": ["view"]}, "warn", "click is new and untrained, view is gone"),
        ({"dim": 32}, "fail", "has dim 32, this configuration 64: set model.dim = 32"),
        (
            {"format": 3},
            "fail",
            "var/trainer/7: the saved model has format 3, this version of driftgraph reads 5 alone: run the "
            "version that saved it, or remove var/trainer; a new model then starts from the window",
        ),
        ({"format": 1, "heads": None, "model_version": None}, "fail", "the saved model has format 1, this"),
    ],
)
def test_doctor_and_config_show_say_whether_the_saved_model_goes_on(
    meta: dict[str, object],
    state: str,
    words: str,
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And run refuses at once where it does not, before it asks for Kafka or Redis."""
    monkeypatch.setattr(
        "driftgraph.app.commands.doctor.checks._events", lambda *_: iter(())
    )  # ten seconds for Kafka
    monkeypatch.setenv("DRIFTGRAPH__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("DRIFTGRAPH__REDIS__URL", "redis://127.0.0.1:1/0")
    (tmp_path / "driftgraph.toml").write_text("[relations.click]\n")
    saved_by(tmp_path, **meta)
    checks = {one["name"]: one for one in json.loads(shell("doctor", "--json").out)["checks"]}
    assert checks["model"]["state"] == state
    assert words in checks["model"]["detail"]
    shown = shell("config", "show")
    assert shown.code == 0
    assert (words.removeprefix("model version 7 in var/trainer/7 goes on: ") in shown.err) == (state != "ok")
    if state == "fail":
        refused = shell("run")
        assert refused.code == 1
        assert words in refused.sentence()


def test_status_and_generations_are_readable(shell: Shell, published: tuple[str, ...]) -> None:
    status = shell("status", *published, "--json").json()
    assert (status["generation"], status["manifest"]["users"], status["manifest"]["items"]) == (2, 1, 2)
    assert status["manifest"]["watermark_ms"] == 1_511_539_200_000
    out = shell("status", *published).out
    assert "2017-11-24 16:00:00+00:00" in out
    assert "keys, user" in out
    lines = shell("generations", *published).out.splitlines()
    firsts = [line.split()[0] for line in lines]
    assert firsts == ["model", "generation", "2", "1"], "the head `model version` takes two lines"


def test_in_a_folder_without_a_configuration_a_failure_says_so_and_leaves_no_folder(shell: Shell) -> None:
    """As where somebody stands in another folder than the updater's."""
    failed = shell("retrain")
    assert failed.code == 2
    assert "no relations are configured" in failed.sentence()
    assert failed.sentence().endswith(
        "there is no driftgraph.toml in this folder, so every setting has its default"
    )
    assert not Path("var").exists()
    Path("driftgraph.toml").write_text("", encoding="utf-8")
    assert "there is no driftgraph.toml" not in shell("retrain").sentence()


def test_a_topic_is_no_file_to_replay(shell: Shell) -> None:
    failed = shell("replay", "kafka:events", "--redis", "none")
    assert failed.code == 1
    assert "a replay reads files; driftgraph validate kafka:events looks at a topic" in failed.sentence()
