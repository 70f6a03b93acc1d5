"""A real Prometheus with the alerts of deploy/, which scrapes one port each second.

``prometheus`` is in Debian's package of this name. Where it is missing, its tests fail in CI and are skipped
elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.services.conftest import free_port
from tests.services.updaters import until

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: driftgraph
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Alerting:
    """From ``__init__`` on it scrapes; ``stop`` ends it."""

    def __init__(self, folder: Path, port: int) -> None:
        program = shutil.which("prometheus")
        if program is None and os.environ.get("CI"):
            pytest.fail("there is no prometheus: install Debian's package of this name")
        if program is None:
            pytest.skip("there is no prometheus: Debian's package of this name has it")
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(rules=RULES, port=port), encoding="utf-8")
        own = free_port()
        self._address = f"http://127.0.0.1:{own}"
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address=127.0.0.1:{own}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        until("Prometheus answers", self._answers)

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self._ask("/api/v1/alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Prometheus has ended"
        try:
            self._ask("/api/v1/alerts")
        except OSError:
            return False
        return True

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(self._address + path, timeout=10) as answer:
            return json.loads(answer.read())["data"]
