"""The commands for dead letters: look at them, send them back, remove them."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from driftgraph.app.cli.shared_options import (
    ConfigOption,
    JsonOption,
    console,
    print_as_json,
    print_result,
    read_settings,
)
from driftgraph.stream.errors import DriftgraphError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from driftgraph.app.config.settings import Settings
    from driftgraph.stream.dead_letters.letters import Letter

PlaceOption = Annotated[
    Literal["files", "kafka"] | None,
    typer.Option("--place", help="Where the letters are kept, instead of dead_letters.to."),
]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="R", help="Only letters of this reason, such as bad_json.")
]

dlq_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at dead letters, send them back, or remove them.\n\nA dead letter is an event that could not "
    "be applied, kept with its reason.",
)


@dlq_app.command("ls")
def list_letters(
    ctx: typer.Context,
    reason: ReasonOption = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1, max=10_000, metavar="N", help="With --reason: how many letters to list, the newest."
        ),
    ] = 20,
    place: PlaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the dead letters by reason.

    Shows the newest letter of each reason, or with --reason a list of letters.
    """
    from driftgraph.app.config.letter_place import letter_box
    from driftgraph.stream.dead_letters.redrive import summarize

    box = letter_box(_settings(ctx, config, place))
    if reason is not None:
        newest = deque(
            (one for one in box.letters() if not one.done and one.rejected.reason == reason), maxlen=limit
        )
        print_result(as_json, [_line_of(one) for one in reversed(newest)], _print_letters)
        return
    groups, done = summarize(box.letters())
    value = {
        "place": box.name,
        "open": sum(group.count for group in groups),
        "done": done,
        "reasons": [group.to_json() for group in groups],
    }
    print_result(as_json, value, _print_groups)


