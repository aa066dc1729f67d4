"""Pictures that came within their report: taken from the ledger, they never touch the network again."""

from binascii import Error, a2b_base64
from hashlib import sha256
from pathlib import Path

from receiver.errors import NotThePictureError
from receiver.net.download import Fetched
from receiver.providers.openai.protocol import read_picture

# Characters decoded at a time: whole groups of four.
_PIECE = 4 * 64 * 1024


def decode_base64_image(body: bytes, url: str, into: Path) -> Fetched:
    """Write the picture that ``url`` (``delivery:<index>``) names in the answer ``body`` to the new file ``into``.

    Raise UnreadableError if the answer has none there, NotThePictureError if it is no base64, OSError if the disk fails.
    """
    text = read_picture(body, url)
    digest, size = sha256(), 0
    with into.open("xb") as file:
        for start in range(0, len(text), _PIECE):
            try:
                piece = a2b_base64(text[start : start + _PIECE], strict_mode=True)
            except (Error, ValueError) as error:  # the latter for what is not ASCII
                raise NotThePictureError(f"the picture is not base64: {error}") from error
            digest.update(piece)
            size += file.write(piece)
    return Fetched(size, digest.hexdigest(), url, "")
