"""``driftgraph status``: how a run is doing, once or each second. What is wrong comes first."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from driftgraph.app.cli import serving
from driftgraph.app.cli.shared_options import (
    ConfigOption,
    JsonOption,
    NamespaceOption,
    RedisOption,
    console,
    print_as_json,
    read_settings,
)
from driftgraph.stream.errors import DriftgraphError

if TYPE_CHECKING:
    import redis as redis_py
    from rich.console import Console
    from rich.text import Text

    from driftgraph.app.config.settings import Settings
    from driftgraph.snapshots.generations.store import GenerationStore

LOOK_EVERY_S: Final = 1.0
STYLES: Final = {True: ("fail", "bold red"), False: ("warn", "yellow")}  # keeps from serving
WELL: Final = "fresh vectors and lists are served"

Value = Mapping[str, Any]


def status(
    ctx: typer.Context,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Exit as /readyz answers: with 1 while fresh vectors and lists are not served."
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Look each second, until Ctrl-C; a line each where no terminal is."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong, how far a run is, and what is served.

    The updater is that of this data_dir. What it and its worker say of themselves is shown also while Redis
    is away. Exits with 1 if the updater is degraded, which means that its worker fails again and again, or
    if Redis does not answer; with --watch nothing is a fault. With --check it exits as /readyz answers: with
    0 for its 200, with 1 for its 503, also while a start is still filling the window.
    """
    if watch and check:
        raise typer.BadParameter("--watch goes on and --check ends at once: give one of them")
    from driftgraph.app.commands.status import Asker, ask, status_of
    from driftgraph.app.console.troubles import Trouble, kept_from_serving
    from driftgraph.snapshots.generations.keys import connect
    from driftgraph.stream.time.clock import SystemClock

    clock = SystemClock()
    settings = read_settings(ctx, config, {"redis": {"url": redis, "namespace": namespace}})
    clients: list[redis_py.Redis] = []  # none while a Cluster is away

    def store_of() -> GenerationStore:
        if not clients:
            clients.append(connect(settings.redis.address()))
        return serving.store_of(clients[0], settings)

    if watch:
        with Asker(store_of) as asker:
            _watch(settings, lambda: status_of(settings, asker.newest(), clock), as_json=as_json)
        return
    served = ask(store_of, with_keys=True)
    for client in clients:
        client.close()
    value = status_of(settings, served, clock)
    if as_json:
        print_as_json(value)
    else:
        out = console()
        for line in trouble_lines(value):
            out.print(line, soft_wrap=True)
        _print_pairs(value, out)
    if check:
        if (why := kept_from_serving(Trouble(**one) for one in value["troubles"])) is not None:
            raise DriftgraphError(why)
        return
    if served.error is not None:
        raise served.error
    updater = value["updater"]
    if updater is not None and updater["state"] == "degraded":
        raise typer.Exit(1)


# --- what is shown ---------------------------------------------------------------------------------------


def trouble_lines(value: Value) -> list[Text]:
    """Two lines for each trouble, the second with what to do; one if there is none."""
    from rich.text import Text

    lines = []
    for one in value["troubles"]:
        state, style = STYLES[one["keeps_from_serving"]]
        lines += [Text.assemble((f"{state}  ", style), one["said"]), Text(f"      {one['remedy']}")]
    return lines or [Text.assemble(("ok    ", "green"), WELL)]


def _print_pairs(value: Value, out: Console) -> None:
    from driftgraph.app.console.output import print_pairs

    print_pairs(pairs_of(value), out)


def pairs_of(value: Value) -> list[tuple[str, object]]:
    """Names and values, the updater's and the worker's first."""
    from driftgraph.app.console.status_text import choice_pairs, manifest_pairs
    from driftgraph.app.training.worker_status import worker_pairs

    pairs = updater_pairs(value["updater"], fit=(value["worker"] or {}).get("fit"))
    if value["updater"] is None and any(one["code"] == "starting" for one in value["troubles"]):
        pairs = [("updater", "starts")]
    pairs += worker_pairs(value["worker"])
    pairs += [("standby", f"pid {one['pid']}: {one['why']}")] if (one := value["standby"]) else []
    shown = ("redis", "namespace", "generation") if value["redis_error"] is None else ("redis", "namespace")
    pairs += [(name, value[name]) for name in shown]
    pairs += choice_pairs(value["choice"])
    pairs += manifest_pairs(value["manifest"])
    return pairs + [(f"keys, {kind}", count) for kind, count in value["keys"].items()]


