"""A job as the library returns it: the job object, whose assets can be read, saved and linked."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from pydantic import PrivateAttr

from receiver.archive import saving
from receiver.errors import ReceiverError
from receiver.jobs.job_object import AssetView, JobView
from receiver.services import Services


class Files(Protocol):
    """Where the bytes of archived assets come from."""

    def open(self, asset: "Asset") -> BinaryIO:
        """Return the bytes of an archived asset as a stream that the caller closes."""

    def link(self, asset: "Asset") -> str:
        """Return a link to an archived asset that needs no token."""


class Asset(AssetView):
    """One result file; the methods raise ReceiverError until it is archived."""

    _ref: str = PrivateAttr("")
    _files: Files = PrivateAttr()

    def attach(self, ref: str, files: Files) -> Self:
        """Make it an asset of the job ``ref``, and return it."""
        self._ref, self._files = ref, files
        return self

    @property
    def ref(self) -> str:
        """The job's ref."""
        return self._ref

    @property
    def name(self) -> str:
        """Its name as a file outside the archive, such as ``01J…-0.png``."""
        return saving.file_name(self._ref, self._archived_key())

    def read(self) -> bytes:
        """Return its bytes; raise ReceiverError if they are damaged."""
        target = io.BytesIO()
        saving.copy(self._open, self._digest(), target)
        return target.getvalue()

    def save(self, path: str | Path = ".", *, overwrite: bool = False) -> Path:
        """Save it as a file and return the path; in a directory it gets its own name.

        The file appears whole or not at all, and its SHA-256 is checked. Saving it again changes
        nothing. Raise ReceiverError if another file has the name, unless ``overwrite`` is given,
        or if it cannot be written.
        """
        target = Path(path)
        if target.is_dir():
            target /= self.name
        saving.save(self._open, self._digest(), target, overwrite=overwrite)
        return target

    def url(self) -> str:
        """Return a link that needs no token: lasting with ARCHIVE_PUBLIC_URL, else for 15 minutes.

        Raise ReceiverError if there is none: the archive is a directory and PUBLIC_URL is not set.
        """
        self._archived_key()
        return self.public_url or self._files.link(self)

    def _open(self) -> BinaryIO:
        return self._files.open(self)

    def _digest(self) -> str:
        self._archived_key()
        return str(self.sha256)

    def _archived_key(self) -> str:
        if self.key is None:
            why = f": {self.error}" if self.error else ""
            raise ReceiverError(f"asset {self.index} of {self._ref} is {self.state}{why}")
        return self.key


class Job(JobView):
    """The job object; its ``assets`` can be read and saved."""

    assets: Sequence[Asset]

    @classmethod
    def of_view(cls, view: JobView, files: Files) -> Self:
        """Return the job with these values."""
        assets = [
            Asset.model_construct(**dict(asset)).attach(view.ref, files) for asset in view.assets
        ]
        return cls.model_construct(**{**dict(view), "assets": assets})


class LedgerFiles:
    """The files of this machine's archive."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def open(self, asset: Asset) -> BinaryIO:
        """Return the bytes of an archived asset as a stream; see Files."""
        return self._services.store.open(str(asset.key))

    def link(self, asset: Asset) -> str:
        """Return a link to an archived asset; see Files."""
        settings = self._services.settings
        if settings.public_url is None and settings.archive_url.startswith("file://"):
            raise ReceiverError(
                "there is no link: the archive is a directory, and neither PUBLIC_URL nor "
                "ARCHIVE_PUBLIC_URL is set"
            )
        rows = self._services.queries.assets([asset.ref])[asset.ref]
        (row,) = [row for row in rows if row.idx == asset.index]
        return self._services.links.link(row, settings.public_url or "").url
