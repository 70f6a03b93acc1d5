"""Traces of fits and publishes for OpenTelemetry, where there is a collector.

_Loop ──► [Tracing.whole] ──► a trace    WorkerStatus ──► [Tracing.stage] ──► its spans ──► OTLP over HTTP

The package is the extra ``otel``, and nothing of it is imported unless there is a collector.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

from driftgraph.app.config.settings import Settings
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.outage_log import FewLines

VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORT_WITHIN_S: Final = 2.0  # a collector that is away must not keep a worker from its end
MISSING: Final = "OpenTelemetry is not installed: pip install 'driftgraph[otel]'"
ITS_LOGGERS: Final = (  # they log each try while a collector is away
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk._shared_internal",
)

log = logging.getLogger(__name__)


class Tracing:
    """Spans of what the worker's loop does; without a tracer nothing is kept and nothing is sent.

    Always true: a stage is a span only within a whole, and one stage of a whole runs at a time.
    """

    def __init__(self, tracer: Any = None) -> None:
        """``tracer`` is one of OpenTelemetry's."""
        self._tracer = tracer
        self._whole: Any = None
        self._stage: Any = None

    @contextmanager
    def whole(self, name: str) -> Iterator[dict[str, Any]]:
        """A trace of a fit or a publish; what is put into the dict becomes its attributes."""
        facts: dict[str, Any] = {}
        if self._tracer is None:
            yield facts
            return
        with self._tracer.start_as_current_span(name) as span:  # an exception is noted in it
            self._whole = span
            try:
                yield facts
            finally:
                self.stage("")
                span.set_attributes({f"driftgraph.{key}": value for key, value in facts.items()})
                self._whole = None

    def stage(self, name: str) -> None:
        """End the stage before and begin this one; none begins if it has no name."""
        if self._stage is not None:
            self._stage.end()
            self._stage = None
        if name and self._whole is not None:
            self._stage = self._tracer.start_span(name)


def check(settings: Settings) -> None:
    """Refuse a collector without the package.

    Raises:
        ConfigError: It is not installed.
    """
    if settings.telemetry.otlp is not None and not _is_installed():
        raise ConfigError(f"telemetry.otlp is set, and {MISSING}")


def tracing_of(settings: Settings) -> Tracing:
    """Tracing to the configured collector, else to that of the environment, else to nowhere.

    Raises:
        ConfigError: A collector is configured, and the package is not installed.
    """
    check(settings)
    by_environment = next((name for name in VARIABLES if os.environ.get(name)), None)
    if settings.telemetry.otlp is None and by_environment is None:
        return Tracing()
    if not _is_installed():
        log.warning("%s is set, and %s; there are no traces", by_environment, MISSING)
        return Tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    for name in ITS_LOGGERS:
        logging.getLogger(name).addFilter(FewLines({}))
    own = settings.telemetry.otlp
    endpoint = None if own is None else f"{own.rstrip('/')}/v1/traces"  # None: as the variables say
    named = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME", "driftgraph"),
        "driftgraph.name": settings.name,
    }
    provider = TracerProvider(resource=Resource.create(named))  # what is left is sent when the process ends
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=EXPORT_WITHIN_S)))
    return Tracing(provider.get_tracer("driftgraph"))


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # of a package above it
        return False
