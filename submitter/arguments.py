"""The arguments of a submit: validated, and local pictures read."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from receiver.archive.inspect import inspect
from receiver.errors import ConfigurationError, NotThePictureError
from receiver.jobs.request import JobRequest, mistakes
from receiver.model import Submission

# Bytes of a local image file; base64 makes it a third larger.
_LARGEST_IMAGE = 20 * 1024 * 1024


def job_request(request: Mapping[str, Any]) -> JobRequest:
    """Return validated arguments, with local pictures as data URIs; raise as ``submission_of``."""
    pictures = tuple(reference_image(image) for image in request.get("images", ()))
    try:
        return JobRequest.model_validate({**request, "images": pictures})
    except ValidationError as error:
        raise ConfigurationError(mistakes(error)) from error


def submission_of(request: Mapping[str, Any]) -> Submission:
    """Translate arguments of ``submit`` into a Submission.

    Raise ConfigurationError for a wrong argument or an image that cannot be read.
    """
    asked = job_request(request)
    try:
        return asked.submission()
    except ValidationError as error:
        raise ConfigurationError(mistakes(error)) from error


def reference_image(given: str) -> str:
    """Return a URL as it is, and a local file as a data URI.

    Raise ConfigurationError for a file that is not a picture, cannot be read, or is too large.
    """
    if given.startswith(("http://", "https://", "data:")):
        return given
    path = Path(given)
    try:
        if not path.is_file():
            raise _image_error(given, "there is no such file; give a URL or a readable file")
        if path.stat().st_size > _LARGEST_IMAGE:
            raise _image_error(
                given, f"more than {_LARGEST_IMAGE // 1024**2} MiB; give a URL instead"
            )
        picture = inspect(path)
        return f"data:{picture.content_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise _image_error(given, f"{error.strerror}; give a URL or a readable file") from error
    except NotThePictureError as error:
        raise _image_error(given, str(error)) from error


def _image_error(given: str, problem: str) -> ConfigurationError:
    return ConfigurationError([f"--image {given}: {problem}"])
