"""What is installed: the version of this release, and its optional parts."""

from functools import cache
from importlib import import_module, metadata

_PACKAGE = "webhook-image-receiver"


@cache
def version() -> str:
    """Return the version of the installed package, such as ``0.1.0``; "unknown" without one."""
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:  # the source tree is not installed
        return "unknown"


# The modules of each extra in pyproject.toml.
_MODULES = {
    "postgres": ("psycopg",),
    "openai": ("openai",),
    "mcp": ("mcp.server",),
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
