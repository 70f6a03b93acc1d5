"""The documentation's site: what is generated is up to date, and no page loads anything from another host."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from site_pages.__main__ import PAGES
from site_pages.configuration import WHO, who_sets
from site_pages.hooks import on_page_markdown

from driftgraph.app.config.settings import Settings
from tests.test_documents import ROOT, commands


@pytest.mark.parametrize("name", PAGES)
def test_each_generated_page_is_what_the_code_writes(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run: python -m site_pages"


def test_every_key_is_in_the_reference_with_somebody_who_sets_it() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", PAGES["configuration.md"](), re.MULTILINE)
    assert len(rows) == len(set(rows))
    settings = Settings.model_validate({"relations": {"NAME": {}}}).model_dump(mode="json")
    assert set(rows) == set(leaves(settings))
    used = {who_sets(key) for key in rows}
    assert used == set(WHO.values()) == {"everyone", "data", "modeling", "operations"}
    with pytest.raises(ValueError, match="add nothing to WHO"):
        who_sets("nothing.of_this_name")


def leaves(tree: dict[str, object], path: str = "") -> list[str]:
    found = list[str]()
    for name, value in tree.items():
        key = f"{path}.{name}" if path else name
        found += leaves(value, key) if isinstance(value, dict) and value else [key]
    return found


def test_every_command_is_in_the_reference() -> None:
    named = set(re.findall(r"^## driftgraph (\w+)", PAGES["commands.md"](), re.MULTILINE))
    assert named == commands()


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("faq.md", "[a](../examples/README.md)", "[a](examples/README.md)"),
        ("CONTRIBUTING.md", "[a](docs/TOUR.md#x)", "[a](TOUR.md#x)"),
        ("examples/shop/README.md", "[a](../../docs/formats.md)", "[a](../../formats.md)"),
        ("formats.md", '```json message\n{"a": 1}\n```', '```json\n{"a": 1}\n```'),
    ],
)
def test_links_lead_to_the_same_file_on_the_site_as_in_the_repository(
    source: str, before: str, after: str
) -> None:
    class File:
        src_uri = source

    class Page:
        file = File

    assert on_page_markdown(before, Page) == after


class Loads(HTMLParser):
    """The addresses that a page makes a browser load: scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        relation = set((named.get("rel") or "").split())
        if tag in ("script", "img", "iframe", "source", "video") and named.get("src"):
            self.found.append(named["src"] or "")
        if tag == "link" and relation & {
            "stylesheet",
            "icon",
            "preload",
            "preconnect",
            "dns-prefetch",
            "manifest",
        }:
            self.found.append(named.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_whole_and_loads_nothing_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    names = {path.relative_to(site).as_posix() for path in pages}
    sources = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for path in (ROOT / "docs").glob("*.md")
    }
    assert sources | {"examples/shop/index.html", "CHANGELOG.html"} <= names
    outside = dict[str, list[str]]()
    for path in pages:
        loads = Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        assert len(loads.found) > 2, f"{path} loads no style and no script: the test reads it wrongly"
        if others := [address for address in loads.found if re.match(r"(https?:)?//", address)]:
            outside[path.name] = others
    assert outside == {}
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)'\"]*", styles) == []


def test_the_pictures_of_the_site_are_there(site: Path) -> None:
    for path in sorted(site.rglob("*.html")):
        for source in re.findall(r'<img [^>]*src="([^"]+)"', path.read_text(encoding="utf-8")):
            assert (path.parent / source).exists(), f"{path.relative_to(site)}: {source}"
