"""Documents are held to the code: each path, test, name, link, command and key that they tell of is there."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from site_pages.rooms import columns

from driftgraph.app.cli.main import app
from driftgraph.app.config.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "model", "snapshots", "stream")
DIARY = ROOT / "docs" / "LOG.md"  # tells of what was, under the names that it had
PAGES = [
    path
    for path in (
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
    )
    if path != DIARY
]
CODE = [
    path
    for folder in (*PACKAGES, "tests", "benchmarks", "dev/site_pages")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
TOUR = (ROOT / "docs" / "TOUR.md").read_text(encoding="utf-8")

PLACE = re.compile(
    rf"(?<![\w/.$-])(?:{'|'.join((*PACKAGES, 'tests', 'benchmarks', 'docs', 'examples', 'deploy'))})"
    r"/[\w./-]*\w"
)
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def names_in(path: Path) -> set[str]:
    """What a module defines, methods as ``Class.method``."""
    found = set[str]()
    for node in ast.parse(text_of(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def missing_places(text: str) -> list[str]:
    """Paths that are neither a file nor a folder; a module may stand without its ending, NAME for any."""
    places = {place for place in PLACE.findall(text) if "NAME" not in place}
    return sorted(p for p in places if not (ROOT / p).exists() and not (ROOT / f"{p}.py").exists())


def anchors_of(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_path_of_a_page_is_there(page: Path) -> None:
    assert missing_places(text_of(page)) == []


def test_every_path_of_a_docstring_or_comment_is_there() -> None:
    missing = {path.relative_to(ROOT).as_posix(): missing_places(_prose(path)) for path in CODE}
    assert {path: places for path, places in missing.items() if places} == {}


def _prose(path: Path) -> str:
    """Docstrings and comments."""
    text = text_of(path)
    docstrings = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return "\n".join([*docstrings, *re.findall(r"(?:^|\s)#\s(.*)$", text, re.MULTILINE)])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = set(TEST.findall(text_of(page)))
    assert [one for one in sorted(named) if one[1] not in names_in(ROOT / one[0])] == []


def test_each_gap_of_a_crash_has_a_test() -> None:
    """The rows of section 13: each names a test, says ``the same``, or points at the table below."""
    section = ARCHITECTURE.split("\n## 13. ")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| (?!it dies|---)", line)]
    assert len(rows) > 25
    untested = [
        row for row in rows if not TEST.search(row) and "the same" not in row and "the table below" not in row
    ]
    assert untested == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(text_of(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_dotted_name_of_ours_can_be_imported(page: Path) -> None:
    for dotted in set(re.findall(r"\bdriftgraph(?:\.\w+)+", text_of(page))):
        module, _, name = dotted.rpartition(".")
        if module != "driftgraph" and dotted.split(".")[1] in PACKAGES:
            assert hasattr(importlib.import_module(module), name) or importlib.import_module(dotted), dotted


# --- the tree ------------------------------------------------------------------------------------------


def tree() -> dict[str, str]:
    """Path → what stands behind it, from the tree of section 4; folders end with a slash."""
    block = ARCHITECTURE.split("\n## 4. ")[1].split("**Doors.**")[0]
    entry = re.compile(r"^    ( *)([\w.]+(?:/|\.py)) +(\S.*)$")
    found, above, last = dict[str, str](), list[str](), ""
    for line in block.splitlines():
        if (match := entry.match(line)) is not None:
            above = [*above[: len(match[1]) // 2], match[2]]
            last = "".join(above)
            found[last] = match[3]
        elif line.startswith("     ") and last:
            found[last] += f" {line.strip()}"
    return found


def folders() -> Iterator[str]:
    """Every folder that the tree has to name: a package, or a folder of tests that mirrors none."""
    for package in (*PACKAGES, "benchmarks"):
        yield from (
            path.parent.relative_to(ROOT).as_posix() + "/" for path in (ROOT / package).rglob("__init__.py")
        )
    yield from (
        "tests/",
        "docs/",
        "examples/",
        "deploy/",
        "dev/",
        "dev/site_pages/",
        ".ci/",
    )
    for path in (ROOT / "tests").iterdir():
        if path.is_dir() and path.name not in (*PACKAGES, "__pycache__"):
            yield f"tests/{path.name}/"


def test_the_tree_names_exactly_the_folders_that_there_are() -> None:
    assert sorted(path for path in tree() if path.endswith("/")) == sorted(folders())
    assert [path for path in tree() if not (ROOT / path).exists()] == []


def test_the_tree_says_of_a_folder_what_its_docstring_says() -> None:
    for path, said in tree().items():
        init = ROOT / path / "__init__.py"
        if path.endswith("/") and path.split("/")[0] in (*PACKAGES, "benchmarks"):
            docstring = ast.get_docstring(ast.parse(text_of(init))) or ""
            assert said == docstring.splitlines()[0].rstrip("."), (
                f"{init} and the tree of ARCHITECTURE.md differ"
            )


def test_the_picture_of_the_rooms_has_each_room() -> None:
    """Drawn by ``python -m site_pages.rooms``; draw it again after a change of the contracts."""
    drawn = re.findall(r">([a-z_]+)/?</text>", text_of(ROOT / "docs" / "rooms.svg"))
    rooms = columns()
    assert sorted(drawn) == sorted(
        [*rooms, *(room for layers in rooms.values() for one in layers for room in one)]
    )


# --- the tour ------------------------------------------------------------------------------------------


def test_the_tour_has_ten_files_and_the_names_to_read_are_in_them() -> None:
    stops = re.findall(r"^## (\d+)\. (\S+)\n\nRead: (.+)$", TOUR, re.MULTILINE)
    assert [int(number) for number, _, _ in stops] == list(range(1, 11))
    for _, path, read in stops:
        assert set(re.findall(r"`([^`]+)`", read)) - names_in(ROOT / path) == set(), path


def test_every_name_that_the_tour_puts_beside_a_file_is_in_it() -> None:
    """Such as `plan` (`model/examples/examples.py`)."""
    pairs = re.findall(r"`([\w.]+)`\s+\(`([\w/]+\.py)`", TOUR)
    assert len(pairs) > 8
    assert [(name, path) for name, path in pairs if name not in names_in(ROOT / path)] == []


# --- sections, commands, keys --------------------------------------------------------------------------


def test_sections_that_the_code_refers_to_are_there() -> None:
    sections = set(re.findall(r"^## (\d+)\. ", ARCHITECTURE, re.MULTILINE))
    texts = {path.relative_to(ROOT).as_posix(): text_of(path) for path in CODE}
    named = {
        (path, one) for path, text in texts.items() for one in re.findall(r"ARCHITECTURE section (\d+)", text)
    }
    assert len(named) > 0
    assert [(path, one) for path, one in sorted(named) if one not in sections] == []
    inside = re.findall(r"\(section (\d+)\)|\bin section (\d+)|, section (\d+)", ARCHITECTURE)
    assert {one for found in inside for one in found if one} <= sections
    assert [path for path, text in texts.items() if re.search("DESIGN" + " section", text)] == []


def commands() -> set[str]:
    group: Any = typer.main.get_command(app)
    return set(group.commands)


def readme_table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, cell by cell, without its head."""
    section = text_of(ROOT / "README.md").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\) \| ", row.strip("| ")) for row in rows[1:]]


