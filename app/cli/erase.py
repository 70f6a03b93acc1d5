"""``driftgraph erase``: puts the request to erase a user where every updater and every replay reads it."""

from __future__ import annotations

from typing import Annotated

import typer

from driftgraph.app.cli.shared_options import ConfigOption, JsonOption, print_result, read_settings

NEXT = (
    "each updater of the topic now forgets the user: window and Redis within seconds while its worker runs, "
    "dead letter files and checkpoints with it; status/updater.json in its data_dir tells what is pending"
)


def erase(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id, as the events have it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask to forget a user.

    Sends a record without a value, whose key is the user, to every partition of the topic, since only the
    site's own producers know which one has the user's events. A header of the record names the user again,
    for a topic whose keys are no users. The request reaches all events up to now, and what was made of them.
    Sending it twice does no harm.
    """
    settings = read_settings(ctx, config)

    from driftgraph.stream.errors import DriftgraphError
    from driftgraph.stream.formats.event_rules import Refusal, id_of
    from driftgraph.stream.formats.tombstones import ERASE_HEADER
    from driftgraph.stream.kafka.producer import EventProducer
    from driftgraph.stream.time.clock import SystemClock

    checked = id_of(user, "the user's id")
    if isinstance(checked, Refusal):
        raise DriftgraphError(checked.detail)
    producer = EventProducer(settings.kafka.librdkafka(), settings.kafka.topic)
    partitions, now_ms = producer.partition_count(settings.kafka.topic), SystemClock().now_ms()
    for partition in range(partitions):
        producer.send(
            key=checked.encode(), value=None, timestamp_ms=now_ms, partition=partition,
            headers=((ERASE_HEADER, checked.encode()),),
        )  # fmt: skip
    producer.finish()
    told = {
        "user": checked,
        "topic": settings.kafka.topic,
        "partitions": partitions,
        "up_to_ms": now_ms,
        "next": NEXT,
    }
    print_result(
        as_json,
        told,
        lambda _, out: out.print(
            f"asked {settings.kafka.topic} to forget {checked} in {partitions} partitions: {NEXT}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        ),
    )
