"""The optional parts of the package, and what to install for each."""

from importlib import import_module

# The modules of each extra in pyproject.toml.
_MODULES = {
    "postgres": ("psycopg",),
    "openai": ("openai",),
    "otel": ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"),
}


def missing(extra: str) -> str:
    """Return what to do if an optional part cannot be used, "" if it can; it imports the part."""
    try:
        for module in _MODULES[extra]:
            import_module(module)
    except ImportError as error:
        return (
            f"needs an optional part that cannot be imported ({error}); "
            f"pip install 'webhook-image-receiver[{extra}]'"
        )
    return ""