def updater_pairs(
    updater: dict[str, Any] | None, fit: dict[str, Any] | None = None
) -> list[tuple[str, object]]:
    """What the updater says of itself, but for what ``troubles_of`` says; ``fit`` is the last one made."""
    from driftgraph.app.console import status_text
    from driftgraph.app.console.output import time_of
    from driftgraph.app.live.worker_end import worker_of

    if updater is None:
        return [("updater", "none has run with this data_dir")]
    if updater["state"] == "unknown":
        return [("updater", f"unknown: {updater['why']}")]
    pairs: list[tuple[str, object]] = [("updater", f"{updater['state']}, pid {updater['pid']}")]
    worker = worker_of(updater.get("worker") or {})
    if worker is not None and updater["state"] not in ("gone", "stopped", "failed"):
        pairs.append(("worker", worker))
    pairs += [("WARNING", warning) for warning in updater.get("warnings") or []]
    pairs += [
        ("event time", time_of(updater["watermark_ms"]) or "no event yet"),
        ("lag", sum(updater["lag"].values())),
    ]
    pairs += [(f"events {name}", count) for name, count in updater["events"].items()]
    pairs += [("checkpoint", status_text.checkpoint_of(updater))] if updater.get("checkpoint") else []
    if (waiting := updater.get("first_fit")) and updater["state"] in ("running", "filling", "degraded"):
        pairs.append(("first fit", status_text.first_fit_of(waiting, fit)))
    letters = updater.get("dead_letters") or {}
    pairs += [("dead letters waiting", n)] if (n := letters.get("waiting")) else []
    if forgotten := letters.get("forgotten"):
        said = f"{forgotten:,} are remembered no longer, and are kept twice if their events are read again"
        pairs += [("dead letters", said)]
    erasures = updater.get("erasures") or {}
    pairs += (
        [("erasures not done", n)] if (n := erasures.get("waiting", 0) + erasures.get("pending", 0)) else []
    )
    ids = updater.get("deduplication") or {}
    pairs += [("event ids", status_text.deduplication_of(ids))] if ids.get("ids") else []
    own = updater.get("attributes")
    pairs += [("attributes", status_text.topics_of_attributes(own))] if own else []
    delisted = updater.get("delisted")
    pairs += [("delisted", status_text.topic_of_delisted(delisted))] if delisted else []
    if reload := updater.get("reload"):
        taken = ", ".join(reload["taken"]) or "nothing has changed"
        pairs.append(("reload", f"{time_of(reload['time_ms'])}: {reload['refused'] or taken}"))
    return pairs + [(f"window, {name}", count) for name, count in updater["window"].items()]


# --- each second -----------------------------------------------------------------------------------------


def _watch(settings: Settings, look: Callable[[], Value], *, as_json: bool) -> None:
    """Show what ``look`` says each second until Ctrl-C, or until nobody reads it any more."""
    from driftgraph.app.console.stopping import stopping

    stop, out = threading.Event(), console()
    with stopping(stop):
        try:
            if as_json or not out.is_terminal:
                _say_lines(look, stop, as_json=as_json)
            else:
                _redraw(settings.name, look, stop, out)
        except BrokenPipeError:  # as head has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_lines(look: Callable[[], Value], stop: threading.Event, *, as_json: bool) -> None:
    from driftgraph.app.console.output import finite

    before: Value | None = None
    while not stop.is_set():
        value = look()
        line = json.dumps(finite(value), ensure_ascii=False) if as_json else line_of(value, before)
        print(line, flush=True)
        before = value
        stop.wait(LOOK_EVERY_S)


def _redraw(name: str, look: Callable[[], Value], stop: threading.Event, out: Console) -> None:
    from rich.console import Group
    from rich.live import Live

    before: Value | None = None
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            value = look()
            lines = screen_of(name, value, before, out)
            live.update(Group(*lines), refresh=True)
            before = value
            stop.wait(LOOK_EVERY_S)


def line_of(value: Value, before: Value | None) -> str:
    """One second in a line."""
    from driftgraph.app.console.output import time_of

    updater: Value = value["updater"] or {"state": "no updater"}
    parts = [time_of(value["time_ms"]), updater["state"]]
    if (rate := _rate(value, before)) is not None:
        parts.append(f"{rate:,.0f} events/s")
    if "lag" in updater:
        parts.append(f"lag {sum(updater['lag'].values()):,}")
    parts.append("generation unknown" if value["generation"] is None else f"generation {value['generation']}")
    codes = [one["code"] for one in value["troubles"]]
    return "  ".join([*parts, ", ".join(codes) or "ok"])


def screen_of(name: str, value: Value, before: Value | None, out: Console) -> list[Text]:
    """The lines of a screen of this size: troubles whole, then what fits of the rest, without counts of 0."""
    from rich.text import Text

    from driftgraph.app.console.output import shown, time_of

    width, height = out.size
    rate = _rate(value, before)
    head = f"driftgraph {name}  {time_of(value['time_ms'])}" + (
        "" if rate is None else f"  {rate:,.0f} events/s"
    )
    lines = [Text(head, style="bold")]
    for line in trouble_lines(value):
        lines += line.wrap(out, width)
    lines.append(Text())
    pairs = [one for one in pairs_of(value) if one[1] != 0 or not one[0].startswith("events ")]
    column = max(len(pair) for pair, _ in pairs)
    lines += [Text(f"{pair:<{column}}  {shown(said)}") for pair, said in pairs]
    if len(lines) > height:
        left = len(lines) - height + 1
        lines[height - 1 :] = [Text(f"… {left} more lines: driftgraph status shows all", style="dim")]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines


def _rate(value: Value, before: Value | None) -> float | None:
    """Events read a second, between two looks at one updater."""
    if before is None or value["updater"] is None or before["updater"] is None:
        return None
    now, then = value["updater"], before["updater"]
    if now["pid"] != then["pid"] or "time_ms" not in now or "read" not in now.get("events", {}):
        return None
    passed_ms = now["time_ms"] - then.get("time_ms", now["time_ms"])
    return 1_000 * (now["events"]["read"] - then["events"]["read"]) / passed_ms if passed_ms > 0 else None
