"""``driftgraph doctor``: checks everything that a run needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from driftgraph.app.cli.shared_options import ConfigOption, JsonOption, print_result, read_settings

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check everything that a run needs.

    Looks at Kafka, a sample of events, the window's capacity and memory, data_dir, Redis and the device.
    Writes nothing but keys of its own in Redis and a probe in data_dir, and removes them. Exits with 0 if
    nothing failed, with 1 otherwise.
    """
    settings = read_settings(ctx, config)
    from driftgraph.app.commands.doctor.checks import examine

    findings = examine(settings)
    print_result(as_json, findings.to_json(), print_findings)
    if not findings.healthy:
        raise typer.Exit(1)


def print_findings(findings: Mapping[str, Any], console: Console) -> None:
    """Print one line for each check."""
    from rich.text import Text

    for check in findings["checks"]:
        state = (f"{check['state']:5}", STYLES[check["state"]])
        console.print(Text.assemble(state, f"{check['name']}: {check['detail']}"), soft_wrap=True)
