"""Every command beside a ``driftgraph run`` that logs JSON: what it says, what it does, what is reloaded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.status_files import told
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.app.cli.test_cli import Shell
from tests.app.cli.test_cli import shell as shell  # noqa: PLC0414  a fixture
from tests.app.cli.test_surface import commands
from tests.app.web.serving import TOKEN, Port
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import CODE, TASTED, RunningUpdater, configured, model_served, two_tastes, until

pytestmark = pytest.mark.services

LOG_KEYS = ["time", "level", "process", "logger", "message"]


@dataclass
class Run:
    """A run that serves its model, with a letter among its dead letters."""

    updater: RunningUpdater
    port: Port
    reader: EmbeddingReader
    kafka: str
    topic: str
    base: str  # the configuration without the tables that tests change
    loud_lines: int = 0  # of the log, before its level was made warning

    @property
    def config(self) -> str:
        return str(self.updater.config)

    def knows(self, user: str) -> bool:
        """Whether the served generation has the user."""
        return self.reader.recommend(user, 3).source in ("list", "embedding")

    def having(self, *, token: str = TOKEN, level: str = "info", more: str = "") -> None:
        """Another configuration in the file; nobody has read it yet."""
        self.updater.config.write_text(self.base + tables(token, level) + more, encoding="utf-8")


def tables(token: str = TOKEN, level: str = "info") -> str:
    web = f'[web]\nlisten = "127.0.0.1:0"\ntoken = "{token}"\n'
    return f'\n{web}[log]\nformat = "json"\nlevel = "{level}"\n'


@pytest.fixture(scope="module")
def run(real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    topic, folder = f"commands-{uuid4().hex[:8]}", tmp_path_factory.mktemp("commands")
    make_topic(real_kafka.address, topic, 2)
    tasted = two_tastes(TASTED, SystemClock().now_ms() - 3_600_000)
    records = [{"value": event(u, i, time_ms=t), "key": u, "timestamp": t} for u, i, t in tasted]
    produce(real_kafka.address, topic, [*records, {"value": b"{", "key": b"bad"}])
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        config = configured(folder, kafka=real_kafka.address, topic=topic, redis=server.url)
        base = config.read_text(encoding="utf-8")
        config.write_text(base + tables(), encoding="utf-8")
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        stack.enter_context(pytest.MonkeyPatch.context()).delenv("DRIFTGRAPH__WEB__LISTEN", raising=False)
        updater = stack.enter_context(RunningUpdater(config))
        until("the model is served", lambda: updater.status() and model_served(client), 200)
        found = told(folder / "var", "web")
        assert found is not None
        port = Port(f"http://{found['host']}:{found['port']}")
        yield Run(updater, port, EmbeddingReader(client, namespace="shop"), real_kafka.address, topic, base)


def test_every_command_is_tested_beside_a_run() -> None:
    """``run`` is what they are beside; the others have a broker of their own, or a process of Faust's."""
    elsewhere = {"run", "demo", "faust"}
    assert {one.removeprefix("driftgraph ") for one in commands()} == {*READS, *ACTS} | elsewhere


# --- commands that only look ------------------------------------------------------------------------------

Check = Callable[[Any], object]
READS: dict[str, tuple[list[str], Check]] = {
    "status": ([], lambda it: it["updater"]["state"] == "running" and it["troubles"] == []),
    "generations": ([], lambda it: it[-1]["current"]),
    "recommend": (["u1", "--top", "3"], lambda it: it["source"] == "list" and len(it["items"]) == 3),
    "similar": (["i1"], lambda it: it["items"]),
    "config show": ([], lambda it: it["log"]["format"] == "json" and it["web"]["token"] == "**********"),
    "config check": ([], lambda it: it["ok"] and it["faults"] == []),
    "dlq ls": ([], lambda it: it["open"] == 1 and it["reasons"][0]["reason"] == "bad_json"),
    "dlq show": (["1-1"], lambda it: it["reason"] == "bad_json"),
    "version": ([], lambda it: it["version"]),
    "doctor": (
        [],
        lambda it: it["healthy"] and {"clock", "http", "updater"} <= {c["name"] for c in it["checks"]},
    ),
    "validate": (["kafka:{topic}"], lambda it: it["events"]["read"] == TASTED + 1),
    "scores": (["u1", "i1"], lambda it: "events.impressions" in it),
}


