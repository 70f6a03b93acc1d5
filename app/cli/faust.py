"""``driftgraph faust``: run the Faust app of ``stream/faust`` with this configuration.

Settings ──► [faust] ──► make_app ──► Faust's own command line (worker, tables, agents, …)
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftgraph.app.cli.shared_options import ConfigOption, read_settings
from driftgraph.stream.errors import ConfigError

if TYPE_CHECKING:
    from driftgraph.app.config.settings import Settings
    from driftgraph.stream.faust.options import FaustOptions, Sink

METADATA_TIMEOUT_S = 10.0
TRENDS_OWNED_S = 60  # the app writes every 5 s; a start of it after a kill takes less


def faust(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND …", help="A command of Faust, such as: worker -l info"),
    ] = None,
    config: ConfigOption = None,
    normalize: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Instead of faust.normalize.")
    ] = None,
) -> None:
    """Run the Faust app beside the updater.

    It makes canonical events of a site's own records, and keeps the lists of rising items.
    """
    settings = read_settings(ctx, config, {"faust": {"normalize": normalize}})
    _check(settings)
    sys.path.insert(0, os.getcwd())  # so that a module of the site is found in the current folder
    from faust.cli.faust import cli

    from driftgraph.stream.faust.app import make_app

    arguments = list(command or ["--help"])
    if "worker" in arguments:
        _check_topics(settings)
        settings.data_dir.mkdir(parents=True, exist_ok=True)  # Faust makes only the last folder of a path
    quiet_aiokafka()
    app = make_app(options_of(settings))
    app.finalize()
    app.worker_init()
    app.worker_init_post_autodiscover()
    cli(arguments, prog_name="driftgraph faust --", app=app)


def quiet_aiokafka() -> None:
    """Let Faust's client log once a minute that Kafka is away. It would log each try, sixty a second."""
    import logging

    from driftgraph.stream.outage_log import FewLines

    parts = ("connect to node", "update metadata", "NodeNotReady", "KafkaConnectionError", "Connection at")
    lines = FewLines(dict.fromkeys(parts, "Kafka is away"))
    for name in list(logging.root.manager.loggerDict):
        if name == "aiokafka" or name.startswith("aiokafka."):
            logging.getLogger(name).addFilter(lines)


def options_of(settings: Settings) -> FaustOptions:
    """The options of the Faust app.

    Raises:
        ConfigError: If Faust's client does not support an option of ``kafka.options``.
    """
    from driftgraph.app.config.formats import event_rules
    from driftgraph.stream.dead_letters.topic_records import connect_headers
    from driftgraph.stream.faust.options import FaustOptions
    from driftgraph.stream.formats import JSON_NAMES
    from driftgraph.stream.time.clock import SystemClock

    own, clock = settings.faust, SystemClock()
    host, _, port = own.web.rpartition(":")
    return FaustOptions(
        name=settings.name,
        brokers=settings.kafka.bootstrap_servers,
        topic=settings.kafka.topic,
        rules=event_rules(settings, clock),
        names=JSON_NAMES.with_columns(settings.events.columns.given()),
        dead_letter_headers=lambda rejected: connect_headers(rejected, clock.now_ms()),
        source_topic=own.source_topic,
        normalize=own.normalize,
        erase_by_key=settings.events.erase_by_key(),
        processes=own.processes,
        window_ms=own.window.ms,
        web_host=host,
        web_port=int(port),
        replication=own.replication,
        credentials=_credentials(settings.kafka.librdkafka()),
        data_dir=str(settings.data_dir / "faust"),
        sink=_redis_sink(settings),
    )


def _check(settings: Settings) -> None:
    """Refuse a configuration that cannot work, before Faust starts."""
    own = settings.faust
    if not settings.relations:
        raise ConfigError("no relations are configured, so no event would count: add [relations.NAME] tables")
    if own.source_topic == settings.kafka.topic:
        raise ConfigError(
            f"faust.source_topic = {own.source_topic!r} is kafka.topic itself, so events would go round for "
            "ever: name the topic of the site's own events"
        )
    if own.normalize is not None and own.source_topic is None:
        raise ConfigError(
            f"normalize = {own.normalize!r} has no topic to read: set faust.source_topic to that of the "
            "site's own events"
        )


def _check_topics(settings: Settings) -> None:
    """Refuse missing topics: Faust would wait for them for ever, or make them with other partitions."""
    from driftgraph.stream.faust.normalize import function_of
    from driftgraph.stream.kafka.client import look_for

    if settings.faust.normalize is not None:
        function_of(settings.faust.normalize)
    topics = [one for one in (settings.faust.source_topic, settings.kafka.topic) if one is not None]
    look_for(settings.kafka.librdkafka(), topics, METADATA_TIMEOUT_S)


def _credentials(client: Mapping[str, str | int | float | bool]) -> Any:
    """librdkafka's security properties as Faust has them; None for an open listener.

    Raises:
        ConfigError: If Faust does not support the protocol or mechanism.
    """
    import faust as faust_streaming

    protocol = str(client.get("security.protocol", "plaintext")).upper()
    if protocol == "PLAINTEXT":
        return None
    context: ssl.SSLContext | None = None
    if protocol in ("SSL", "SASL_SSL"):
        authority = client.get("ssl.ca.location")
        context = ssl.create_default_context(cafile=None if authority is None else str(Path(str(authority))))
        if "ssl.certificate.location" in client:
            context.load_cert_chain(
                str(client["ssl.certificate.location"]),
                str(client["ssl.key.location"]) if "ssl.key.location" in client else None,
                str(client["ssl.key.password"]) if "ssl.key.password" in client else None,
            )
    if protocol == "SSL":
        return faust_streaming.SSLCredentials(context)
    mechanism = str(client.get("sasl.mechanism", client.get("sasl.mechanisms", "")))
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise ConfigError(
            f"kafka.options: sasl.mechanism = {mechanism!r} is none that the Faust app can do; it can "
            "do PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512"
        )
    return faust_streaming.SASLCredentials(
        username=str(client.get("sasl.username", "")),
        password=str(client.get("sasl.password", "")),
        mechanism=mechanism,
        ssl_context=context,
    )


def _redis_sink(settings: Settings) -> Sink:
    """Writes the lists of rising items to the keys that readers use, under the current epoch.

    They are this app's for ``TRENDS_OWNED_S`` after each write, and meanwhile the worker writes none. When
    the app has ended, or no item rises, the worker writes the lists again.
    """
    from driftgraph.app.config.builders import generation_store
    from driftgraph.snapshots.generations.keys import connect
    from driftgraph.snapshots.generations.lease import read_epoch

    client = connect(settings.redis.address())

    def write(lists: Mapping[str, Mapping[str, float]]) -> None:
        epoch = read_epoch(client, settings.redis.namespace)
        generation_store(settings, client, epoch=epoch).trending.replace(lists, owned_s=TRENDS_OWNED_S)

    return write
