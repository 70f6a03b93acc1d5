"""The parts that all commands share: common options, the configuration, and the output of a result."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from driftgraph.app.config.settings import Settings, Tree

COLUMNS = ("user", "item", "behavior", "ts", "event_id")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The configuration; default: driftgraph.toml in this folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RelationsOption = Annotated[
    str | None,
    typer.Option(
        "--relations",
        metavar="A,B",
        help="The relations; default: the configured ones, or all that are found.",
    ),
]
ImpressionsOption = Annotated[
    str | None,
    typer.Option(
        "--impressions",
        metavar="A,B",
        help="Behaviors that say what was shown and make no edge, instead of events.impressions.",
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="user=…,item=…,behavior=…,ts=…",
        help="Which column has what, by name or by number from 0.",
    ),
]
NoHeaderOption = Annotated[
    bool, typer.Option("--no-header", help="The first line is an event and has no names.")
]
SeparatorOption = Annotated[
    str | None,
    typer.Option(
        "--separator",
        metavar=r"';'",
        help="Between the fields of a CSV; default: a comma, or a tab in a .tsv.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="csv|taobao|json|parquet",
        help="How events are written down; default: by the file's name.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL|embedded|none",
        help="Where to publish; default: the configured Redis, or else one of its own (embedded).",
    ),
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="Instead of data_dir.")]
FitEveryOption = Annotated[
    str | None,
    typer.Option(
        "--fit-every", metavar="6h", help='Event time between two fits or "auto", instead of fit.every.'
    ),
]
SpanOption = Annotated[
    str | None,
    typer.Option("--span", metavar="30d", help="Span of relations that name none, instead of window.span."),
]
DimOption = Annotated[
    int | None, typer.Option("--dim", metavar="N", help="Length of an embedding, instead of model.dim.")
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Seed of all random numbers, instead of the key seed."),
]
PredictionsOption = Annotated[
    Path | None,
    typer.Option(
        "--predictions", metavar="FILE.parquet", help="Write the 20 best items for each evaluated event."
    ),
]
RedisOption = Annotated[str | None, typer.Option("--redis", metavar="URL", help="Instead of redis.url.")]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help="Instead of redis.namespace.")
]


@dataclass
class Invocation:
    """Facts about the running command, for an error message."""

    data_dir: Path = Path("var")
    secrets: frozenset[str] = frozenset()  # the secrets of the configuration, once it is read
    fails_in_log: bool = False  # a failure is a line of the log: stderr is JSON
    nothing_is_set: bool = False  # there is no file here, and no variable: perhaps it is the wrong folder

    def hidden(self, text: str) -> str:
        """A text from outside, such as a traceback, without its addresses and secrets."""
        from driftgraph.stream.addresses import HIDDEN, without_addresses

        text = without_addresses(text)
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text


def read_settings(ctx: typer.Context, config: Path | None, options: Tree | None = None) -> Settings:
    """Read the configuration, and note its data_dir and secrets for errors and temporary files."""
    from driftgraph.app.config.settings import FILE_NAME, load
    from driftgraph.app.config.tables.sections import ENV_PREFIX
    from driftgraph.app.config.text import secrets_of
    from driftgraph.app.console.writable import settle

    settings = load(config, _given(options or {}))
    if isinstance(ctx.obj, Invocation):
        are_set = any(name.upper().startswith(ENV_PREFIX) for name in os.environ)
        ctx.obj.nothing_is_set = config is None and not Path(FILE_NAME).exists() and not are_set
        ctx.obj.data_dir = settings.data_dir
        ctx.obj.secrets = secrets_of(settings)
    settle(settings.data_dir)
    return settings


def replay_settings(
    ctx: typer.Context,
    config: Path | None,
    *,
    relations: str | None,
    events: dict[str, Any],
    redis: str | None,
    data_dir: Path | None,
    fit_every: str | None,
    span: str | None,
    dim: int | None,
    seed: int | None,
) -> Settings:
    """The configuration with the options of replay, which validate takes, too."""
    options = {
        "data_dir": data_dir,
        "seed": seed,
        "fit": {"every": fit_every},
        "window": {"span": span},
        "model": {"dim": dim},
        "events": events,
        "redis": {"url": redis if redis not in ("embedded", "none") else None},
    }
    settings = read_settings(ctx, config, options)
    return settings if relations is None else settings.with_relations(names_of(relations))


def _given(options: Tree) -> dict[str, Any]:
    """The options that were given, without None and empty tables."""
    trees = {k: _given(v) if isinstance(v, dict) else v for k, v in options.items()}
    return {k: v for k, v in trees.items() if v is not None and v != {}}


def print_result(as_json: bool, value: Any, for_people: Callable[[Any, Console], object]) -> None:
    """Print the result as JSON, or with ``for_people``."""
    if as_json:
        print_as_json(value)
    else:
        for_people(value, console())


def print_as_json(value: object) -> None:
    """Print the result as one JSON document on stdout."""
    from driftgraph.app.console.output import print_json

    print_json(value)


def console() -> Console:
    """The console for tables on stdout, with color on a terminal only."""
    from rich.console import Console

    return Console()


def check_file(path: Path, what_to_do: str) -> None:
    """Refuse a file that is not there, without showing an address that may hold a secret.

    Raises:
        DriftgraphError: It is not there, or is an address.
    """
    from driftgraph.stream.addresses import HIDDEN, looks_like_address
    from driftgraph.stream.errors import DriftgraphError

    if looks_like_address(str(path)):
        scheme = str(path).partition(":")[0]
        raise DriftgraphError(
            f"{scheme}://{HIDDEN} is an address and no file of this machine; copy it here first"
        )
    if not path.exists():
        raise DriftgraphError(f"{path}: no such file; {what_to_do}")


def names_of(text: str, option: str = "--relations") -> list[str]:
    """The names of --relations, or of another option."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise typer.BadParameter(
            f"{text!r} should be different names with a comma between", param_hint=option
        )
    return names


def events_of(
    format_: str | None,
    columns: str | None,
    *,
    no_header: bool,
    separator: str | None,
    impressions: str | None = None,
) -> dict[str, Any]:
    """The table [events] that the options about a file set."""
    return {
        "format": format_,
        "header": False if no_header else None,
        "separator": separator,
        "impressions": None if impressions is None else names_of(impressions, "--impressions"),
        "columns": columns_of(columns),
    }


def columns_of(text: str | None) -> dict[str, str] | None:
    """The pairs of --columns."""
    if text is None:
        return None
    pairs = [pair.partition("=")[::2] for pair in text.split(",")]
    wrong = next((f"{k}={v}" for k, v in pairs if k.strip() not in COLUMNS or not v.strip()), None)
    if wrong is not None:
        raise typer.BadParameter(
            f"{wrong!r} should be one of {', '.join(COLUMNS)}, '=' and a column", param_hint="--columns"
        )
    return {k.strip(): v.strip() for k, v in pairs}
