"""Program that makes one thumbnail: it reads a picture from stdin and writes a WebP to stdout.

``python -I thumbnail_process.py SIDE [idle]``: SIDE is the most pixels on its longer side, and with
``idle`` it has the lowest priority. Both are files, not pipes. The exit status is 1 if the input is
not a picture, 3 if it does not fit into the memory. An image decoder is the largest attack surface
of this service. So it runs alone in a process with little memory and time, and without environment
or other open files. It is run by its path and imports nothing of the service.
"""

import os
import resource
import sys
from io import BytesIO
from typing import Any

# Pixels of the original. The largest pictures of providers have 17 million.
MAX_PIXELS = 64_000_000
# Those that fit into the memory. A JPEG is decoded at a fraction of its size.
_FITTING_PIXELS = {"JPEG": MAX_PIXELS, "WEBP": 17_000_000, "AVIF": 22_000_000}
_FITTING_PIXELS_OF_OTHERS = 26_000_000
# The exit status if it may be a picture, but does not fit into the memory.
TOO_LARGE = 3
_LOWEST_PRIORITY = 19
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP")
_LIMITS = {
    resource.RLIMIT_AS: 256 * 1024**2,  # bytes of memory, all of its address space
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

    Its longer side has at most ``side`` pixels. Raise MemoryError if it is too large, or whatever
    Pillow raises.
    """
    from PIL import AvifImagePlugin, Image, ImageOps  # noqa: PLC0415 - only the confined process

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # threads count as processes, and none are allowed
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here and raises at twice as many
    with Image.open(sys.stdin.buffer, formats=_FORMATS) as picture:
        fitting = _FITTING_PIXELS.get(picture.format or "", _FITTING_PIXELS_OF_OTHERS)
        if picture.width * picture.height > fitting:
            raise MemoryError
        picture.draft("RGB", (side, side))
        picture.seek(0)
        if picture.format == "WEBP":
            _free_early(picture)
        picture.thumbnail((side, side))
        ImageOps.exif_transpose(picture, in_place=True)
        small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    result = BytesIO()
    small.save(result, "WEBP", quality=78, method=2)
    return result.getvalue()


def _free_early(picture: Any) -> None:
    """Free the decoder of a WebP, which has two copies of a frame, once its first frame is there.

    Pillow would keep it beside two copies of its own: with 17 million pixels more than the memory.
    """
    decode = picture._get_next  # noqa: SLF001 - if it changes, the test of the largest WebP fails

    def decode_once() -> Any:
        frame = decode()
        picture._decoder = None  # noqa: SLF001 - as above
        return frame

    picture._get_next = decode_once  # noqa: SLF001 - as above


if __name__ == "__main__":
    confine()
    if sys.argv[2:] == ["idle"]:
        os.nice(_LOWEST_PRIORITY)
    try:
        sys.stdout.buffer.write(shrink(int(sys.argv[1])))
    except MemoryError:
        sys.exit(TOO_LARGE)
    except Exception:  # noqa: BLE001 - Pillow may raise anything; the exit status says it failed
        sys.exit(1)
