"""The reference of the command line as a page, from what ``--help`` knows.

the commands, their arguments and options ──► [page] ──► docs/commands.md
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

import typer.main

from driftgraph.app.cli.main import app

HEAD = """# Command reference

This page is written by `python -m site_pages` from the commands themselves: change a text there, not here.

Each command has `--help`, and each that answers has `--json` with the same facts. The result goes to stdout, progress and
errors to stderr. Exit code 0: done; 1: failed; 2: wrong usage or configuration; 3: `retrain` made a fit that the gate
rejected. A failure is one sentence that says what to do.
"""


def page() -> str:
    """The whole page, as Markdown."""
    group: Any = typer.main.get_command(app)
    return "\n".join([HEAD.rstrip("\n"), *_commands(group, "driftgraph")]) + "\n"


def _commands(group: Any, above: str) -> Iterator[str]:
    for name in sorted(group.commands):
        command = group.commands[name]
        path = f"{above} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, path)
        else:
            yield from _command(command, path)


def _command(command: Any, path: str) -> Iterator[str]:
    parameters = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option" and "--help" not in one.opts]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *(_usage(one) for one in arguments)])
    yield from ("", f"## {path}", "", *_prose(command.help), "", "```text", usage, "```")
    rows = [(f"`{_usage(one)}`", "", getattr(one, "help", None) or "") for one in arguments]
    rows += [(_names(one), _default(one), one.help or "") for one in options]
    if rows:
        yield from ("", "| argument, option | default | what it does |", "|---|---|---|")
        yield from (f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)


def _prose(text: str | None) -> list[str]:
    """The command's own words: paragraphs as they are, and the examples in it as code."""
    lines = inspect.cleandoc(text or "").replace("\b\n", "").splitlines()
    return ["" if line.strip() == "\f" else line.replace("<", "&lt;") for line in lines]


def _usage(argument: Any) -> str:
    written = argument.metavar or argument.human_readable_name.upper()
    bare = re.sub(r"^\[(.*)\]$", r"\1", written.removesuffix("..."))
    many = "..." if argument.nargs == -1 else ""
    return f"{bare}{many}" if argument.required else f"[{bare}]{many}"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    annotation = option.type_descriptor.annotation
    choices = "|".join(map(str, typing.get_args(annotation)))  # of a Literal
    return f"{names} {option.metavar or choices or annotation.__name__.upper()}"


def _default(option: Any) -> str:
    default = option.default
    if default is None or callable(default) or option.is_flag or default in ((), []):
        return ""
    return f"`{default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[*]", "`[*]`")
