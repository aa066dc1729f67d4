"""Links to archived files that need no token: of the archive's public address, its own, or ours."""

from collections.abc import Callable
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeSerializer

from receiver.archive.saving import file_name
from receiver.archive.stores import Store
from receiver.ledger.rows import Asset

# Seconds a link is valid: enough for a large file on a slow line, and short in case a log has it.
LINK_LIFETIME = 900
_SALT = "link to an archived file"


@dataclass(frozen=True, slots=True)
class Link:
    """A link, and when it ends (seconds since the epoch); None: it lasts."""

    url: str
    expires_at: float | None


class Links:
    """Makes links. ``public_archive_url`` is where the archive is public, or None.

    ``secret`` returns what signs our own links.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        public_archive_url: str | None,
        secret: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._public_archive_url = public_archive_url
        self._secret = secret
        self._now = now

    def lasting(self, key: str | None) -> str | None:
        """Return the lasting link to an object; None without a public address of the archive."""
        if key is None or self._public_archive_url is None:
            return None
        return f"{self._public_archive_url}/{key}"

    def link(self, asset: Asset, base: str, lifetime: int = LINK_LIFETIME) -> Link:
        """Return a link to the file of an archived asset; ``base`` is our own address.

        Raise StoreError if the archive cannot make one.
        """
        key = asset.key or ""
        if url := self.lasting(key):
            return Link(url, None)
        until = self._now() + lifetime
        name = file_name(asset.ref, key)
        if url := self._store().link(key, lifetime, name=name):
            return Link(url, until)
        return Link(self._own(asset, base, int(until)), until)

    def endless(self, asset: Asset, base: str) -> str:
        """Return a link that lasts; one of our own lasts until ADMIN_TOKEN is replaced."""
        return self.lasting(asset.key) or self._own(asset, base, None)

    def _own(self, asset: Asset, base: str, until: int | None) -> str:
        signed = self._serializer().dumps([asset.ref, asset.idx, until])
        return f"{base.rstrip('/')}/files/{signed}/{file_name(asset.ref, asset.key or '')}"

    def read(self, signed: str) -> tuple[str, int] | None:
        """Return ref and index in one of our links; None if it is not ours, or over."""
        try:
            ref, index, until = self._serializer().loads(signed)
        except (BadSignature, ValueError, TypeError):
            return None
        return (ref, index) if until is None or until > self._now() else None

    def _serializer(self) -> URLSafeSerializer:
        return URLSafeSerializer(self._secret(), salt=_SALT)
