"""The yardstick of archiving: fetch and write, as a short script would, without any check.

``python -m tests.bench.bare URL AMOUNT THREADS TARGET`` fetches URL ``AMOUNT`` times to TARGET, a
directory or ``s3://bucket/prefix``, and prints the seconds it took and its processor time.
"""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import requests

Put = Callable[[str, bytes], object]


def to_directory(folder: Path) -> Put:
    """Return what writes a file and waits until it is on disk."""
    folder.mkdir(parents=True)

    def put(name: str, data: bytes) -> None:
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    return put


def to_bucket(bucket: str, prefix: str) -> Put:
    """Return what puts an object, with boto3 as it comes."""
    client = boto3.session.Session().client("s3")
    return lambda name, data: client.put_object(
        Bucket=bucket, Key=f"{prefix}/{name}", Body=data, ContentType="image/png"
    )


def main() -> None:
    """Fetch and put."""
    url, amount, width, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    bucket, _, prefix = target.removeprefix("s3://").partition("/")
    put = to_bucket(bucket, prefix) if target.startswith("s3://") else to_directory(Path(target))

    def bring(number: int) -> None:
        name = f"{number}.png"
        answer = requests.get(f"{url}/{name}", timeout=30)
        answer.raise_for_status()
        put(name, answer.content)

    with ThreadPoolExecutor(width) as threads:
        list(
            threads.map(bring, range(width))
        )  # threads, connections and modules are there before the clock starts
        started, used = time.perf_counter(), time.process_time()
        list(threads.map(bring, range(width, width + amount)))
        sys.stdout.write(f"{time.perf_counter() - started} {time.process_time() - used}")


if __name__ == "__main__":
    main()
