"""Pictures that came inside a report, in base64: find one in the stored reports and decode it."""

from binascii import Error, a2b_base64
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from receiver.errors import NotThePictureError, TooLargeError, UnreadableError
from receiver.model import Provider
from receiver.net.download import Fetched
from receiver.providers.registry import READERS

# Base64 characters decoded at a time: a multiple of four.
BASE64_CHUNK = 4 * 64 * 1024


def find_picture(reports: Sequence[tuple[Provider, bytes]], url: str) -> str:
    """Return the base64 text of the picture ``url`` (``delivery:<index>``) in stored reports.

    Raise UnreadableError if none of them has it.
    """
    error = UnreadableError("no report with pictures in it is stored")
    for provider, body in reports:
        try:
            return READERS[provider].read_picture(body, url)
        except UnreadableError as found:
            error = found
    raise error


def decode_base64_image(text: str, url: str, into: Path, max_bytes: int | None = None) -> Fetched:
    """Write a picture that came inside its report, in base64, to the new file ``into``.

    Raise NotThePictureError if it is not valid base64, TooLargeError if the picture would have more
    than ``max_bytes``, OSError if the disk fails.
    """
    if max_bytes is not None and len(text.rstrip("=")) * 3 // 4 > max_bytes:
        raise TooLargeError(
            f"the picture in the report has more than {max_bytes} bytes (FETCH_MAX_BYTES)"
        )
    digest, size = sha256(), 0
    with into.open("xb") as file:
        for start in range(0, len(text), BASE64_CHUNK):
            try:
                chunk = a2b_base64(text[start : start + BASE64_CHUNK], strict_mode=True)
            except (Error, ValueError) as error:  # ValueError: a character outside ASCII
                raise NotThePictureError(f"the picture is not base64: {error}") from error
            digest.update(chunk)
            size += file.write(chunk)
    return Fetched(size, digest.hexdigest(), url, "")
