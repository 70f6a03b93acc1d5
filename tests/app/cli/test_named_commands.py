"""Every ``driftgraph …`` that a document, a message, an alert or the page names is one that the CLI takes."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from driftgraph.app.cli.main import app

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
PAGES = [
    path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
    if path.name != "LOG.md"  # it tells of what was
]
TEXTS = {
    "alerts.yml": yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8")),
    "dashboard.json": json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8")),
}
SOURCES = [path for name in ("app", "model", "snapshots", "stream") for path in (ROOT / name).rglob("*.py")]
OF_THE_PAGE = [*(ROOT / "app" / "web" / "page").glob("*.js"), ROOT / "app" / "web" / "page" / "index.html"]
# what follows the name where a sentence is about driftgraph and names no command
IN_SENTENCES = {"and", "answered", "cannot", "does", "in", "itself", "on", "reads", "since", "started"}


def refused(words: list[str]) -> str | None:
    """Why the command line does not take these words after ``driftgraph``; values are not looked at."""
    command: Any = get_command(app)
    context = command.context_class(command, info_name="driftgraph")
    while below := getattr(command, "commands", {}):
        if not words or words[0].startswith("-"):
            break
        if words[0] not in below:
            return f"there is no command {words[0]!r}"
        command, words = below[words[0]], words[1:]
        context = command.context_class(command, parent=context)
    try:
        _, rest, _ = command.make_parser(context).parse_args(list(words))
    except Exception as error:  # Typer has its own copy of click: its errors have no one name
        return f"{type(error).__name__}: {error}"
    return f"too many arguments: {rest}" if rest else None


def in_page(text: str) -> Iterator[list[str]]:
    """The words after ``driftgraph`` of each line of shell, and of each code in a sentence."""
    blocks = re.findall(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", prose)]:
        for part in re.split(r"\||&&|;|>|<", line):
            said = re.fullmatch(r"(?:.*\s)?driftgraph driftgraph (.+)|\s*driftgraph (.+)", part)
            if said is not None:
                words = shlex.split((said[1] or said[2]).replace("…", " "), comments=True)
                yield [word for word in words if word != "&"]


def in_sentence(text: str) -> Iterator[list[str]]:
    """The words after ``driftgraph`` in a sentence: the command, and options that follow it."""
    for said in re.finditer(r"\bdriftgraph((?: [a-z]+\b)?)((?: [a-z]+\b)?)", text):
        if said[1] and said[1].strip() not in IN_SENTENCES:
            yield [word.strip() for word in (said[1], said[2]) if word]


def messages() -> Iterator[tuple[str, str]]:
    """Every text of the code that is no docstring, by the file that it is in."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield path.name, node.value
    for path in OF_THE_PAGE:
        yield path.name, path.read_text(encoding="utf-8")
    for name, value in TEXTS.items():
        yield name, str(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_is_taken(page: Path) -> None:
    text = re.sub(r"^driftgraph .*\[OPTIONS\].*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = list(in_page(text))
    assert [(words, why) for words in named if (why := refused(words)) is not None] == []


def test_every_command_of_a_message_an_alert_and_the_web_page_is_taken() -> None:
    """The command's name, and a subcommand's: what follows may be the sentence going on."""
    group: Any = get_command(app)
    wrong = []
    for place, text in messages():
        for words in in_sentence(text):
            below = getattr(group.commands.get(words[0]), "commands", {})
            if words[0] not in group.commands or (below and words[1:] and words[1] not in below):
                wrong.append((place, words))
    assert wrong == []


def test_the_pages_and_messages_are_read_at_all() -> None:
    named = [words for page in PAGES for words in in_page(page.read_text(encoding="utf-8"))]
    assert ["status", "--check"] in named
    assert ["recommend", "u42", "--top", "5", "--why"] in named
    said = [words for _, text in messages() for words in in_sentence(text)]
    assert {words[0] for words in said} >= {"doctor", "run", "promote", "dlq", "status"}


@pytest.mark.parametrize(
    "words",
    [["doctr"], ["dlq", "list"], ["status", "--checks"], ["rollback", "12"], ["recommend", "u1", "--top"]],
)
def test_what_the_command_line_does_not_take_is_seen(words: list[str]) -> None:
    assert refused(words) is not None
