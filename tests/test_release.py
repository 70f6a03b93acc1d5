"""What is released: a source archive and a wheel that work without this checkout, and one version.

The environment of the wheel is empty but for the packages that driftgraph depends on, which it has from that
of the tests; ``make release-check`` makes one that is empty and asks the package index.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("app", "model", "snapshots", "stream")


def build(folder: Path, target: str, into: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = into.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder)) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"driftgraph-{PROJECT['version']}"


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, not from this checkout."""
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its own folder of commands, with the wheel installed and the dependencies of the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    command = folder / "bin" / "driftgraph"
    command.write_text(f"#!{folder}/bin/python\nfrom driftgraph.app.cli.main import main\nmain()\n")
    command.chmod(0o755)
    (packages / "dependencies.pth").write_text("\n".join(dependency_folders()), encoding="utf-8")
    return folder


def dependency_folders() -> list[str]:
    """Folders of packages of the tests' environment; a .pth file in them is not read, so no checkout is."""
    own = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(own | {path for path in sys.path if path.endswith("-packages")})


def run(environment: Path, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin" / argv[0]), *argv[1:]]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )


def test_the_wheel_of_the_source_archive_runs_where_no_checkout_is(environment: Path, tmp_path: Path) -> None:
    where = run(environment, "python", "-c", "import driftgraph.app as a; print(a.__file__)", cwd=tmp_path)
    assert where.returncode == 0, where.stderr
    assert Path(where.stdout.strip()).is_relative_to(environment), (
        "the checkout was imported, and not the wheel"
    )
    told = run(environment, "driftgraph", "version", "--json", cwd=tmp_path)
    assert (told.returncode, json.loads(told.stdout)) == (0, {"version": PROJECT["version"]}), told.stderr
    assert run(environment, "driftgraph", "init", cwd=tmp_path).returncode == 0
    assert (tmp_path / "driftgraph.toml").read_bytes() == (ROOT / "examples" / "driftgraph.toml").read_bytes()
    looked = run(
        environment, "driftgraph", "validate", str(ROOT / "examples/shop/events.jsonl"),
        "-c", str(ROOT / "examples/shop/driftgraph.toml"), cwd=tmp_path,
    )  # fmt: skip
    assert looked.returncode == 0, looked.stderr


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    """Modules, and what stands beside them: pages, styles, types."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {
            name for name in archive.namelist() if not name.startswith(f"driftgraph-{PROJECT['version']}")
        }
    here = {
        f"driftgraph/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache"} & {*path.parts} and not ignored(path)
    }
    assert inside == here


def ignored(path: Path) -> bool:
    """Whether git would leave it out, as the build does: compiled kernels beside their source."""
    return path.suffix in (".pyc", ".nbi", ".nbc")


def test_the_wheel_says_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        base = f"driftgraph-{PROJECT['version']}.dist-info"
        told = archive.read(f"{base}/METADATA").decode()
        points = archive.read(f"{base}/entry_points.txt").decode()
        assert f"{base}/licenses/LICENSE" in archive.namelist()
    assert f"\nRequires-Python: {PROJECT['requires-python']}\n" in told
    needs = [
        line.removeprefix("Requires-Dist: ") for line in told.splitlines() if line.startswith("Requires-Dist")
    ]
    always = {re.split(r"[<>=!;\[ ]", need)[0] for need in needs if "extra ==" not in need}
    assert always == {re.split(r"[<>=!;\[ ]", need)[0] for need in PROJECT["dependencies"]}
    assert "driftgraph = driftgraph.app.cli.main:main" in points


def test_the_source_archive_has_what_its_tests_and_its_site_need(source: Path) -> None:
    for name in (
        "tests",
        "docs",
        "examples",
        "dev/site_pages",
        "mkdocs.yml",
        "constraints.txt",
        "Makefile",
        "dev/reader",
    ):
        assert (source / name).exists(), f"{name} is not in the source archive"


def test_the_newest_version_of_the_changes_is_that_of_the_project_and_of_the_reader() -> None:
    """The version stands in pyproject.toml; ``driftgraph version`` has it from the installation."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", changes, re.MULTILINE)
    reader = tomllib.loads((ROOT / "dev/reader/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert versions[0] == PROJECT["version"] == reader["version"]


def test_each_python_that_is_named_was_tried() -> None:
    """The classifiers are those of the table of docs/dependencies.md that has a yes."""
    named = {one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", one)}
    table = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8").split("## Python versions")[1]
    assert named == set(re.findall(r"^\| (3\.\d+) \| yes", table, re.MULTILINE))
    assert PROJECT["requires-python"] == f">={min(named, key=lambda one: int(one.split('.')[1]))}"
