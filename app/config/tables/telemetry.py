"""The tables ``[log]`` and ``[telemetry]`` of the configuration: what the processes say of their work."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from driftgraph.app.config.tables.sections import Section
from driftgraph.stream.addresses import fault_of


def _collector(value: str) -> str:
    if (fault := fault_of(value, ("http", "https"))) is not None:
        raise ValueError(fault)
    if urlsplit(value).query:
        raise ValueError("has a query; headers for the collector go into OTEL_EXPORTER_OTLP_HEADERS")
    return value


class LogSettings(Section):
    """What updater, worker and HTTP process write on stderr."""

    format: Literal["text", "json"] = Field(
        default="text",
        description='"text": lines for people; "json": one object a line with time, level, process, logger, '
        "message, and exception where there is one.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least level of driftgraph's own lines; of libraries only warnings and errors are "
        "written.",
    )


class TelemetrySettings(Section):
    """Where traces go."""

    otlp: Annotated[str, AfterValidator(_collector)] | None = Field(
        default=None,
        description="Address of an OpenTelemetry collector that takes OTLP over HTTP; each fit and publish "
        "is a trace. It needs the extra otel; OTEL_EXPORTER_OTLP_HEADERS and the like hold as well. Not "
        "set: no traces, unless OTEL_EXPORTER_OTLP_ENDPOINT is set.",
        examples=["http://localhost:4318"],
    )
