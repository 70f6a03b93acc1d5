"""``driftgraph retrain``: one fit now, for cron, Airflow and people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftgraph.app.cli.shared_options import ConfigOption, JsonOption, print_result, read_settings

if TYPE_CHECKING:
    from rich.console import Console


def retrain(
    ctx: typer.Context,
    full: Annotated[
        bool,
        typer.Option("--full", help="Draw the items towards the closed form of the whole window first."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make one fit now, and publish it if the gate accepts it.

    Where an updater works in data_dir, its worker makes the fit, after the one that it may be at, and this
    command waits for it. Where none works, this command holds its lock and lease meanwhile, and trains on the
    window of the newest checkpoint: an updater that is started waits until it has ended.

    Exits with 0 if a generation was published or no event has come since the last fit, with 3 if the gate
    rejected the fit, and with 1 if it could not be made, or if an operator holds what is served. If it is
    killed, what was saved is published by the next start of either.
    """
    from driftgraph.app.commands import retrain as retraining
    from driftgraph.app.console.progress import progress_on_stderr

    settings = read_settings(ctx, config)
    with progress_on_stderr() as progress:
        told = retraining.retrain(settings, full=full, progress=progress)
    print_result(as_json, told, _print)
    if code := retraining.EXIT_CODES[told["outcome"]]:
        raise typer.Exit(code)


def _print(told: Mapping[str, Any], out: Console) -> None:
    from driftgraph.app.console.status_text import named

    version = told["model_version"]
    served = named(told["generation"], version) if version else "what Redis has"  # before any rollback
    sentences = {
        "published": f"published: {served}, trained on {told['new_examples']:,} new events",
        "nothing new": f"no event has come since the last fit, which made {served}",
        "held": f"no fit was made: {told['reason']}",
        "rejected": f"the gate rejected the fit, and {served} stays: {told['reason']}",
    }
    out.print(sentences[told["outcome"]], markup=False, highlight=False, soft_wrap=True)
