"""The options of the Faust app: plain values, so that only ``faust.app`` and its agents import Faust."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from driftgraph.stream.events import Rejected
from driftgraph.stream.formats import FieldNames
from driftgraph.stream.formats.event_rules import EventRules

Sink = Callable[
    [Mapping[str, Mapping[str, float]]], None
]  # score by item, by behavior: replaces the lists of all behaviors
Headers = Callable[[Rejected], list[tuple[str, bytes]]]  # the headers of a dead letter


@dataclass(frozen=True, slots=True)
class FaustOptions:
    """The options of the Faust app."""

    name: str  # the consumer group, and the first part of every topic that the app makes
    brokers: str  # host:port,host:port
    topic: str  # of canonical events: normalize writes it and trends read it
    rules: EventRules
    names: FieldNames
    dead_letter_headers: Headers
    source_topic: str | None = None  # of the site's own events; None: there is no normalize agent
    normalize: str | None = None  # module:function; None: good canonical events are passed on as they are
    erase_by_key: bool | None = (
        None  # records without a value pass; None: only without a function of the site's
    )
    processes: int = 2  # how many run the function, each with a lane; the key of an event chooses the lane
    window_ms: int = 3_600_000
    web_host: str = "127.0.0.1"
    web_port: int = 6066
    replication: int = 1  # of the topics that the app makes
    credentials: Any = None  # faust.SASLCredentials or faust.SSLCredentials
    data_dir: str = "var/faust"
    sink: Sink | None = None  # called in a thread every few seconds; its errors are logged
