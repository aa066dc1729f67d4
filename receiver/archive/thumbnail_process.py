"""Program that makes one thumbnail: it reads a picture from stdin and writes a WebP to stdout.

``python -I thumbnail_process.py SIDE [idle]``: SIDE is the most pixels on its longer side, and with
``idle`` it has the lowest priority. Both files are files, no pipes. The exit status is 1 if the
input is no picture. An image decoder is the largest
attack surface of this service, so it runs alone in a process without environment or other open
files, with little memory and time. It is run by its path and imports nothing of the service.
"""

import os
import resource
import sys
from io import BytesIO

# Pixels of the original. The largest pictures of providers have 17 million.
MAX_PIXELS = 64_000_000
_LOWEST_PRIORITY = 19
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP")
_LIMITS = {
    # Bytes of memory: the interpreter, Pillow, and a picture of MAX_PIXELS twice.
    resource.RLIMIT_AS: 1024**3,
    resource.RLIMIT_CPU: 10,  # seconds
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 8 * 1024**2,  # bytes of the result
    resource.RLIMIT_NOFILE: 32,
    resource.RLIMIT_NPROC: 0,  # it may start nothing (the limit does not apply to root)
}


def confine() -> None:
    """Set limits that the process cannot raise again, before it reads the first byte."""
    for what, most in _LIMITS.items():
        resource.setrlimit(what, (most, most))


def shrink(side: int) -> bytes:
    """Return the first frame of the picture on stdin as a small, upright WebP.

    Its longer side has at most ``side`` pixels.

    Raise whatever Pillow raises.
    """
    from PIL import AvifImagePlugin, Image, ImageOps  # noqa: PLC0415 - only the confined process

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # threads count as processes, and none are allowed
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here and raises at twice as many
    with Image.open(sys.stdin.buffer, formats=_FORMATS) as picture:
        picture.draft("RGB", (side, side))  # a JPEG is decoded at a fraction of its size
        picture.seek(0)
        ImageOps.exif_transpose(picture, in_place=True)
        picture.thumbnail((side, side))
        small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    result = BytesIO()
    small.save(result, "WEBP", quality=78, method=2)
    return result.getvalue()


if __name__ == "__main__":
    confine()
    if sys.argv[2:] == ["idle"]:
        os.nice(_LOWEST_PRIORITY)
    try:
        sys.stdout.buffer.write(shrink(int(sys.argv[1])))
    except Exception:  # noqa: BLE001 - Pillow may raise anything; the exit status says it failed
        sys.exit(1)
