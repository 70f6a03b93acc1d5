"""The command that puts a file of events on Kafka."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftgraph.app.cli.shared_options import (
    ColumnsOption,
    ConfigOption,
    FormatOption,
    JsonOption,
    NoHeaderOption,
    RelationsOption,
    SeparatorOption,
    check_file,
    events_of,
    names_of,
    print_result,
    read_settings,
)

if TYPE_CHECKING:
    from rich.console import Console

    from driftgraph.app.commands.produce import Pace
    from driftgraph.app.config.settings import Settings
    from driftgraph.stream.sources.file_options import FileOptions

_SPEED = re.compile(r"(\d+(?:\.\d+)?)x?", re.ASCII)


def produce(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSONL or Parquet; .gz and .zst too.")],
    topic: Annotated[str | None, typer.Option(metavar="T", help="Instead of kafka.topic.")] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", help="Events a second; default: as fast as it goes.")
    ] = None,
    speed: Annotated[
        str | None, typer.Option(metavar="10x", help="Send as the events happened, so many times as fast.")
    ] = None,
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Instead of kafka.bootstrap_servers.")
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, metavar="N", help="How many a topic gets that is not there yet."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also send events that the topic would not keep.")
    ] = False,
    config: ConfigOption = None,
    relations: RelationsOption = None,
    columns: ColumnsOption = None,
    no_header: NoHeaderOption = False,
    separator: SeparatorOption = None,
    format_: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a file of events on Kafka.

    Each becomes a record of canonical JSON, with the user as its key and the event's time as its time. A file
    that is not in order of time is sorted. Rows of the file that make no event are left out and counted. A
    topic that is not there is made, and keeps everything; one that would remove the events since they are too
    old is refused, unless --force is given. Ctrl-C ends it; what was sent until then is reported.
    """
    check_file(file, "name a CSV, JSONL or Parquet file of events")
    pace = _pace(rate, speed)
    options = {
        "kafka": {"topic": topic, "bootstrap_servers": bootstrap},
        "events": events_of(format_, columns, no_header=no_header, separator=separator),
    }
    settings = read_settings(ctx, config, options)

    from driftgraph.app.commands import produce as producing
    from driftgraph.app.console.progress import progress_on_stderr
    from driftgraph.stream.time.clock import SystemClock

    with progress_on_stderr() as progress:
        report = producing.produce(
            settings.kafka.librdkafka(),
            settings.kafka.topic,
            file,
            _file_options(settings, relations),
            pace=pace,
            partitions=partitions,
            progress=progress,
            clock=SystemClock(),
            force=force,
        )
    print_result(as_json, report.to_json(), _print_report)


def _file_options(settings: Settings, relations: str | None) -> FileOptions:
    """Options that take the whole file, unless the command line chooses: topic readers have rules, too."""
    from dataclasses import replace

    from driftgraph.app.commands.sort_folder import folder_for_sorting
    from driftgraph.app.config.builders import file_options
    from driftgraph.stream.formats.event_rules import Others

    return replace(
        file_options(settings),
        relations=None if relations is None else tuple(names_of(relations)),
        others=Others.IGNORE,
        impressions=(),  # they are sent as all others
        ignore=(),
        sort_in=folder_for_sorting(settings.data_dir),
    )


def _pace(rate: float | None, speed: str | None) -> Pace:
    from driftgraph.app.commands.produce import AtOnce, EventsPerSecond, EventTime

    if rate is not None and speed is not None:
        raise typer.BadParameter("give --rate or --speed, not both", param_hint="--rate")
    if rate is not None:
        if not 0 < rate < float("inf"):
            raise typer.BadParameter(f"{rate:g} should be above 0", param_hint="--rate")
        return EventsPerSecond(rate)
    if speed is None:
        return AtOnce()
    match = _SPEED.fullmatch(speed)
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{speed!r} should be a number above 0, such as 10x", param_hint="--speed")
    return EventTime(float(match[1]))


def _print_report(report: dict[str, Any], out: Console) -> None:
    made = " (made now)" if report["created"] else ""
    ended = "interrupted: " if report["interrupted"] else ""
    text = (
        f"{ended}{report['produced']:,} events to {report['topic']}{made} in {report['seconds']:.1f} s, "
        f"{report['events_per_second']:,.0f} a second"
    )
    if report["rejected"]:
        text += f"; {report['rejected']:,} rows left out, such as {report['example']}"
    if report["erased"]:
        text += f"; {report['erased']:,} of them requests to erase a user"
    if report["ignored"]:
        text += f"; {report['ignored']:,} of other behaviors"
    if report["warning"]:
        text += f"\nwarning: {report['warning']}"
    out.print(text, markup=False, highlight=False, soft_wrap=True)
