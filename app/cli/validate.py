"""``driftgraph validate``: judges a sample of events before anything depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftgraph.app.cli.shared_options import (
    ColumnsOption,
    ConfigOption,
    DataDirOption,
    DimOption,
    FitEveryOption,
    ImpressionsOption,
    JsonOption,
    NoHeaderOption,
    PredictionsOption,
    RelationsOption,
    SeedOption,
    SeparatorOption,
    SpanOption,
    TargetOption,
    check_file,
    events_of,
    print_as_json,
    print_result,
    replay_settings,
)
from driftgraph.stream.errors import DriftgraphError

if TYPE_CHECKING:
    from rich.console import Console

    from driftgraph.app.commands.validate import Report
    from driftgraph.app.config.settings import Settings

TOPIC_PREFIX = "kafka:"


def validate(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="FILE|kafka:TOPIC", help="A file of events, or a topic of Kafka.")
    ],
    config: ConfigOption = None,
    relations: RelationsOption = None,
    impressions: ImpressionsOption = None,
    columns: ColumnsOption = None,
    no_header: NoHeaderOption = False,
    separator: SeparatorOption = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Instead of events.format.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            metavar="N",
            help="About how many messages to look at: the newest of a topic (default: 10,000), the first "
            "blocks of a file (default: all of it).",
        ),
    ] = None,
    redis: TargetOption = None,
    data_dir: DataDirOption = None,
    fit_every: FitEveryOption = None,
    span: SpanOption = None,
    dim: DimOption = None,
    seed: SeedOption = None,
    predictions: PredictionsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which events would be applied, which rejected, and why.

    Reads them in the configured format. Takes every option of replay, so that a replay can be tried with its
    own command line; those about fits and publishing are checked and change nothing here. Writes nothing and
    commits nothing. Exits with 0 if no event is rejected, with 1 otherwise.
    """
    settings = replay_settings(
        ctx,
        config,
        relations=relations,
        events=events_of(format_, columns, no_header=no_header, separator=separator, impressions=impressions),
        redis=redis,
        data_dir=data_dir,
        fit_every=fit_every,
        span=span,
        dim=dim,
        seed=seed,
    )
    if predictions is not None:
        from driftgraph.app.commands.prediction_place import check_predictions

        check_predictions(predictions)
    try:
        report = _validated(settings, source, limit)
    except DriftgraphError as error:
        if as_json and error.exit_code == 1:  # nothing can be read: the report for programs says so
            print_as_json(_unreadable(source, settings, str(error)))
        raise
    print_result(as_json, report.to_json(), print_report)
    if report.rejected or not report.is_usable:
        raise typer.Exit(1)


def _validated(settings: Settings, source: str, limit: int | None) -> Report:
    from driftgraph.app.commands.validate import validate_file, validate_topic

    if source.startswith(TOPIC_PREFIX):
        return validate_topic(settings, source.removeprefix(TOPIC_PREFIX), limit)
    check_file(Path(source), "name a file of events, or a topic as kafka:TOPIC")
    return validate_file(settings, Path(source), limit)


def _unreadable(source: str, settings: Settings, why: str) -> dict[str, Any]:
    from driftgraph.app.commands.validate import Report

    return Report(source, settings.events.format or "", error=why).to_json()


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print what was read, then a table of the results with one example for each reason."""
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
    for line in report["notes"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("becomes")
    table.add_column("events", justify="right")
    for relation, count in report["relations"].items():
        table.add_row(Text(f"edge {relation}", "green"), f"{count:,}")
    for name, count in report["impressions"].items():
        table.add_row(Text(f"shown, {name}", "green"), f"{count:,}")
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
