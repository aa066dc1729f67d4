"""Traces for OpenTelemetry: what happens to a job, from its submit through its callback to the archive, is one trace in every process.

A ref has as many bits as a trace's id, so it is the trace's id: nothing has to be handed on, and who has a ref finds its trace. Needs the
extra ``otel``; on where OTEL_EXPORTER_OTLP_ENDPOINT is set, and configured by OpenTelemetry's own variables (OTEL_SERVICE_NAME and so on).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ulid import ULID

from receiver.errors import ConfigurationError

_SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"
# Nobody's span: what the first spans of every process hang on. It is never sent, so that they all are roots to whoever draws them.
_NOBODY = 1
# None while traces are off.
_tracer: list[Any] = []


def configure(environ: Mapping[str, str], exporter: Any = None) -> None:
    """Have this process tell its spans, if the environment names where to; call it after a fork. ``exporter`` takes the place of OTLP's.

    Raise ConfigurationError if the packages are missing.
    """
    if _tracer or not environ.get(_SWITCH):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415 - as above
    except ImportError as error:
        raise ConfigurationError(
            [f"{_SWITCH}: traces need the extra: pip install 'webhook-image-receiver[otel]'"]
        ) from error
    name = {} if environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "receiver"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(
        SimpleSpanProcessor(exporter) if exporter else BatchSpanProcessor(OTLPSpanExporter())
    )
    _tracer.append(provider.get_tracer("receiver"))


@contextmanager
def span(name: str, ref: str, **attributes: str | float) -> Iterator[None]:
    """Tell of the block as a span of the job's trace; of an exception that leaves it only the kind, its words may be secret."""
    if not _tracer:
        yield
        return
    with _told(name, context=_trace_of(ref), attributes={"ref": ref, **attributes}):
        yield


@contextmanager
def step(name: str) -> Iterator[None]:
    """Tell of the block as a part of the span around it."""
    if not _tracer:
        yield
        return
    with _told(name):
        yield


@contextmanager
def _told(name: str, **how: Any) -> Iterator[None]:
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

    whole = int.from_bytes(ULID.from_str(ref).bytes, "big")
    parent = trace.SpanContext(
        whole, _NOBODY, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))
