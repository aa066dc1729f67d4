"""Variables of the environment: each is NAME, or the contents of the file that NAME_FILE names."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic.fields import FieldInfo

# Variables that boto3, libpq, OpenTelemetry and systemd read by themselves: credentials, or where
# they are.
_SECRETS_OF_LIBRARIES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "CREDENTIALS_DIRECTORY",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "PGPASSFILE",
    "PGPASSWORD",
)


def read_variables(
    fields: Iterable[str], environ: Mapping[str, str]
) -> tuple[dict[str, object], list[str]]:
    """Return the values by field, and the mistakes; a field is a variable in lower case.

    An empty variable counts as unset.
    """
    values: dict[str, object] = {}
    mistakes = []
    for field in fields:
        name = field.upper()
        value, file = environ.get(name, "").strip(), environ.get(f"{name}_FILE", "").strip()
        if value and file:
            mistakes.append(f"{name}: set either {name} or {name}_FILE, not both")
        elif file:
            try:
                value = _contents(Path(file))
            except ValueError as error:
                mistakes.append(f"{name}_FILE: {error}")
        if value:
            values[field] = value
    return values, mistakes


def secret_variables(fields: Mapping[str, FieldInfo]) -> frozenset[str]:
    """Return the names of all variables that may hold a secret of ours, or the path of one.

    A field may hold a secret if its value is a SecretStr or is not shown (``repr=False``).
    """
    names = [
        field.upper()
        for field, about in fields.items()
        if "SecretStr" in repr(about.annotation) or not about.repr
    ]
    return frozenset([*names, *(f"{name}_FILE" for name in names), *_SECRETS_OF_LIBRARIES])


def _contents(path: Path) -> str:
    """Return the value in a file; raise ValueError if it cannot be read.

    The error does not quote the path: it may be the secret itself by mistake. Symbolic links are
    followed, and other users may be able to read the file, because container platforms mount
    secrets in this way.
    """
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            value = file.read().strip()
    except OSError as error:
        raise ValueError(
            f"the file cannot be read ({error.strerror}); name a readable text file"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError("the file is not UTF-8 text; name a readable text file") from error
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IWOTH:
        raise ValueError("every user may write the file; look whether it is yours, then chmod o-w")
    if not value:
        raise ValueError("the file is empty; write the value into it, or unset the variable")
    return value
