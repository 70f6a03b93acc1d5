"""A configuration that is read again: all of what can change live changes, or nothing does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from driftgraph.app.config.settings import Settings, load
from driftgraph.app.console.stopping import reloading
from driftgraph.app.live.reload import LIVE, Reload, changed_keys
from driftgraph.stream.time.clock import ManualClock
from tests.waits import until

FIRST = '[relations.click]\n[log]\nlevel = "info"\n'


class Reloaded:
    """A run whose file a test changes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "driftgraph.toml"
        self.path.write_text(FIRST, encoding="utf-8")
        self.reload = Reload(load(self.path), lambda: load(self.path), ManualClock(1_000))
        self.taken: list[Settings] = []
        self.reload.takers += [self.taken.append]

    def having(self, text: str) -> tuple[list[str], str | None]:
        self.path.write_text(text, encoding="utf-8")
        self.reload.asked.set()
        assert self.reload.tend()
        outcome = self.reload.status()
        assert outcome is not None
        return outcome["taken"], outcome["refused"]


@pytest.fixture
def reloaded(tmp_path: Path) -> Reloaded:
    return Reloaded(tmp_path)


def test_nothing_is_read_unless_somebody_asks(reloaded: Reloaded) -> None:
    assert not reloaded.reload.tend()
    assert reloaded.reload.status() is None
    assert reloaded.having(FIRST) == ([], None)
    assert not reloaded.reload.tend(), "it was asked for once"
    assert reloaded.taken == []


def test_what_can_change_live_is_taken_over_together(reloaded: Reloaded) -> None:
    text = (
        '[relations.click]\n[log]\nlevel = "debug"\n[web]\ntoken = "new one"\n'
        '[checkpoint]\nevery = "5s"\n[events]\nreject_share_max = 0.9\n'
    )
    assert reloaded.having(text) == (list(LIVE), None)
    [new] = reloaded.taken
    assert (new.log.level, str(new.checkpoint.every), new.events.reject_share_max) == ("debug", "5s", 0.9)
    assert reloaded.having(text) == ([], None), "it is compared with what holds now"


def test_one_key_that_needs_a_restart_keeps_all_others_as_they_are(reloaded: Reloaded) -> None:
    taken, refused = reloaded.having(
        '[relations.click]\n[relations.buy]\n[model]\ndim = 32\n[log]\nlevel = "error"'
    )
    assert refused is not None
    assert refused.startswith("a change of model.dim, relations.buy needs a restart, so nothing ")
    assert (taken, reloaded.taken) == ([], [])
    assert reloaded.having('[relations.click]\n[log]\nlevel = "error"') == (["log.level"], None)


def test_a_file_that_cannot_be_read_changes_nothing(reloaded: Reloaded) -> None:
    taken, refused = reloaded.having('[log]\nlevel = "loud"')
    assert (taken, reloaded.taken) == ([], [])
    assert refused is not None
    assert "nothing has changed: " in refused
    assert 'log.level = "loud"' in refused


def test_every_live_key_is_a_setting_and_a_change_is_named_by_its_whole_key() -> None:
    assert changed_keys(Settings(), Settings()) == []
    secret = {"kafka": {"secrets": {"sasl.password": "one"}}, "web": {"token": "one"}}
    other = {"kafka": {"secrets": {"sasl.password": "two"}}, "web": {"token": "two"}}
    found = changed_keys(Settings.model_validate(secret), Settings.model_validate(other))
    assert found == ["kafka.secrets.sasl.password", "web.token"]
    for key in LIVE:
        table, _, name = key.partition(".")
        assert name in type(getattr(Settings(), table)).model_fields


def test_a_hangup_asks_for_it() -> None:
    asked, stopped = threading.Event(), threading.Event()
    with reloading(asked, stopped):
        os.kill(os.getpid(), signal.SIGHUP)
        until(asked.is_set)
    assert not stopped.is_set()


def test_the_end_of_its_terminal_ends_a_run() -> None:
    """The same signal says both."""
    code = (
        "import fcntl, sys, termios, threading\n"
        "from driftgraph.app.console.stopping import reloading\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "asked, stopped = threading.Event(), threading.Event()\n"
        "with reloading(asked, stopped):\n"
        "    sys.stdout.write('ready'); sys.stdout.flush()\n"
        "    stopped.wait(60)\n"
        "sys.exit(7 if stopped.is_set() and not asked.is_set() else 1)\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    with process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        os.close(ours)  # the window is closed
        assert process.wait(60) == 7
