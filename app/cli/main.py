"""The command line. Each command parses, builds, calls one function, and prints.

    argv ──► [main] ──► a command ──► run, replay, demo, Redis ──► stdout (result), stderr (progress, errors)

A command imports what it needs inside its function, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from driftgraph.app.cli import (
    delist,
    dlq,
    doctor,
    erase,
    export,
    faust,
    produce,
    retrain,
    serving,
    status,
    validate,
)
from driftgraph.app.cli.shared_options import (
    ColumnsOption,
    ConfigOption,
    DataDirOption,
    DimOption,
    FitEveryOption,
    FormatOption,
    ImpressionsOption,
    Invocation,
    JsonOption,
    NoHeaderOption,
    PredictionsOption,
    RelationsOption,
    SeedOption,
    SeparatorOption,
    SpanOption,
    TargetOption,
    check_file,
    console,
    events_of,
    print_as_json,
    print_result,
    read_settings,
    replay_settings,
)
from driftgraph.stream.errors import ConfigError, DriftgraphError

if TYPE_CHECKING:
    from driftgraph.app.config.settings import Settings

app = typer.Typer(
    name="driftgraph",
    help="Keep a recommender's graph and embeddings as fresh as its event stream.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # main() reports, in one sentence
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
log = logging.getLogger("driftgraph")
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at the configuration.")
app.add_typer(config_app, name="config")
app.add_typer(dlq.dlq_app, name="dlq")


def main() -> NoReturn:
    """Run the command line. Only here an error becomes a sentence and an exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # we have threads; those of BLAS would spin beside them
    invocation = Invocation()
    try:
        app(prog_name="driftgraph", obj=invocation)
    except DriftgraphError as error:
        _fail(str(error), error.exit_code, invocation)
    except OSError as error:
        _fail(_sentence_of(error, invocation), 1, invocation)
    except Exception as error:  # a fault of driftgraph: keep the traceback in a file
        said = invocation.hidden(f"unexpected {type(error).__name__}: {error}")
        _fail(f"{said}; {_keep_traceback(invocation)}", 1, invocation)
    sys.exit(0)


def _fail(sentence: str, exit_code: int, invocation: Invocation) -> NoReturn:
    sentence = " ".join(sentence.split())
    if invocation.nothing_is_set:
        sentence += "; there is no driftgraph.toml in this folder, so every setting has its default"
    if invocation.fails_in_log:
        log.error("%s", sentence)
    else:
        print(f"driftgraph: {sentence}", file=sys.stderr)
    sys.exit(exit_code)


def _sentence_of(error: OSError, invocation: Invocation) -> str:
    place = error.filename if error.filename is not None else invocation.data_dir
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}: the disk is full; free some space or set data_dir to another disk"
    return f"{place}: {error.strerror or error}; check that the path is right and yours to use"


def _keep_traceback(invocation: Invocation) -> str:
    """Write the traceback to data_dir, else to the folder for temporary files; return the path."""
    from driftgraph.stream.time.clock import SystemClock

    name = f"traceback-{SystemClock().now_ms()}.txt"
    for folder in _traceback_folders(invocation):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(invocation.hidden(traceback.format_exc()), encoding="utf-8")
        except OSError:
            continue
        return f"please report it with the traceback in {folder / name}"
    return "its traceback could not be written anywhere"


def _traceback_folders(invocation: Invocation) -> Iterator[Path]:
    yield invocation.data_dir / "errors"
    with suppress(OSError):  # there may be no temporary folder that can be written
        yield Path(tempfile.gettempdir())