def in_code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_readme_has_a_row_for_every_command() -> None:
    named = {code.split()[0] for row in readme_table("Commands") for code in in_code(row[0])}
    assert named == commands()


def test_the_keys_of_the_readme_are_there_and_have_the_defaults_that_it_says() -> None:
    """A default that depends on others is not set; it is in words, or names the key that it follows."""
    settings: dict[str, Any] = Settings.model_validate({"relations": {"NAME": {}}}).model_dump(mode="json")
    rows = readme_table("Configuration")
    assert len(rows) > 10
    for row in rows:
        values = list[Any]()
        for key in in_code(row[0]):
            value: Any = settings
            for part in key.split("."):
                value = value[part]
            values.append(value)
        if len(row) == 3 and None not in values:
            written = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
            assert in_code(row[1]) == written, row


def test_commands_of_make_are_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    used = {
        one for page in PAGES for one in re.findall(r"(?:`|^)make ([a-z-]+)", text_of(page), re.MULTILINE)
    }
    assert used - targets == set()
    assert "test" in used


def test_a_source_archive_has_what_readme_links_to() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    kept = project["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    linked = {
        link.partition("#")[0] for link in LINK.findall(text_of(ROOT / "README.md")) if "://" not in link
    }
    assert {link for link in linked if link and link.split("/")[0] not in kept} == set(), json.dumps(kept)


def test_each_dependency_has_its_reason() -> None:
    """A row of docs/dependencies.md for each that pyproject.toml declares, and none for another."""
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    declared = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    names = {re.split(r"[\[<>=; ]", one)[0].lower() for one in declared} - {"driftgraph"}
    cells = re.findall(r"^\| ([a-z0-9, -]+) \| ", text_of(ROOT / "docs" / "dependencies.md"), re.MULTILINE)
    assert {name for cell in cells for name in cell.split(", ")} - {
        "package",
        "quixstreams",
        "feast",
    } == names
