"""The table ``[faust]`` of the configuration: the Faust app beside the updater."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from driftgraph.app.config.tables.sections import Section
from driftgraph.stream.time.durations import Duration, PositiveDurationField

_WEB = re.compile(r"[^\s:/]+:(\d{1,5})")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _web(value: str) -> str:
    match = _WEB.fullmatch(value)
    if match is None or not 1 <= int(match[1]) <= 65_535:
        raise ValueError("should be host:port, such as 127.0.0.1:6066")
    return value


def _function(value: str) -> str:
    if _FUNCTION.fullmatch(value) is None:
        raise ValueError("should be module:function, such as mysite.events:normalize")
    return value


class FaustSettings(Section):
    """The options of ``driftgraph faust``."""

    source_topic: str | None = Field(
        default=None,
        min_length=1,
        description="Topic of the site's own events, which normalize puts on kafka.topic in the canonical "
        "form; not set: trends alone.",
        examples=["site-events"],
    )
    normalize: Annotated[str, AfterValidator(_function)] | None = Field(
        default=None,
        description="Function that makes canonical events of a record of source_topic; not set: events "
        "that are canonical and good pass, all others are dead letters.",
        examples=["mysite.events:normalize"],
    )
    processes: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Processes that run the function. Each takes its share of the keys, so a record that "
        "takes long keeps waiting only those.",
    )
    window: PositiveDurationField = Field(
        default=Duration.parse("1h"),
        description="What rises: the events of the newest window against those of the one before it.",
    )
    web: Annotated[str, AfterValidator(_web)] = Field(
        default="127.0.0.1:6066", description="Where the web views of the trends are served."
    )
    replication: int = Field(
        default=1, ge=1, le=32, description="Replicas of the topics that the app makes for itself."
    )