@app.command()
def init(
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a driftgraph.toml that explains every key."""
    from driftgraph.app.config.settings import FILE_NAME
    from driftgraph.app.config.text import starter_file
    from driftgraph.stream import disk

    path = config or Path(FILE_NAME)
    if path.exists() and not force:
        raise DriftgraphError(f"{path} is already there; give --force to replace it")
    disk.write_whole(path, starter_file().encode())
    if as_json:
        print_as_json({"path": str(path)})
    else:
        print(
            f"wrote {path}: set kafka, relations and redis there, check with driftgraph doctor -c {path}, "
            f"then start with driftgraph run -c {path}"
        )


@app.command()
def run(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Follow the topic and publish, until SIGTERM or Ctrl-C.

    Appends events to the window, fits the model to them, and keeps the vectors in Redis fresh. A second run
    with the same name or data_dir waits as a standby. Exits with 1 if it cannot go on, with a sentence why.
    """
    from driftgraph.app.config import saved_model

    settings = read_settings(ctx, config)
    from driftgraph.app.console import logs

    logs.set_up(settings, "updater")
    if isinstance(ctx.obj, Invocation):
        ctx.obj.fails_in_log = settings.log.format == "json"
    if not settings.relations:
        raise ConfigError(
            "no relations are configured, so no event would be an edge: add [relations.NAME] tables to "
            f"{config or 'driftgraph.toml'}, or make the file with: driftgraph init"
        )
    from driftgraph.app.config.settings import load
    from driftgraph.app.live.start_status import starting
    from driftgraph.stream.time.clock import SystemClock

    with starting(settings.data_dir, SystemClock()):
        saved_model.check(settings)  # also after the start: here it is known before anything is loaded
        _say_start(settings)
        from driftgraph.app.live import run as live

        with logs.progress_of(settings) as progress:
            warnings = live.run(settings, progress=progress, read_again=lambda: load(config))
    if as_json:
        print_as_json({"stopped": True} | ({"warnings": warnings} if warnings else {}))


def _say_start(settings: Settings) -> None:
    """Print what starts, before the imports that take seconds."""
    from importlib.metadata import version as version_of

    said = (
        f"driftgraph {version_of('driftgraph')}: {settings.name} follows topic {settings.kafka.topic} and "
        f"publishes to {settings.redis.public_url()}; it loads its code first"
    )
    if settings.log.format == "json":
        log.info("%s", said)
    else:
        print(said, file=sys.stderr, flush=True)


@app.command()
def replay(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="CSV, JSONL or Parquet; .gz and .zst too.")
    ],
    config: ConfigOption = None,
    relations: RelationsOption = None,
    impressions: ImpressionsOption = None,
    columns: ColumnsOption = None,
    no_header: NoHeaderOption = False,
    separator: SeparatorOption = None,
    format_: FormatOption = None,
    redis: TargetOption = None,
    data_dir: DataDirOption = None,
    fit_every: FitEveryOption = None,
    span: SpanOption = None,
    dim: DimOption = None,
    seed: SeedOption = None,
    predictions: PredictionsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run past events of a file through the code of a live run.

    Reports the events and every fit with its metrics. A file that is not in order of time is sorted.
    """
    if (topic := str(source)).startswith("kafka:"):
        raise DriftgraphError(
            f"{topic}: a replay reads files; driftgraph validate {topic} looks at a topic, and driftgraph "
            "run follows it"
        )
    check_file(source, "name a CSV, JSONL or Parquet file of events")
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
    if redis is None:
        redis = settings.redis.address() if "url" in settings.redis.model_fields_set else "embedded"
    elif redis not in ("embedded", "none"):
        redis = settings.redis.address()  # has the configured user and password

    from driftgraph.app.commands import replay as replaying
    from driftgraph.app.console.output import print_replay
    from driftgraph.app.console.progress import progress_on_stderr

    with progress_on_stderr() as progress:
        report = replaying.replay(settings, source, redis=redis, predictions=predictions, progress=progress)
    print_result(as_json, report.to_json(), print_replay)


app.command()(doctor.doctor)
app.command()(validate.validate)
app.command()(produce.produce)
app.command()(erase.erase)
app.command()(delist.delist)
app.command()(delist.relist)
app.command()(export.export)
app.command()(retrain.retrain)

for command in (
    serving.recommend, serving.similar, serving.scores, status.status, serving.generations, serving.rollback,
    serving.promote,
):  # fmt: skip
    app.command()(command)
app.command()(faust.faust)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Stream this file instead of a made-up shop.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Kafka, Redis and the page running, and say where they are.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=5, max=3600, metavar="S", help="How long events flow.")] = 60,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all random numbers.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Watch the whole job in a shop whose customers change taste.

    Starts a Kafka and a Redis of its own, and holds the model that follows against one that is not trained
    any more. Serves the page meanwhile, and says where.
    """
    if data is not None:
        check_file(data, "name a CSV of events, or leave --data out")
    from driftgraph.app.console.progress import progress_on_stderr
    from driftgraph.app.demo import run as demonstration

    with progress_on_stderr() as progress:
        demonstration.demo(
            data=data,
            keep=keep,
            seconds=seconds,
            seed=seed,
            progress=progress,
            as_json=as_json,
            show=lambda report: print_as_json(report.to_json()) if as_json else report.render(console()),
        )


@config_app.command("show")
def config_show(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every setting as a run would have it.

    Reads the file, the environment and the defaults. Secrets stay hidden.
    """
    from driftgraph.app.config import saved_model
    from driftgraph.app.config.text import shown, toml_of

    settings = read_settings(ctx, config)
    print_result(as_json, shown(settings), lambda value, _: print(toml_of(value).rstrip()))
    saved = saved_model.newest(settings.data_dir)
    if saved is not None and (refusal := saved.refusal(settings)) is not None:
        print(f"driftgraph: run refuses this: {refusal}", file=sys.stderr)
    elif saved is not None and (changes := saved.changes(settings)):
        print(f"driftgraph: the saved model goes on, but {changes}", file=sys.stderr)


@config_app.command("check")
def config_check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say where each setting comes from, and what is wrong.

    Exits with 2 if run would refuse the configuration. Secrets stay hidden.
    """
    from driftgraph.app.config.check import faults_of, settings_of
    from driftgraph.app.config.text import value_of

    faults = faults_of(config)
    settings = []
    with suppress(ConfigError):  # then the faults say why
        settings = settings_of(config)
    if as_json:
        rows = [{"key": one.key, "value": one.value, "from": one.source} for one in settings]
        print_as_json({"ok": not faults, "faults": faults, "settings": rows})
    else:
        for one in settings:
            said = "not set" if one.value is None else value_of(one.value)
            print(f"{one.key} = {said}  # {one.source}")
        for fault in faults:
            print(f"driftgraph: {fault}", file=sys.stderr)
    if faults:
        raise typer.Exit(2)


@app.command()
def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    number = version_of("driftgraph")
    print_result(as_json, {"version": number}, lambda _, out: out.print(number, highlight=False))
