"""OpenTelemetry traces: a job's submit, callback and archiving are one trace in all processes.

A ref has as many bits as a trace id, so it is the trace id: no context has to be passed between
processes, and the trace of a ref is easy to find. Needs the extra ``otel``. It is on if
OTEL_EXPORTER_OTLP_ENDPOINT is set, and is configured by OpenTelemetry's own variables.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ulid import ULID

from receiver import installation
from receiver.errors import ConfigurationError

_SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"
# The id of the parent of the first spans in every process. No span with this id is ever sent, so
# that viewers show all of them as roots.
_NO_PARENT = 1
# Empty while traces are off.
_tracer: list[Any] = []


def configure(environ: Mapping[str, str], exporter: Any = None) -> None:
    """Export the spans of this process if the environment says where to. Call it after a fork.

    ``exporter`` replaces the OTLP exporter. Raise ConfigurationError if the packages are missing.
    """
    if _tracer or not environ.get(_SWITCH):
        return
    require_packages(environ)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415 - as above

    name = {} if environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "receiver"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(
        SimpleSpanProcessor(exporter) if exporter else BatchSpanProcessor(OTLPSpanExporter())
    )
    _tracer.append(provider.get_tracer("receiver"))


def require_packages(environ: Mapping[str, str]) -> None:
    """Raise ConfigurationError with the remedy if traces are on and their packages are missing."""
    if environ.get(_SWITCH) and (remedy := installation.missing("otel")):
        raise ConfigurationError([f"{_SWITCH}: {remedy}"])


@contextmanager
def span(name: str, ref: str, **attributes: str | float) -> Iterator[None]:
    """Record the block as a span of the job's trace.

    Of an exception only the type is recorded: its text may contain a secret.
    """
    if not _tracer:
        yield
        return
    with _recorded(name, context=_trace_of(ref), attributes={"ref": ref, **attributes}):
        yield


@contextmanager
def step(name: str) -> Iterator[None]:
    """Record the block as a child of the current span."""
    if not _tracer:
        yield
        return
    with _recorded(name):
        yield


@contextmanager
def _recorded(name: str, **how: Any) -> Iterator[None]:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra

    with _tracer[0].start_as_current_span(
        name, record_exception=False, set_status_on_exception=False, **how
    ) as current:
        try:
            yield
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _trace_of(ref: str) -> Any:
    from opentelemetry import trace  # noqa: PLC0415 - an extra

    trace_id = int.from_bytes(ULID.from_str(ref).bytes, "big")
    parent = trace.SpanContext(
        trace_id, _NO_PARENT, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))
