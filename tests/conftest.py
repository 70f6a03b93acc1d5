"""What tests share: the real files, and how a missing one is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.services_redis import redis_client, redis_server, store, user_url  # noqa: F401  fixtures for all

# the first example may compile numba code for seconds; the suite's own timeout is the limit
settings.register_profile("driftgraph", deadline=None)
settings.load_profile("driftgraph")

BESIDE = Path(__file__).resolve().parents[2] / "shared"  # where a checkout has it, if it has


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
