"""``docker compose up`` as a user has it from the repository: from events on a topic to a recommendation.

The image is built from the Dockerfile and runs as its own user on a read-only root file system. Ports of the
host are left alone, so that the test can run beside an installation, and the health check asks more often;
everything else is as in the file. Without an engine or Docker Compose the tests fail where
``DRIFTGRAPH_TEST_CONTAINERS`` is set; elsewhere they are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from driftgraph.app.demo.shop import BEHAVIORS, ShopOptions, open_shop
from driftgraph.stream.time.clock import SystemClock
from tests.services.containers import why_no_engine
from tests.services.updaters import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(1_200)]  # with the build of the image

ROOT = Path(__file__).resolve().parents[2]
DAY_MS = 86_400_000
COMMAND_WITHIN_S = 180.0
POINTER = "driftgraph:emb:current"
SERVED_WITHIN_S = 480.0  # the first start compiles, and the machine may be busy
OVERRIDE = """
services:
  kafka: {ports: !reset []}
  redis: {ports: !reset []}
  driftgraph: {ports: !reset [], healthcheck: {interval: 10s}}
  prometheus: {ports: !reset []}
"""
NUMBER = "10001"  # of the image's user
NO_ACCOUNT = "12345"


def compose_command() -> list[str] | None:
    """Docker Compose as a program of its own or as Docker's plugin; None if there is neither."""
    if found := shutil.which("docker-compose"):
        return [found]
    plugin = ["docker", "compose"]
    if shutil.which("docker") is None or subprocess.run([*plugin, "version"], check=False).returncode != 0:
        return None
    return plugin


