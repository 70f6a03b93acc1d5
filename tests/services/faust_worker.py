"""``driftgraph faust -- worker`` as its user has it: a process, a configuration, a module of the site's."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from driftgraph.app.commands.embedded import free_port
from tests.services.updaters import CODE, until

SITE = '''
"""A site's own events: what, who, which, when; some of them do harm."""
import json, os, time

def normalize(record):
    event = json.loads(record.value)
    if event.get("burn_s"):
        end = time.perf_counter() + event["burn_s"]
        while time.perf_counter() < end:
            pass
    if event.get("die"):
        os._exit(3)
    if event.get("skip"):
        return None
    lines = event.get("lines", [event.get("which")])
    same = {"user_id": event["who"], "behavior": event["what"], "ts": event["when"]}
    return [{**same, "item_id": item} for item in lines]
'''


class FaustWorker:
    """A worker process; killed at the end of the ``with`` block if it still runs."""

    def __init__(self, folder: Path, *, kafka: str, source: str, topic: str, redis: str, own: str) -> None:
        self.folder = folder
        self.port = free_port()
        (folder / "mysite.py").write_text(SITE, encoding="utf-8")
        self.config = folder / "driftgraph.toml"
        self.config.write_text(
            f"""
            name = "{topic}"
            data_dir = "{folder / "var"}"
            [kafka]
            bootstrap_servers = "{kafka}"
            topic = "{topic}"
            [relations.click]
            [relations.purchase]
            [redis]
            url = "{redis}"
            namespace = "shop"
            [faust]
            source_topic = "{source}"
            web = "127.0.0.1:{self.port}"
            {own}
            """,
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it says goes to a file."""
        command = [sys.executable, "-c", CODE, "faust", "-c", str(self.config), "--", "worker", "-l", "info"]
        with (self.folder / "said.log").open("ab") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=said, cwd=self.folder)

    def kill(self) -> None:
        """As a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def terminate(self) -> int:
        """Ask it to end; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def said(self) -> str:
        """All that its processes printed."""
        return (self.folder / "said.log").read_text(errors="replace")

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a web view; 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                said = error.read()
            return error.code, json.loads(said) if error.headers.get_content_subtype() == "json" else said
        except OSError:
            return 0, None

    def wait_ready(self) -> None:
        """Until the trends are its own."""
        answers = lambda: self.get("/trends/click/")[0] == 200 or self._fail_if_ended()  # noqa: E731
        until("the worker answers", answers, 180)

    def _fail_if_ended(self) -> bool:
        assert self.ended() is None, self.said()[-3_000:]
        return False

    def __enter__(self) -> FaustWorker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.ended() is None:
            self.kill()
