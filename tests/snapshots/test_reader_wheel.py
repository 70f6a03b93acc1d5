"""The distribution driftgraph-reader: built from the same files, it reads where only its dependencies are."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.store import GenerationStore
from tests.services_redis import publish

ROOT = Path(__file__).resolve().parents[2]
NEEDS = ("redis", "numpy", "msgspec")
READS = """
import asyncio, sys
from driftgraph_reader import AsyncEmbeddingReader, EmbeddingReader, connect, connect_async
client = connect(sys.argv[1])
print(EmbeddingReader(client, namespace="shop").recommend("u1", 2).items)
client.close()
async def read():
    client = connect_async(sys.argv[1])
    print((await AsyncEmbeddingReader(client, namespace="shop").users(["u1"]))[0].tolist())
    await client.aclose()
asyncio.run(read())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT / "dev/reader", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_it_reads_in_an_environment_that_has_its_dependencies_alone(
    store: GenerationStore,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    wheel: Path,
    tmp_path: Path,
) -> None:
    publish(store, 1)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for name in NEEDS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        installed = Path(spec.origin).parent
        for folder in (installed, installed.with_name(f"{name}.libs")):
            if folder.exists():
                (tmp_path / folder.name).symlink_to(folder)
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", READS, redis_server.url],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[('i10', 4.0), ('i11', 4.0)]\n[[1.0, 1.0, 1.0, 1.0]]\n"


def test_it_owns_no_file_of_driftgraph_and_needs_what_it_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        code = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
        told = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"driftgraph_reader"}
    assert [name for name, text in code.items() if re.search(r"(from|import) driftgraph\.", text)] == []
    assert "driftgraph_reader/LICENSE" in names
    ranges = [line.removeprefix("Requires-Dist: ") for line in told.splitlines() if "Requires-Dist" in line]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(ranges) <= set(ours["dependencies"])
    assert [re.split(">", one)[0] for one in ranges] == sorted(NEEDS)
    assert wheel.name.startswith(f"driftgraph_reader-{ours['version']}-")
