"""A process that writes to a ledger from many threads and prints each ref after its commit.

Run as ``python writer_process.py URL THREADS WRITES``; it ends after THREADS × WRITES refs.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing

from processes import PythonProgram, python

from receiver.ledger.database import open_database
from receiver.ledger.jobs import Jobs
from receiver.model import Submission, Timing


def writer_process(url: str, *, threads: int, writes: int) -> AbstractContextManager[PythonProgram]:
    """Start such a process; it does not outlive the block."""
    return python(__file__, url, str(threads), str(writes))


def refs_in(output: str) -> list[str]:
    """Return the refs a process printed; what a kill cut off does not count."""
    return output.split("\n")[:-1]


def main(url: str, threads: int, writes: int) -> None:
    """Write and print."""
    with closing(open_database(url)) as database, ThreadPoolExecutor(threads) as pool:
        jobs = Jobs(database, Timing(7200, 120, 30, 3600), time.time)

        def write(_: int) -> None:
            for _ in range(writes):
                job = jobs.submit(
                    Submission("x" * 500, "gpt-image-1.5", {}), "https://provider.test"
                )
                os.write(1, f"{job.ref}\n".encode())

        list(pool.map(write, range(threads)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
