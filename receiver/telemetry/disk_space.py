"""Free disk space, measured before a write fails for the lack of it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Space is low below this many bytes; on a small disk below this share of it. The downloads of 16
# threads may need 1.6 GB. The alert ReceiverDiskSpaceLow uses the same rule.
LOW_BYTES, LOW_SHARE = 1024**3, 0.1


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The disk of one place: bytes that this process may still write, and its size in bytes."""

    place: str
    free: int
    size: int

    @classmethod
    def read(cls, figures: object) -> list[Self]:
        """Return what ``figures`` of several disks said, perhaps in another release."""
        with suppress(KeyError, TypeError):
            return [
                cls(one["place"], one["free_bytes"], one["size_bytes"])
                for one in figures  # type: ignore[attr-defined]  # checked by the exception
            ]
        return []

    @property
    def is_low(self) -> bool:
        """Return whether there is too little space to go on for long."""
        return self.free < min(LOW_BYTES, LOW_SHARE * self.size)

    def figures(self) -> dict[str, object]:
        """Return the place and its bytes, for JSON."""
        return {"place": self.place, "free_bytes": self.free, "size_bytes": self.size}

    def __str__(self) -> str:
        """Return a text such as ``data: 12.3 GB of 50.0 GB free``."""
        return f"{self.place}: {self.free / 1e9:.1f} GB of {self.size / 1e9:.1f} GB free"


def measure(places: Mapping[str, Path]) -> list[DiskSpace]:
    """Return the space of each place; of several on one disk the first.

    A place that cannot be measured now is left out.
    """
    found, disks = [], set()
    for name, path in places.items():
        try:
            existing = _existing(path)
            disk, status = existing.stat().st_dev, os.statvfs(existing)
        except OSError:
            continue
        if disk in disks:
            continue
        disks.add(disk)
        found.append(
            DiskSpace(name, status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)
        )
    return found


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))
