"""``driftgraph export``: the window at a cut, for DGL, PyG or anything that reads Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftgraph.app.cli.shared_options import (
    ColumnsOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    NoHeaderOption,
    RelationsOption,
    SeparatorOption,
    SpanOption,
    check_file,
    events_of,
    print_result,
    replay_settings,
)

if TYPE_CHECKING:
    from rich.console import Console


class Form(StrEnum):
    """What the window is written as."""

    DGL = "dgl"
    PYG = "pyg"
    PARQUET = "parquet"


def export(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to write; it must not be there, or be empty.")
    ],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            metavar="dgl|pyg|parquet",
            help="graph.bin for dgl.load_graphs, graph.pt for HeteroData.from_dict(torch.load(…)), or a "
            "Parquet file for each relation.",
        ),
    ] = Form.PARQUET,
    parts: Annotated[
        int | None,
        typer.Option(
            min=2, max=65_536, metavar="N", help="Also put the nodes into N parts, by METIS; needs DGL."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="The window that a replay of this file or folder has at its end, instead of the newest "
            "checkpoint's.",
        ),
    ] = None,
    config: ConfigOption = None,
    relations: RelationsOption = None,
    columns: ColumnsOption = None,
    no_header: NoHeaderOption = False,
    separator: SeparatorOption = None,
    data_dir: DataDirOption = None,
    span: SpanOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the window as a graph for DGL, PyG or Parquet.

    Without --from it is the window of the newest checkpoint in data_dir, which a running updater makes every
    checkpoint.every; the export only reads, and does not disturb it. users.parquet and items.parquet have the
    id of each node. The folder is there whole, with manifest.json, or not at all.
    """
    if source is not None:
        check_file(source, "name a CSV, JSONL or Parquet file of events")
    settings = replay_settings(
        ctx,
        config,
        relations=relations,
        events=events_of(None, columns, no_header=no_header, separator=separator),
        redis=None,
        data_dir=data_dir,
        fit_every=None,
        span=span,
        dim=None,
        seed=None,
    )
    from driftgraph.app.commands import export as exporting
    from driftgraph.app.console.progress import progress_on_stderr

    with progress_on_stderr() as progress:
        told = exporting.export(
            settings, folder, format_=form.value, parts=parts, source=source, progress=progress
        )
    print_result(as_json, told, _print)


def _print(told: Mapping[str, Any], out: Console) -> None:
    from driftgraph.app.console.output import print_pairs, time_of

    edges = [(f"{name} events", count) for name, count in told["edges"].items()]
    parts = told["parts"] or {}
    split = (
        [("parts", parts["count"]), ("events inside a part", f"{parts['events_inside']:.1%}")]
        if parts
        else []
    )
    of = ("checkpoint", told["checkpoint"]) if "checkpoint" in told else ("source", told["source"])
    more: list[tuple[str, object]] = [("model version", n)] if (n := told.get("model_version")) else []
    if generation := told.get("generation"):
        version = told["generation_model_version"]
        what = f"model version {version}" if version else "lists, before a model"
        more.append(("served then", f"generation {generation} ({what})"))
    more += [("events rejected", n)] if (n := told.get("events_rejected")) else []
    print_pairs(
        [
            ("folder", told["folder"]),
            ("format", told["format"]),
            of,
            ("event time", time_of(told["watermark_ms"])),
            *more,
            ("users", told["users"]),
            ("items", told["items"]),
            *edges,
            *split,
        ],
        out,
    )
