"""Makes one thumbnail, as a process of its own: a picture in the file stdin, a small WebP in the file stdout; exit status 1 if it is none.

A decoder is the largest attack surface this service has, so it lives here, alone: no environment, no open files but these two, little
memory, little time. Run by path (``python -I thumbnail_process.py``); imports nothing of the service.
"""

import resource
import sys
from io import BytesIO

# Pixels on the longer side.
MAX_SIDE = 512
# Of the original; the largest that providers sell have 17 million.
MAX_PIXELS = 64_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
_LIMITS = {
    resource.RLIMIT_AS: 1024
    ** 3,  # bytes: the interpreter, Pillow, and a picture of MOST_PIXELS twice
    resource.RLIMIT_CPU: 10,  # seconds
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 1024
    ** 2,  # bytes of the thumbnail, whatever the picture makes of the decoder
    resource.RLIMIT_NOFILE: 32,
    resource.RLIMIT_NPROC: 0,  # starts nothing (root is above this limit)
}


def confine() -> None:
    """Give up, for good, what decoding a picture does not need; before the first byte of it is read."""
    for what, most in _LIMITS.items():
        resource.setrlimit(what, (most, most))


def shrink() -> bytes:
    """Read the picture's first frame from stdin and return it as a small WebP, upright; raise whatever Pillow raises."""
    from PIL import AvifImagePlugin, Image, ImageOps  # noqa: PLC0415 - only the confined process

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # threads count as processes, of which there are none
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here and raises at twice as many
    with Image.open(sys.stdin.buffer, formats=_FORMATS) as picture:
        picture.draft("RGB", (MAX_SIDE, MAX_SIDE))  # a JPEG is decoded at a fraction of its size
        picture.seek(0)
        ImageOps.exif_transpose(picture, in_place=True)
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    result = BytesIO()
    small.save(result, "WEBP", quality=78, method=2)
    return result.getvalue()


if __name__ == "__main__":
    confine()
    try:
        sys.stdout.buffer.write(shrink())
    except Exception:  # noqa: BLE001 - a stranger's file may raise anything, and there is nobody to tell but the exit status
        sys.exit(1)
