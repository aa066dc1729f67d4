"""The manifest: ``job.json`` beside a job's objects, from which the ledger can be rebuilt.

Keys are a pure function of job and index: the date comes from the ref. Times are RFC 3339, UTC.
"""

import json
from datetime import UTC, datetime

from receiver.ledger.rows import Asset, DeliveryEntry, Job
from receiver.model import JobState, ref_time

FORMAT = 1


def asset_key(ref: str, idx: int, extension: str) -> str:
    """Return the key of one result file."""
    return f"{_folder(ref)}/{idx}.{extension}"


def manifest_key(ref: str) -> str:
    """Return the key of a job's manifest."""
    return f"{_folder(ref)}/job.json"


def _folder(ref: str) -> str:
    return f"{ref_time(ref):%Y/%m/%d}/{ref}"


def manifest(job: Job, params: str, state: JobState, assets: list[Asset], deliveries: list[DeliveryEntry]) -> bytes:
    """Write down a job that ends in ``state``: request, every delivery's digest, every asset's facts and where it came from."""
    content = {
        "format": FORMAT,
        "ref": job.ref,
        "state": state,
        "provider": job.provider,
        "base_url": job.base_url,
        "provider_id": job.provider_id,
        "api": job.api,
        "mode": job.mode,
        "key": job.key,
        "request": {"model": job.model, "prompt": job.prompt, "params": json.loads(params)},
        "submitted_at": timestamp(job.submitted_at),
        "ended_at": timestamp(job.ended_at),
        "deliveries": [_delivery(row) for row in deliveries],
        "assets": [_asset(asset) for asset in assets],
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def timestamp(moment: float | None) -> str | None:
    """Return a moment (seconds since the epoch) as RFC 3339 text with milliseconds; nothing stays nothing."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _delivery(row: DeliveryEntry) -> dict[str, object]:
    return {"source": row.source, "verdict": row.verdict, "received_at": timestamp(row.received_at), "sha256": row.digest}


def _asset(asset: Asset) -> dict[str, object]:
    return {
        "index": asset.idx,
        "state": asset.state,
        "key": asset.key,
        "sha256": asset.sha256,
        "size": asset.size,
        "content_type": asset.content_type,
        "width": asset.width,
        "height": asset.height,
        "source_url": asset.url,
        "announced_at": timestamp(asset.announced_at),
        "expires_at": timestamp(asset.expires_at),
        "finished_at": timestamp(asset.finished_at),
        "attempts": asset.attempts,
        "error": asset.error,
    }
