"""Reference pictures: what goes into a request's ``urls``."""

import base64
from pathlib import Path

from receiver.archive.inspect import inspect
from receiver.errors import ConfigurationError, NotThePictureError

# Bytes of a file that may be sent along; base64 makes a third more of it.
LARGEST = 20 * 1024 * 1024


def reference_image(given: str) -> str:
    """Return a URL as it is, and a local file as a data URI; raise ConfigurationError for a file that is no picture, or too large."""
    if given.startswith(("http://", "https://", "data:")):
        return given
    path = Path(given)
    try:
        if not path.is_file():
            raise ConfigurationError(
                [f"--image {given}: there is no such file; give a URL or a readable file"]
            )
        if path.stat().st_size > LARGEST:
            raise ConfigurationError(
                [f"--image {given}: more than {LARGEST // 1024**2} MiB; give a URL instead"]
            )
        picture = inspect(path)
        return f"data:{picture.content_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise ConfigurationError(
            [f"--image {given}: {error.strerror}; give a URL or a readable file"]
        ) from error
    except NotThePictureError as error:
        raise ConfigurationError([f"--image {given}: {error}"]) from error