@pytest.mark.parametrize("command", READS)
def test_what_a_command_reads(command: str, run: Run, shell: Shell) -> None:
    arguments, is_right = READS[command]
    argv = [*command.split(), *(one.format(topic=run.topic) for one in arguments)]
    if command != "version":
        argv += ["-c", run.config]
    done = shell(*argv, "--json")
    if command == "scores":  # this run was told of no impression
        assert done.code == 1
        assert is_right(done.sentence())
        return
    assert done.code == (1 if command == "validate" else 0), done.err  # one event is bad
    assert is_right(done.json()), done.out
    if command not in ("doctor", "validate"):  # they ask a broker for seconds
        text = shell(*argv)
        assert (text.code, bool(text.out)) == (0, True)


def test_status_watches_it(run: Run) -> None:
    arguments = ["status", "--watch", "-c", run.config]
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments], stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        lines = [watch.stdout.readline() for _ in range(3)]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(60) == 0
    assert all("running" in line and line.endswith("  ok\n") for line in lines[1:]), lines
    assert " events/s  lag 0  generation " in lines[-1]


# --- commands that change something -----------------------------------------------------------------------


def init(run: Run, shell: Shell) -> None:
    assert shell("init", "--json").json() == {"path": "driftgraph.toml"}


def replay(run: Run, shell: Shell) -> None:
    """Into nothing: a run is not disturbed."""
    Path("past.csv").write_text(
        "user_id,item_id,behavior,timestamp\nu,i,click,1783000000\n", encoding="utf-8"
    )
    done = shell("replay", "past.csv", "--redis", "none", "--data-dir", "other", "-c", run.config, "--json")
    assert done.json()["events_read"] == 1


def produce_(run: Run, shell: Shell) -> None:
    before = run.updater.status()["events"]["applied"]
    now_s = SystemClock().now_ms() // 1_000
    Path("new.csv").write_text(
        f"user_id,item_id,behavior,timestamp\nnew,i1,click,{now_s}\n", encoding="utf-8"
    )
    done = shell("produce", "new.csv", "-c", run.config, "--json")
    assert done.code == 0, done.err
    run.updater.wait_for("it is applied", lambda s: s["events"]["applied"] == before + 1)
    until("it is served", lambda: run.knows("new"))


def export(run: Run, shell: Shell) -> None:
    run.updater.wait_for("a checkpoint", lambda s: s["checkpoint"]["number"])
    done = shell("export", "graph", "--format", "parquet", "-c", run.config, "--json")
    assert done.code == 0, done.err
    assert Path("graph/users.parquet").is_file()


def delist(run: Run, shell: Shell) -> None:
    best = run.reader.recommend("u1", 1).items[0][0]
    assert shell("delist", best, "-c", run.config, "--json").json()["delisted"] == [best]
    assert best not in {item for item, _ in run.reader.recommend("u1", 20).items}


def relist(run: Run, shell: Shell) -> None:
    delisted = shell("relist", "i1", "-c", run.config)
    assert delisted.code == 0, delisted.err


def erase(run: Run, shell: Shell) -> None:
    done = shell("erase", "u2", "-c", run.config, "--json")
    assert done.code == 0, done.err
    run.updater.wait_for(
        "it forgot u2", lambda s: s["erasures"]["users"] == 1 and not s["erasures"]["pending"]
    )
    until("Redis forgot u2", lambda: not run.knows("u2"))


def dlq_retry(run: Run, shell: Shell) -> None:
    assert shell("dlq", "retry", "-c", run.config, "--json").json()["sent"] == 1
    run.updater.wait_for("it is a letter again", lambda s: s["events"]["rejected"] == 2)


def dlq_purge(run: Run, shell: Shell) -> None:
    until("it is kept", lambda: shell("dlq", "ls", "-c", run.config, "--json").json()["open"] == 1)
    assert shell("dlq", "purge", "--yes", "-c", run.config, "--json").code == 0
    assert shell("dlq", "ls", "-c", run.config, "--json").json()["open"] == 0


