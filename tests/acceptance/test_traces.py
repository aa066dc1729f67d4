"""A job's trace at a collector: spans of submitter, web and worker under one id, the ref."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from installation import Installation
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from processes import run
from ulid import ULID
from waiting import until

from receiver.errors import ConfigurationError
from receiver.telemetry import tracing


@dataclass
class Collector:
    """What a collector received."""

    url: str
    spans: list[Span] = field(default_factory=list)
    said: bytes = b""

    def of(self, ref: str) -> dict[str, Span]:
        """Return the spans of a job by their names."""
        return {span.name: span for span in self.spans if span.trace_id == ULID.from_str(ref).bytes}


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector of OTLP over HTTP."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collected.said += body
            request = ExportTraceServiceRequest.FromString(body)
            collected.spans += [
                span
                for whole in request.resource_spans
                for part in whole.scope_spans
                for span in part.spans
            ]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        collected = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collected
        server.shutdown()
        thread.join()


def test_a_job_is_one_trace_through_every_process(installation: Installation) -> None:
    with collector() as heard:
        installation.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": heard.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with installation.started() as service:
            done = run(
                ["submitter", "submit", "a fox", "--param", "size=64x64", "--wait", "--json"],
                installation.environ,
                folder=installation.folder,
            )
            assert done.status == 0, done.err
            ref = json.loads(done.out)["ref"]
            expected = {"submit", "callback", "archive", "fetch", "inspect", "put", "conclude"}
            until(lambda: set(heard.of(ref)) == expected, what="all spans of the job")
            assert service.stop() == 0
        spans = heard.of(ref)
        parts = {spans[name].parent_span_id for name in ("fetch", "inspect", "put")}
        assert parts == {spans["archive"].span_id}
        hook = installation.sandbox.tasks()[0]["webhook"].rpartition("/")[2]
        assert hook.encode() not in heard.said, "tickets are secrets"
        assert installation.environ["GRSAI_API_KEY"].encode() not in heard.said


def test_without_its_variable_nothing_is_sent_and_nothing_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_tracer", [])
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    tracing.configure({})
    with tracing.span("callback", "no ref at all"), tracing.step("put"):
        assert tracing._tracer == []


def test_traces_without_their_packages_are_a_mistake_that_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_tracer", [])
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .*\[otel\]"):
        tracing.configure({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})


def test_an_exception_is_recorded_by_its_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415 - beside its only use

    monkeypatch.setattr(tracing, "_tracer", [])
    heard = InMemorySpanExporter()
    tracing.configure({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, heard)
    with pytest.raises(ValueError, match="a secret"), tracing.span("archive", str(ULID()), index=0):
        raise ValueError("a secret")
    (span,) = heard.get_finished_spans()
    assert (span.status.description, span.events) == ("ValueError", ())
