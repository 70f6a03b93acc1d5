"""Builds the decoder for the configured format of events.

EventSettings ──► [topic_decoder] ──► messages of a topic ──► live, validate
             └──► [file_decoder]  ──► lines of a file     ──► FileSource
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from driftgraph.app.config.settings import Settings
from driftgraph.app.config.tables.events import FILES_ONLY, KAFKA_ONLY, EventSettings
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.events import Rejected
from driftgraph.stream.formats import JSON_NAMES
from driftgraph.stream.formats.arrow_stream import ArrowStream
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.cloudevents import CloudEventReader
from driftgraph.stream.formats.event_rules import Behaviors, Decoder, EventRules, Others
from driftgraph.stream.formats.mapping_decoder import MappingDecoder, Reader
from driftgraph.stream.formats.registry.client import RegistryOptions, SchemaRegistry
from driftgraph.stream.formats.registry.decoder import RegisteredReader
from driftgraph.stream.formats.tombstones import Tombstones
from driftgraph.stream.time.clock import Clock, TimeRules
from driftgraph.stream.wording import BY_KEY, Wording


def event_rules(settings: Settings, clock: Clock, *, others: Others = Others.REJECT) -> EventRules:
    """The rules of a good event of the topic."""
    names = (*settings.relations, *settings.events.impressions)
    behaviors = Behaviors(names, ignore=ignored_behaviors(settings), others=others)
    times = TimeRules(
        clock,
        floor_ms=settings.time.floor_ms(),
        future_skew_ms=settings.time.skew.ms,
        zone=settings.events.zone(),
    )
    return EventRules(behaviors, times, settings.events.erase)


def ignored_behaviors(settings: Settings) -> tuple[str, ...]:
    """The behaviors that are ignored: those configured, and relations of a preset that are not configured."""
    mapping = settings.events.event_mapping()
    named = () if mapping is None or not settings.relations else mapping.relations
    unused = (name for name in named if name not in settings.relations and name != settings.events.erase)
    return (*settings.events.ignore, *unused)


def topic_decoder(settings: Settings, rules: EventRules, wording: Wording = BY_KEY) -> Decoder:
    """The decoder of the messages of a topic; ``wording`` is that of the command that runs.

    Raises:
        ConfigError: If the format is only for files.
    """
    name = settings.events.format
    if name in FILES_ONLY:
        raise ConfigError(
            f"events.format = {name} is for files; a topic holds json, arrow, or what a mapping reads"
        )
    names, by_key = JSON_NAMES.with_columns(settings.events.columns.given()), settings.events.erase_by_key()
    tombstones = Tombstones(erase=by_key is not False, fields=(names.user,))
    names = replace(names, attributes=settings.events.attributes.paths())
    if name == "arrow":
        return ArrowStream(rules, names, tombstones, wording)
    mapping = settings.events.json_mapping()
    if mapping is None:
        return CanonicalJson(rules, names, tombstones)
    if name in (None, "json"):  # with attributes
        by_key = by_key is not False
    return MappingDecoder(rules, mapping, _reader(settings.events), erase_by_key=by_key)


def file_decoder(events: EventSettings) -> Callable[[EventRules], Decoder] | None:
    """The decoder of the lines of a file, if the format is JSON with a mapping; else None.

    Raises:
        ConfigError: If the format is only for Kafka.
    """
    name = events.format
    if name in KAFKA_ONLY:
        raise ConfigError(f"events.format = {name} is for Kafka; name the file's own format with --format")
    mapping = events.json_mapping()
    if mapping is None:
        return None
    return lambda rules: MappingDecoder(rules, mapping, _reader(events))


def _reader(events: EventSettings) -> Reader | None:
    """The reader that turns bytes into an object; None for JSON."""
    if events.format == "cloudevents":
        return CloudEventReader()
    if events.format != "registry":
        return None
    registry = events.registry
    password = "" if registry.password is None else registry.password.get_secret_value()
    options = RegistryOptions(registry.url or "", registry.username or "", password, registry.ca_file)
    return RegisteredReader(SchemaRegistry(options))


def time_counts(events: EventSettings) -> Callable[[Rejected], bool]:
    """Whether the time of a record is that of its event, or says how far a request to erase reaches."""
    mapping = events.event_mapping()
    is_events = mapping is not None and any(path.record == "timestamp" for path in mapping.values[3].paths)
    erase = events.erase.encode()
    return lambda rejected: is_events or erase in rejected.payload
