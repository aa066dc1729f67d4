"""A worker whose assets take 10 ms each and have no file: all the rest is that of the service."""

import time
from typing import Any

from receiver.archive.archiver import Archiver
from receiver.archive.manifest import asset_key
from receiver.cli import main
from receiver.ledger.claims import Claimed
from receiver.ledger.rows import Asset, StoredAsset

_SECONDS = 0.01


def _take_time(_archiver: Archiver, claimed: Claimed[Asset], _progress: Any) -> StoredAsset:
    time.sleep(_SECONDS)
    asset = claimed.row
    key = asset_key(asset.ref, asset.idx, "png", asset.folder)
    return StoredAsset(key, "0" * 64, 1, "image/png", 1, 1)


if __name__ == "__main__":
    Archiver._archive = _take_time  # type: ignore[assignment,method-assign]
    main(["worker"])
