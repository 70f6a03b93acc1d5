"""The page's files: all are served as they are, whole and from here, and nothing else is."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from driftgraph.app.web.page_files import FOLDER, POLICY, PageFiles
from tests.app.web.serving import Port, served, settings_of, updater_says

FILES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".LICENSE")
OURS = [path for path in FILES if not path.name.startswith("uplot")]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    folder = tmp_path_factory.mktemp("page")
    updater_says(folder)
    with served(settings_of(folder, "redis://127.0.0.1:1")) as found:
        yield found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_served_as_it_is(port: Port, path: Path) -> None:
    where = "/" if path.name == "index.html" else f"/page/{path.name}"
    with urllib.request.urlopen(port.address + where, timeout=30) as answer:
        assert answer.read() == path.read_bytes()
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        kind = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
        assert answer.headers["Content-Type"] == f"{kind[path.suffix]}; charset=utf-8"


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2fanswers.py", "%2e%2e%2f%2e%2e%2fpyproject.toml", "uplot.LICENSE", "%00", "é"]
)
def test_nothing_else_is_served(port: Port, name: str) -> None:
    assert port.ask(f"/page/{name if name != 'é' else '%C3%A9'}")[0] == 404


def test_answers_that_are_no_page_may_load_nothing(port: Port) -> None:
    with urllib.request.urlopen(port.address + "/livez", timeout=30) as answer:
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_the_page_has_no_inline_script_or_style_and_loads_nothing_from_elsewhere() -> None:
    for path in OURS:
        text = path.read_text(encoding="utf-8")
        elsewhere = re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+|[\"'(]//\w", text)
        assert elsewhere == [], path.name
        assert "innerHTML" not in text, f"{path.name}: texts of events go into the page as text"
        assert "eval(" not in text
    index = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)", index) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", index) == []
    assert "unsafe" not in POLICY


def test_each_file_that_the_page_names_is_there_and_each_is_named() -> None:
    files = PageFiles()
    named = {"index.html"}
    for path in OURS:
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r'/page/([\w.-]+)|from "\./([\w.-]+)"', text) and [
            first or second for first, second in re.findall(r'/page/([\w.-]+)|from "\./([\w.-]+)"', text)
        ])  # fmt: skip
    assert named == {path.name for path in FILES}
    assert all(files.answer(name) is not None for name in named)


def test_a_wheel_has_every_file_of_the_page() -> None:
    root = Path(__file__).parents[3]
    packed = {one.distribution_path for one in WheelBuilder(str(root)).recurse_included_files()}
    wanted = {f"driftgraph/app/web/page/{path.name}" for path in FOLDER.iterdir()}
    assert wanted <= packed


def test_the_chart_library_stands_beside_its_license() -> None:
    assert "MIT License" in (FOLDER / "uplot.LICENSE").read_text(encoding="utf-8")
    assert "uPlot (v1." in (FOLDER / "uplot.iife.min.js").read_text(encoding="utf-8")[:100]