@dlq_app.command()
def show(
    ctx: typer.Context,
    letter: Annotated[
        str, typer.Argument(metavar="N", help="The letter's name, such as 1-17, as dlq ls shows it.")
    ],
    place: PlaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print one dead letter in full.

    Shows its reason, the place that it came from, its headers, and its payload as text or hex.
    """
    from driftgraph.app.config.letter_place import letter_box
    from driftgraph.stream.dead_letters.letters import parts_of_id

    parts_of_id(letter)
    box = letter_box(_settings(ctx, config, place))
    found = next((one for one in box.letters() if one.id == letter), None)
    if found is None:
        raise DriftgraphError(f"there is no dead letter {letter} in {box.name}; see driftgraph dlq ls")
    print_result(as_json, _whole(found), _print_letter)


@dlq_app.command()
def retry(
    ctx: typer.Context,
    reason: ReasonOption = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Send at most so many.")] = None,
    place: PlaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters back to the topic that they came from.

    The oldest go first, and what is sent is marked as done. Delivery is at least once: after a crash up to
    1,000 letters may be sent again. Events with an event_id are applied once all the same.
    """
    from driftgraph.app.config.letter_place import sent_back

    def say(text: str) -> None:
        print(f"driftgraph: {text}", file=sys.stderr)

    report = sent_back(_settings(ctx, config, place), reason=reason, limit=limit, say=say)
    if as_json:
        print_as_json(report.to_json())
        return
    by_reason = "".join(f"\n  {count:,} {name}" for name, count in report.reasons.most_common())
    print(f"sent {report.sent:,} letters back{by_reason}")
    if report.cut:
        print(f"{report.cut:,} were not sent: their payload was cut")
    if report.foreign:
        print(f"{report.foreign:,} were not sent: they came from a file, not from a topic")
    if report.retimed:
        print(f"{report.retimed:,} have the record time of now: the topic would soon remove older records")
    if report.too_old:
        print(
            f"{report.too_old:,} were not sent: the topic would remove them at once, and the time of their "
            "record counts; raise its retention.ms and try again"
        )


@dlq_app.command()
def purge(
    ctx: typer.Context,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="30d", help="Only letters that were kept longer ago than this."),
    ] = None,
    reason: ReasonOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Confirm it: without this option nothing is removed.")
    ] = False,
    place: PlaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove dead letters for ever.

    Without --older-than and --reason: all of them.
    """
    from driftgraph.app.config.letter_place import letter_box
    from driftgraph.stream.dead_letters.redrive import purge as remove
    from driftgraph.stream.time.clock import SystemClock

    if not yes:
        raise typer.BadParameter("it removes letters for ever: say so with --yes", param_hint="--yes")
    before_ms = None if older_than is None else SystemClock().now_ms() - _duration_ms(older_than)
    count = remove(letter_box(_settings(ctx, config, place)), before_ms=before_ms, reason=reason)
    print_result(as_json, {"removed": count}, lambda _, out: out.print(f"removed {count:,} letters"))


def _settings(ctx: typer.Context, config: Path | None, place: str | None) -> Settings:
    return read_settings(ctx, config, {"dead_letters": {"to": place}})


def _duration_ms(text: str) -> int:
    from driftgraph.stream.time.durations import Duration

    try:
        return Duration.parse(text).ms
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint="--older-than") from error


def _line_of(letter: Letter) -> dict[str, Any]:
    rejected = letter.rejected
    return {
        "id": letter.id,
        "reason": rejected.reason,
        "detail": rejected.detail,
        "origin": rejected.origin,
        "kept_ms": letter.kept_ms,
        "attempts": letter.attempts,
    }


def _whole(letter: Letter) -> dict[str, Any]:
    """All fields of a letter. Bytes that are not UTF-8 are written in hex, and a field says which."""
    rejected = letter.rejected
    payload, is_text = _shown(rejected.payload)
    return {
        **_line_of(letter),
        "done": letter.done,
        "timestamp_ms": rejected.timestamp_ms,
        "key": None if rejected.key is None else _shown(rejected.key)[0],
        "headers": [[name, None if value is None else _shown(value)[0]] for name, value in rejected.headers],
        "payload_bytes": letter.payload_bytes,
        "payload_is": "text" if is_text else "hex",
        "payload": payload,
    }


def _shown(data: bytes) -> tuple[str, bool]:
    try:
        return data.decode(), True
    except UnicodeDecodeError:
        return data.hex(" "), False


def _print_groups(value: dict[str, Any], out: Console) -> None:
    from driftgraph.app.console.output import time_of

    out.print(
        f"{value['place']}: {value['open']:,} open, {value['done']:,} done", markup=False, highlight=False
    )
    for group in value["reasons"]:
        tried = f", {group['tried_before']:,} tried before" if group["tried_before"] else ""
        newest = time_of(group["newest_ms"])
        text = f"{group['count']:>9,}  {group['reason']}{tried}, newest {newest}"
        example = group["example"]
        text += f"\n           {example['id']}: {example['origin']}: {example['detail']}"
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_letters(letters: Sequence[dict[str, Any]], out: Console) -> None:
    from driftgraph.app.console.output import time_of

    for one in letters:
        tried = f", tried {one['attempts']} times" if one["attempts"] else ""
        out.print(
            f"{one['id']}  {time_of(one['kept_ms'])}  {one['origin']}: {one['detail']}{tried}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _print_letter(letter: dict[str, Any], out: Console) -> None:
    from driftgraph.app.console.output import print_pairs, time_of

    pairs = [
        (k.removesuffix("_ms"), time_of(v) if k.endswith("_ms") else v)
        for k, v in letter.items()
        if k not in ("headers", "payload", "payload_is", "payload_bytes")
    ]
    pairs += [(f"header {name}", value) for name, value in letter["headers"]]
    size = len(letter["payload"].encode()) if letter["payload_is"] == "text" else None
    cut = "" if size in (None, letter["payload_bytes"]) else ", cut"
    pairs.append(("payload", f"{letter['payload_bytes']:,} bytes, as {letter['payload_is']}{cut}"))
    print_pairs(pairs, console())
    out.print(letter["payload"], markup=False, highlight=False, soft_wrap=True)
