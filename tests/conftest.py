"""What tests share: the real files, how a missing one is told, and what processes that test together need."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from driftgraph.app.demo.shop import ShopOptions, open_shop
from tests.browsers import browser, open_page  # noqa: F401  fixtures for all
from tests.readers import make_reader, round_trips  # noqa: F401  fixtures for all
from tests.redis_topologies import cluster_url, in_cluster, pair, tls_url  # noqa: F401  fixtures for all
from tests.services_redis import redis_client, redis_server, store, user_url  # noqa: F401  fixtures for all

# the first example may compile numba code for seconds; the suite's own timeout is the limit
settings.register_profile("driftgraph", deadline=None)
settings.load_profile("driftgraph")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads of several processes wait for each other

# many updaters run at once here, and one of them could have the port; tests of the port name another
os.environ.setdefault("DRIFTGRAPH__WEB__LISTEN", "off")

BESIDE = Path(__file__).resolve().parents[2] / "shared"  # where a checkout has it, if it has


REPLAY = "from driftgraph.app.cli.main import main; main()"


def pytest_configure(config: pytest.Config) -> None:
    """Before several processes test (``-n``), compile the kernels once: each of them would do it again."""
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        return
    options = ShopOptions(user_count=40, item_count=60, category_count=6, event_count=600, span_ms=86_400_000)
    with tempfile.TemporaryDirectory() as folder:
        lines = b"\n".join(value for _, value in open_shop(options).payloads())
        (Path(folder) / "shop.jsonl").write_bytes(lines)
        argv = ["replay", "shop.jsonl", "--redis", "none", "--fit-every", "6h", "--dim", "16", "--json"]
        done = subprocess.run(
            [sys.executable, "-c", REPLAY, *argv], cwd=folder, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        pytest.exit(f"a replay of a small file failed, so no test can pass:\n{done.stderr}", 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of services come first: they wait a lot, and the others run meanwhile (``-n``)."""
    items.sort(key=lambda item: item.get_closest_marker("services") is None)


def shared_folder() -> Path | None:
    """The folder of real files and services: ``DRIFTGRAPH_SHARED``, or the one beside the repository."""
    named = os.environ.get("DRIFTGRAPH_SHARED")
    if named:
        return Path(named)
    return BESIDE if BESIDE.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A real event file by its name under ``data/``: ``shared_data("kuairand/events.csv.gz")``.

    Where ``DRIFTGRAPH_SHARED`` is set its absence fails the test; elsewhere the test is skipped.
    """

    def find(name: str) -> Path:
        folder = shared_folder()
        path = None if folder is None else folder / "data" / name
        if path is not None and path.is_file():
            return path
        if os.environ.get("DRIFTGRAPH_SHARED"):
            pytest.fail(f"DRIFTGRAPH_SHARED is set, but there is no {path}")
        return pytest.skip(f"no {name}: set DRIFTGRAPH_SHARED to the folder that has data/{name}")

    return find
