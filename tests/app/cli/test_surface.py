"""The surface of the command line: every command and option is pinned, and shells complete them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from driftgraph.app.cli.main import app

GOLDEN = Path(__file__).parents[2] / "golden" / "commands.txt"
ROOT = Path(__file__).parents[3]


def surface(command: Any, path: str = "driftgraph") -> Iterator[str]:
    """A line for each command and one for each of its options and arguments.

    Typer has its own copy of click from 0.26 on, so the classes have no one name.
    """
    below = getattr(command, "commands", {})
    if not below:
        yield path
    for one in command.params:
        is_option = one.param_type_name == "option"
        name = " ".join([*one.opts, *one.secondary_opts]) if is_option else one.name.upper()
        value = " VALUE" if is_option and not one.is_flag else ""
        yield f"{path} {name}{value}{' (required)' if one.required else ''}"
    for name in sorted(below):
        yield from surface(below[name], f"{path} {name}")


def commands() -> list[str]:
    """All commands, by their golden lines."""
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if all(word.islower() and word.isalpha() for word in line.split())]


def test_every_command_and_option_is_pinned() -> None:
    found = list(surface(get_command(app)))
    known = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert found == known, "a script of somebody may name it: change the golden file knowingly"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in commands():
        assert f"`{command.removeprefix('driftgraph ')}" in text, command


# --- shells ----------------------------------------------------------------------------------------------


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``driftgraph`` is a command, as after an install."""
    program = tmp_path / "driftgraph"
    program.write_text(f"#!{sys.executable}\nfrom driftgraph.app.cli.main import main\nmain()\n")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def completed(line: str, environment: dict[str, str]) -> set[str]:
    """What bash offers behind ``line``, by the function that the script registers."""
    bash = shutil.which("bash")
    assert bash is not None, "the tests run where bash is"
    code = (
        'eval "$(driftgraph --show-completion bash)"\n'
        "words=($1); [[ $1 == *' ' ]] && words+=('')\n"
        'COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMP_LINE=$1; COMP_POINT=${#1}\n'
        "function=$(complete -p driftgraph | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        '$function driftgraph "${words[-1]}" ""\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", code, "bash", line],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {word.strip() for word in done.stdout.splitlines()}


def test_bash_completes_commands_and_options(on_path: dict[str, str]) -> None:
    environment = {**on_path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # a shell is named instead
    assert completed("driftgraph st", environment) == {"status"}
    assert completed("driftgraph config ", environment) == {"show", "check"}
    assert completed("driftgraph status --w", environment) == {"--watch"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str, on_path: dict[str, str]) -> None:
    environment = {**on_path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        ["driftgraph", "--show-completion", shell],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"complete_{shell}" in done.stdout
    assert "driftgraph" in done.stdout
