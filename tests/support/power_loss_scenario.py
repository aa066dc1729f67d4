"""A process that receives and archives, and writes a line for each thing that must survive now.

It is run by ``tests/integration/test_power_loss.py`` under ``strace``, with one thread. Arguments:
DATA_DIR with a migrated ledger, the address of the provider's files, the number of jobs.
"""

import hashlib
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from ledgers import LedgerHarness, succeeded

from receiver import data_dir
from receiver.archive.stores.directory import DirectoryStore
from receiver.ledger.database import open_database
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy


def main(data: Path, source: str, jobs: int) -> None:
    """Do everything once for each job, then close the ledger, which removes its log."""
    ledger = LedgerHarness(open_database(f"sqlite:///{data / 'ledger.sqlite3'}"))
    ledger.totals.counts()  # from now on the log of the ledger exists
    say("secret", data_dir.keep(data / "secrets" / "callback"))
    scratch = data / "scratch"
    scratch.mkdir()
    fetcher = Fetcher(AddressPolicy.parse([source], ()), max_bytes=100_000, timeout=10)
    archiver = ledger.archiver(fetcher, DirectoryStore(data / "archive"), scratch)
    for number in range(jobs):
        ref = ledger.waiting(f"task-{number}")
        say("submitted", ref)
        urls = [f"http://{source}/{number}/{idx}.png" for idx in range(2)]
        body = succeeded(*urls, provider_id=f"task-{number}")
        ledger.deliver(ref, body)
        say("acknowledged", ref, hashlib.sha256(body).hexdigest())
        for claimed in ledger.assets.claim(2):
            archiver.archive(claimed)
            say("archived", ref, str(claimed.row.idx))
        assert ledger.job(ref).finished_at is not None
        say("ended", ref)
        empty_log(data / "ledger.sqlite3")
    ledger.database.close()
    say("closed")


def empty_log(ledger: Path) -> None:
    """Copy the log into the ledger, as SQLite does after 1000 pages; the next write reuses it."""
    with closing(sqlite3.connect(ledger)) as connection:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert not busy


def say(*words: str) -> None:
    """Say what must survive; one system call."""
    os.write(1, f"{' '.join(words)}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
