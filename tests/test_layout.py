"""Style is a test: the layout, the sizes, the one-way imports and what a public repository may not hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "model", "snapshots", "stream")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# path (and function) -> why it may be longer
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
NOT_OURS = {"LICENSE"}


def project() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found


def tracked() -> list[Path]:
    """What git would commit: tracked files, and new ones that it does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: an unpacked source archive has no list of its files")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def code_files() -> list[Path]:
    folders = (*PACKAGES, "tests", "benchmarks", "dev/site_pages")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_the_lists_of_packages_agree() -> None:
    """A folder that is missing in one list is missing in the wheel, or in the editable install."""
    build = project()["tool"]["hatch"]["build"]  # type: ignore[index]
    assert sorted(link.name for link in (ROOT / "dev" / "driftgraph").iterdir()) == sorted(PACKAGES)
    assert sorted(build["targets"]["wheel"]["only-include"]) == sorted(PACKAGES)
    sources = {folder: f"driftgraph/{folder}" for folder in PACKAGES}
    assert build["targets"]["wheel"]["sources"] == sources
    assert set(PACKAGES) <= set(build["targets"]["sdist"]["only-include"])
    assert build["dev-mode-dirs"] == ["dev"]
    for name in PACKAGES:
        link = ROOT / "dev" / "driftgraph" / name
        assert link.is_symlink(), f"{link} must be a link, so that there is one copy of the code"
        assert link.resolve() == ROOT / name
        assert (ROOT / name / "py.typed").is_file()


def test_imports_go_one_way() -> None:
    """The contracts stand in pyproject.toml, under tool.importlinter."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_too_long_without_a_reason() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in code_files()
        if path.is_relative_to(ROOT / "tests") is False
    }
    long = {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX}
    assert long.keys() - LONG_FILES.keys() == set(), f"split it, or say why not: {long}"
    assert LONG_FILES.keys() - long.keys() == set(), "no longer long: take it off the list"


def test_no_function_is_too_long_without_a_reason() -> None:
    long = {
        f"{path.relative_to(ROOT).as_posix()}:{name}": lines
        for path in code_files()
        for name, lines in functions(path)
        if lines > FUNCTION_LINES_MAX
    }
    assert long.keys() - LONG_FUNCTIONS.keys() == set(), f"split it, or say why not: {long}"
    assert LONG_FUNCTIONS.keys() - long.keys() == set(), "no longer long: take it off the list"


def test_no_file_is_called_utils_and_no_class_is_a_manager() -> None:
    for path in code_files():
        assert path.stem not in ("utils", "util", "helpers", "misc", "common"), path
        assert re.search(r"^class \w*Manager\b", path.read_text(encoding="utf-8"), re.MULTILINE) is None, path


def test_every_module_says_what_it_is_for() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in code_files()}
    assert [path for path, text in texts.items() if text and not ast.get_docstring(ast.parse(text))] == []


def test_only_the_clock_reads_the_time() -> None:
    """Everything else is given a Clock; durations of waiting may use the monotonic clock."""
    reads = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|utcnow|today)\(|\bdate\.today\(")
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in code_files()
        if path.relative_to(ROOT).parts[0] in PACKAGES and reads.search(path.read_text(encoding="utf-8"))
    }
    assert readers == {"stream/time/clock.py"}


def test_only_one_module_asks_numba_to_compile() -> None:
    """A kernel that is declared in another way needs a folder that can be written beside its source."""
    declares = re.compile(r"\bnjit\b|\bnumba\.jit\b|\bcache=True\b")
    declarers = {
        path.relative_to(ROOT).as_posix()
        for path in code_files()
        if path.relative_to(ROOT).parts[0] in PACKAGES and declares.search(path.read_text(encoding="utf-8"))
    }
    assert declarers == {"stream/kernels/compile.py"}


def test_no_path_of_a_machine_and_no_package_host_is_in_a_file() -> None:
    """Written apart, so that this file does not find itself."""
    forbidden = re.compile(
        "|".join(["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "py" + "pi\\.org", "/opt/" + "wheels"])
    )
    for path in tracked():
        if path.name not in NOT_OURS:
            found = forbidden.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)} holds {found.group()}"


def test_the_constraints_are_exact_and_cover_what_is_declared() -> None:
    """Exact releases, none of a local build, and a pin for each direct dependency."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", pin) is None] == []
    assert pins == sorted(pins), "sorted, so that a change of one release is one line"
    pinned = {pin.partition("==")[0] for pin in pins}
    declared = project()["project"]
    extras = declared["optional-dependencies"]
    assert isinstance(extras, dict)
    wanted = [*declared["dependencies"], *extras["demo"], *extras["dev"]]  # type: ignore[misc]
    names = {re.split(r"[\[<>=; ]", str(one))[0].lower() for one in wanted} - {"driftgraph"}
    assert names - pinned == set()
