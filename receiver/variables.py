"""Variables of the environment: each is NAME, or the contents of the file that NAME_FILE names."""

from collections.abc import Iterable, Mapping
from pathlib import Path


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


def _contents(path: Path) -> str:
    """Return the value in a file; raise ValueError if it cannot be read.

    The error does not quote the path: it may be the secret itself by mistake.
    """
    try:
        value = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(
            f"the file cannot be read ({error.strerror}); name a readable text file"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError("the file is not UTF-8 text; name a readable text file") from error
    if not value:
        raise ValueError("the file is empty; write the value into it, or unset the variable")
    return value
