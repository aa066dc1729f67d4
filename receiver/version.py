"""The version of this release."""

from functools import cache
from importlib import metadata

_PACKAGE = "webhook-image-receiver"


@cache
def version() -> str:
    """Return the version of the installed package, such as ``0.1.0``; "unknown" without one."""
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:  # the source tree runs without being installed
        return "unknown"
