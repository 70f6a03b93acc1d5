"""Traces: a fit and a publish as spans, to a collector over HTTP, and nothing imported without one."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from driftgraph.app.config.settings import Settings, load
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.training import tracing
from driftgraph.app.training.process import loop
from driftgraph.app.training.tracing import Tracing, tracing_of
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.ingest.fit_schedule import Marks
from driftgraph.stream.time.clock import SystemClock
from tests.app.training.test_cycle import SHOP, mark_of, worker_of
from tests.shop_worlds import batch_of, graph_of
from tests.waits import until


class Traced:
    """A tracing whose spans a test reads."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider.get_tracer("test"))
        self.status = WorkerStatus(None, SystemClock(), NoProgress(), self.tracing)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


def ids_of(span: ReadableSpan) -> tuple[int, int]:
    """Of its trace, and its own."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def test_the_stages_of_a_fit_are_spans_below_it_one_after_the_other() -> None:
    traced = Traced()
    with traced.tracing.whole("fit") as facts:
        traced.status.start("evaluating before model version 2", span="evaluate")
        told = traced.status.steps("training model version 2")
        told(1, 1, 2)
        told(1, 2, 2)
        traced.status.close()
        traced.status.start("a stage without a name")
        traced.status.start("publishing", 7, span="publish")
        facts |= {"accepted": True, "model_version": 2}
    spans = traced.spans()
    assert list(spans) == ["evaluate", "train", "gate", "publish", "fit"]
    whole = spans.pop("fit")
    assert whole.attributes == {"driftgraph.accepted": True, "driftgraph.model_version": 2}
    ends = 0
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == ids_of(whole)[1]
        assert span.start_time is not None
        assert span.end_time is not None
        assert ends <= span.start_time
        ends = span.end_time
    assert whole.parent is None


def test_a_fit_that_fails_ends_its_spans_and_says_why() -> None:
    traced = Traced()

    def fit() -> None:
        with traced.tracing.whole("fit"):
            traced.status.start("evaluating", span="evaluate")
            int("no")

    with pytest.raises(ValueError, match="no"):
        fit()
    assert not traced.spans()["fit"].status.is_ok
    assert [event.name for event in traced.spans()["fit"].events] == ["exception"]
    traced.status.start("evaluating", span="evaluate")
    assert len(traced.exporter.get_finished_spans()) == 2, "outside of a whole nothing is a span"


def test_what_the_loop_does_is_a_trace_of_a_publish_and_one_of_a_fit(
    store: GenerationStore, tmp_path: Path
) -> None:
    graph, traced = graph_of([batch_of(SHOP)]), Traced()
    worker = worker_of(graph, store)
    worker.status.tracing = traced.tracing
    settings = Settings.model_validate({"data_dir": tmp_path})
    marks = Marks()
    looking = loop._Loop(settings, worker, lambda: marks)
    looking._step(graph.moment())
    assert [span.name for span in traced.exporter.get_finished_spans()] == [
        "lists", "publish", "catch up", "publish without a fit"
    ]  # fmt: skip
    traced.exporter.clear()
    marks = Marks(regular=mark_of(graph))
    looking._step(graph.moment())
    spans = traced.exporter.get_finished_spans()
    assert [span.name for span in spans] == [
        "evaluate", "prepare", "train", "gate", "lists", "publish", "catch up", "fit"
    ]  # fmt: skip
    assert {ids_of(span)[0] for span in spans} == {ids_of(spans[-1])[0]}
    assert spans[-1].attributes is not None
    assert spans[-1].attributes["driftgraph.accepted"] is True
    assert spans[-1].attributes["driftgraph.generation"] == 2


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("by", ["settings", "environment"])
def test_a_collector_receives_them(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (address, received):
        given = {"otlp": f"{address}/"} if by == "settings" else {}
        if by == "environment":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        found = tracing_of(Settings.model_validate({"name": "shop", "telemetry": given}))
        with found.whole("fit"):
            found.stage("evaluate")
        until(lambda: received)
        [resource] = received[0].resource_spans
        facts = {one.key: one.value.string_value for one in resource.resource.attributes}
        assert (facts["service.name"], facts["driftgraph.name"]) == ("driftgraph", "shop")
        assert {span.name for span in resource.scope_spans[0].spans} == {"evaluate", "fit"}
        found._tracer.span_processor.shutdown()


def test_without_a_collector_nothing_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from driftgraph.app.config.settings import Settings\n"
        "from driftgraph.app.training.tracing import tracing_of\n"
        "with tracing_of(Settings()).whole('fit') as facts: facts['a'] = 1\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_collector_without_the_package_is_refused_in_a_sentence_and_one_of_the_environment_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Platforms set the variables for everybody: no run may fail for that."""
    monkeypatch.setattr(tracing, "_is_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'driftgraph\[otel\]'"):
        tracing.check(Settings.model_validate({"telemetry": {"otlp": "http://localhost:4318"}}))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    tracing.check(Settings())
    assert tracing_of(Settings())._tracer is None
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed" in caplog.text


def test_a_collector_that_is_away_is_few_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    found = tracing_of(Settings.model_validate({"telemetry": {"otlp": "http://127.0.0.1:1"}}))
    for _ in range(3):
        with found.whole("fit"):
            pass
        found._tracer.span_processor.force_flush(5_000)
    found._tracer.span_processor.shutdown()
    texts = [record.msg for record in caplog.records]
    assert len(texts) == len(set(texts)) <= 4, texts


@pytest.mark.parametrize(
    ("address", "said"),
    [("localhost:4318", "should begin with http:// or https://"), ("http://h:4318?key=h5sh", "has a query")],
)
def test_an_address_that_cannot_be_right_is_refused(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load(options={"telemetry": {"otlp": address}})
    assert "h5sh" not in str(refused.value)