class Composed:
    """The services of docker-compose.yml under a name of their own."""

    def __init__(self, command: list[str], folder: Path) -> None:
        override = folder / "override.yml"
        override.write_text(OVERRIDE)
        project = ("-p", f"driftgraph-{uuid4().hex[:8]}", "--project-directory", str(ROOT))
        self._command = [*command, *project, "-f", str(ROOT / "docker-compose.yml"), "-f", str(override)]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_WITHIN_S,
        )
        assert done.returncode == 0 or not check, (
            f"{arguments}: {done.stdout[-2_000:]} {done.stderr[-2_000:]}"
        )
        return done

    def inside(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the updater's container."""
        return self("exec", "-T", "driftgraph", *command, check=check)

    def beside(self, *options: str, command: tuple[str, ...]) -> Any:
        """What a command of driftgraph in a container of its own says, as JSON."""
        done = self("run", "--rm", "-T", "--no-deps", *options, "driftgraph", *command, "--json")
        return json.loads(done.stdout)

    def state(self) -> dict[str, Any]:
        """What the engine says of the updater's container."""
        number = self("ps", "-a", "-q", "driftgraph").stdout.strip()
        [shown] = json.loads(subprocess.check_output(["docker", "inspect", number], text=True))
        found: dict[str, Any] = shown
        return found

    def logs(self) -> str:
        return self("logs", "--no-log-prefix", "driftgraph").stdout

    def serves(self) -> bool:
        """Whether Redis has a generation. (To ask it costs less than a command of driftgraph.)"""
        assert self.state()["State"]["Running"], self.logs()[-3_000:]
        return bool(self("exec", "-T", "redis", "redis-cli", "hget", POINTER, "gen").stdout.strip())

    def model(self) -> object:
        """The version of the model that is served; None for lists that no model made."""
        status = self.inside("driftgraph", "status", "--json", check=False)
        return json.loads(status.stdout)["manifest"].get("model_version")

    def recommended(self, user: str) -> list[str]:
        """The items for a user, once a generation is served."""
        until("a generation is served", self.serves, SERVED_WITHIN_S)
        done = self.inside("driftgraph", "recommend", user, "--top", "5", "--json")
        return [one["item"] for one in json.loads(done.stdout)["items"]]

    def kept_kernels(self) -> set[str]:
        """The compiled kernels in the volume, with the times at which they were written."""
        shown = self.inside("sh", "-c", "ls -l --full-time var/driftgraph-kernels-*/*.nbc").stdout
        return set(shown.splitlines())


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """All services, up; nothing of them is left afterwards but the image."""
    command = compose_command()
    missing = why_no_engine() or (None if command else "there is no Docker Compose: install it or its plugin")
    if missing is not None and os.environ.get("DRIFTGRAPH_TEST_CONTAINERS"):
        pytest.fail(f"DRIFTGRAPH_TEST_CONTAINERS is set, but {missing}")
    if missing is not None or command is None:
        pytest.skip(str(missing))
    # the host's network: the builder may reach a package index only there
    build = ["docker", "build", "--network", "host", "-t", "driftgraph", str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, (built.stdout + built.stderr)[-3_000:]
    composed = Composed(command, tmp_path_factory.mktemp("compose"))
    try:
        composed("up", "-d", "--no-build")
        yield composed
    finally:
        composed("--profile", "obs", "down", "-v", "--timeout", "1", check=False)


@dataclass
class Produced:
    """A file of events, which is also on the topic."""

    file: Path
    count: int
    busiest: str  # user

    @property
    def mount(self) -> tuple[str, str]:
        return "-v", f"{self.file}:/srv/events.csv:ro"


@pytest.fixture(scope="module")
def produced(compose: Composed, tmp_path_factory: pytest.TempPathFactory) -> Produced:
    """Two days of a made-up shop, which ended an hour ago or more: visits come up to 2.3 hours late."""
    start_ms = SystemClock().now_ms() - 2 * DAY_MS - 4 * DAY_MS // 24
    shop = open_shop(
        ShopOptions(
            user_count=150,
            item_count=240,
            category_count=12,
            event_count=8_000,
            start_ms=start_ms,
            span_ms=2 * DAY_MS,
        )
    )
    columns = (shop.user, shop.item, shop.behavior, shop.time_ms)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    lines = [f"{shop.user_ids[u]},{shop.item_ids[i]},{BEHAVIORS[b]},{ms}" for u, i, b, ms in rows]
    file = tmp_path_factory.mktemp("events") / "events.csv"
    file.write_text("\n".join(["user_id,item_id,behavior,timestamp", *lines, ""]))
    [(busiest, _)] = Counter(shop.user.tolist()).most_common(1)
    made = Produced(file, len(shop), shop.user_ids[busiest])
    report = compose.beside(*made.mount, command=("produce", "events.csv"))
    assert report["produced"] == made.count
    return made


def test_a_recommendation_is_served_by_a_user_of_its_own_on_a_read_only_root(
    compose: Composed, produced: Produced
) -> None:
    assert len(compose.recommended(produced.busiest)) == 5
    assert compose.state()["HostConfig"]["ReadonlyRootfs"] is True
    assert compose.inside("id", "-u").stdout.strip() == NUMBER
    refused = compose.inside("touch", "/srv/anything", check=False)
    assert "Read-only file system" in refused.stderr
    assert "compiled kernels" not in compose.logs(), "they are kept, so nothing is said"


def test_the_container_is_healthy_while_its_updater_runs(compose: Composed, produced: Produced) -> None:
    compose.recommended(produced.busiest)
    until("the container is healthy", lambda: compose.state()["State"]["Health"]["Status"] == "healthy")
    assert "/livez" in str(compose.state()["Config"]["Healthcheck"]["Test"])
    ready = ("driftgraph", "status", "--check", "--json")
    until("it serves", lambda: compose.inside(*ready, check=False).returncode == 0)
    status = json.loads(compose.inside(*ready).stdout)
    assert status["updater"]["events"]["applied"] == produced.count


def asked_of_prometheus(compose: Composed, query: str) -> list[dict[str, Any]]:
    """The answer, by way of the updater's container: Prometheus' own port is not on the host here."""
    address = f"http://prometheus:9090/api/v1/query?query={quote(query)}"
    code = f"import urllib.request as http; print(http.urlopen({address!r}).read().decode())"
    done = compose.inside("python", "-c", code, check=False)
    return json.loads(done.stdout)["data"]["result"] if done.returncode == 0 else []


def test_prometheus_has_the_metrics_and_the_alerts(compose: Composed, produced: Produced) -> None:
    """Profile ``obs`` without Grafana, whose image not every machine can have."""
    compose.recommended(produced.busiest)
    compose("--profile", "obs", "up", "-d", "--no-build", "--no-deps", "prometheus")
    query = 'driftgraph_events_total{outcome="applied"}'
    found = until("Prometheus has a metric", lambda: asked_of_prometheus(compose, query))
    assert [float(one["value"][1]) for one in found] == [produced.count]
    until(
        "an alert that fired at the start is over",
        lambda: (
            asked_of_prometheus(compose, "sum(driftgraph_trouble)")[0]["value"][1] == "0"
            and not asked_of_prometheus(compose, 'ALERTS{alertstate="firing"}')
        ),
    )


def test_a_stop_ends_in_time_and_new_containers_go_on_from_the_volumes(
    compose: Composed, produced: Produced
) -> None:
    model, items = compose.model(), compose.recommended(produced.busiest)
    kept = compose.kept_kernels()
    compose("stop", "driftgraph")
    assert compose.state()["State"]["ExitCode"] == 0, "by itself, in the grace period"
    compose("--profile", "obs", "down")
    compose("up", "-d", "--no-build")
    found = compose.recommended(produced.busiest)
    assert found == items or compose.model() != model, "only a fit that ended meanwhile changes the list"
    until("it goes on", lambda: "the window is full" in compose.logs())
    assert "goes on from checkpoint" in compose.logs()
    assert f"with {produced.count:,} events in the window" in compose.logs()
    assert kept <= compose.kept_kernels(), "nothing is compiled again"


def test_file_and_environment_configure_a_container(compose: Composed) -> None:
    shown = compose.beside("-e", "DRIFTGRAPH__MODEL__DIM=32", command=("config", "show"))
    assert shown["kafka"]["bootstrap_servers"] == "kafka:9092"
    assert shown["model"]["dim"] == 32
    assert shown["relations"]["click"]["span"] == "3d", "from the file, which is mounted read-only"


@pytest.mark.parametrize("user", [NO_ACCOUNT, f"{NO_ACCOUNT}:{NO_ACCOUNT}"])
def test_a_user_without_an_account_looks_at_what_is_served(
    compose: Composed, produced: Produced, user: str
) -> None:
    compose.recommended(produced.busiest)
    assert compose.beside("--user", user, command=("status",))["generation"] >= 1
    assert len(compose.beside("--user", user, command=("recommend", produced.busiest))["items"]) > 0
    judged = compose.beside("--user", user, *produced.mount, command=("validate", "events.csv"))
    assert judged["events"]["rejected"] == 0


def test_a_user_without_an_account_trains_where_the_volume_alone_can_be_written(
    compose: Composed, produced: Produced
) -> None:
    """As ``docker run --user N`` and Kubernetes start a container: of root's group, without /tmp."""
    options = ("--rm", "--read-only", "--user", NO_ACCOUNT, *produced.mount)
    replay = ("replay", "events.csv", "--redis", "none", "--json")
    done = subprocess.run(
        ["docker", "run", *options, "driftgraph", *replay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    report = json.loads(done.stdout)
    assert report["events_applied"] == produced.count
    assert len(report["generations"]) > 1
    assert "WARNING" not in done.stderr
