"""``driftgraph validate``: what would become of a sample of events, before anything depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftgraph.app.cli_common import ConfigOption, JsonOption, print_result, read_settings
from driftgraph.app.errors import DriftgraphError

if TYPE_CHECKING:
    from rich.console import Console

TOPIC_PREFIX = "kafka:"


def validate(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FILE|kafka:TOPIC", help="Events as they come.")],
    config: ConfigOption = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Instead of events.format.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            min=1,
            metavar="N",
            help="About how many messages to look at: the newest of a topic, the first blocks of a file.",
        ),
    ] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Look at events with the configured format: what would be applied, what rejected, and why.

    Writes nothing and commits nothing. Exits 0 if no event is rejected, 1 otherwise.
    """
    settings = read_settings(ctx, config, {"events": {"format": format_}})
    from driftgraph.app import validate as validation

    if source.startswith(TOPIC_PREFIX):
        report = validation.validate_topic(settings, source.removeprefix(TOPIC_PREFIX), limit)
    elif Path(source).exists():
        report = validation.validate_file(settings, Path(source), limit)
    else:
        raise DriftgraphError(f"{source}: no such file; name a file of events, or a topic as kafka:TOPIC")
    print_result(as_json, report.to_json(), print_report)
    if report.rejected:
        raise typer.Exit(1)


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """What was read, then a table of what would become of it, with one example for each reason."""
    from rich.table import Table
    from rich.text import Text

    events, times = report["events"], report["times"]
    console.print(
        f"{report['source']} as {report['format']}: {events['read']:,} events, "
        f"{events['applied']:,} would be applied, {events['rejected']:,} rejected",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if times["from"]:
        console.print(f"event times from {times['from']} to {times['to']}", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("becomes")
    table.add_column("events", justify="right")
    for relation, count in report["relations"].items():
        table.add_row(Text(f"edge {relation}", "green"), f"{count:,}")
    for what, count, style in (
        ("ignored", events["ignored"], "dim"),
        ("  of them records without a value", report["ignored_tombstones"], "dim"),
        ("request to erase", events["erased"], "yellow"),
    ):
        if count:
            table.add_row(Text(what, style), f"{count:,}")
    for fault in report["rejected"]:
        table.add_row(Text(f"rejected, {fault['reason']}", "red"), f"{fault['count']:,}")
    console.print(table)
    for fault in report["rejected"]:
        example = fault["example"]
        console.print()
        console.print(Text(f"{fault['reason']}, such as {example['origin']}", "bold"), soft_wrap=True)
        console.print(Text(f"  {example['detail']}"), soft_wrap=True)
        console.print(Text(f"  {example['payload']}", "dim"), soft_wrap=True)