def retrain(run: Run, shell: Shell) -> None:
    done = shell("retrain", "-c", run.config, "--json")
    assert done.code in (0, 3), done.err  # the gate may reject it
    assert done.json()["model_version"] >= 1


def rollback(run: Run, shell: Shell) -> None:
    """Lists were served before the model: there is always a generation to go back to."""
    before = run.reader.current()
    assert shell("rollback", "--hold", "-c", run.config, "--json").json()["held"] is True
    assert run.reader.current() < before


def promote(run: Run, shell: Shell) -> None:
    done = shell("promote", "-c", run.config, "--json").json()
    assert done["held"] is False
    assert run.reader.current() == done["generation"]


ACTS: dict[str, Callable[[Run, Shell], None]] = {
    "init": init, "replay": replay, "produce": produce_, "export": export, "delist": delist, "relist": relist,
    "erase": erase, "dlq retry": dlq_retry, "dlq purge": dlq_purge, "retrain": retrain, "rollback": rollback,
    "promote": promote,
}  # fmt: skip


@pytest.mark.parametrize("command", ACTS)
def test_what_a_command_does(command: str, run: Run, shell: Shell) -> None:
    ACTS[command](run, shell)


# --- reload -----------------------------------------------------------------------------------------------


def test_a_hangup_takes_over_what_can_change(run: Run, shell: Shell) -> None:
    run.having(level="warning")
    run.updater.process.send_signal(signal.SIGHUP)
    run.updater.wait_for("it was read", lambda s: (s["reload"] or {}).get("taken") == ["log.level"])
    run.loud_lines = len(run.updater.output().splitlines())
    assert "log.level" in shell("status", "-c", run.config).out


def test_post_takes_over_a_new_token_and_the_old_one_is_none_any_more(run: Run) -> None:
    run.having(level="warning", token="another secret")
    assert run.port.ask("/api/reload", method="POST")[0] == 401
    assert run.port.ask("/api/reload", method="POST", token=TOKEN) == (200, {"taken": ["web.token"]})
    until("the port has it", lambda: run.port.ask("/api/recommend/u1", token="another secret")[0] == 200)
    assert run.port.ask("/api/recommend/u1", token=TOKEN)[0] == 401


def test_what_needs_a_restart_is_named_and_nothing_is_taken_over(run: Run, shell: Shell) -> None:
    run.having(level="error", token="a third", more="[publish]\nlists = 7\n")
    status, said = run.port.ask("/api/reload", method="POST", token="another secret")
    assert (status, said["error"].startswith("a change of publish.lists needs a restart, so nothing ")) == (
        409,
        True,
    )
    assert run.port.ask("/api/recommend/u1", token="another secret")[0] == 200
    assert "a change of publish.lists needs a restart" in shell("status", "-c", run.config).out
    assert run.updater.process.poll() is None


# --- the log: last, since the run ends here ---------------------------------------------------------------


def test_every_line_is_json_and_there_are_few_and_none_has_a_secret(run: Run) -> None:
    read = run.updater.status()["events"]["read"]
    os.kill(run.updater.status()["worker"]["pid"], signal.SIGKILL)
    run.updater.wait_for("another worker", lambda s: s["worker"]["starts"] == 2 and s["worker"]["pid"])
    pid, folder = run.updater.status()["worker"]["pid"], run.updater.config.parent / "var"
    until("it serves", lambda: (one := told(folder, "worker")) and one["pid"] == pid and one["serves"])
    status, _ = run.updater.terminate()
    assert status == 0
    text = run.updater.output()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(list(line)[:5] == LOG_KEYS for line in lines)
    assert {line["process"] for line in lines} >= {"updater", "worker"}
    said = [line["message"] for line in lines]
    assert any("the worker failed: ended by signal 9" in one for one in said)
    assert any(one.startswith("the window is full") for one in said)
    assert {"info"} <= {line["level"] for line in lines[: run.loud_lines]}
    later = {(line["process"], line["level"]) for line in lines[run.loud_lines :]}
    assert "info" not in {level for _, level in later}, "updater and both workers took the level over"
    assert len(lines) < read / 10
    for secret in (TOKEN, "another secret", "a third"):
        assert secret not in text
