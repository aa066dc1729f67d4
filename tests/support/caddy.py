"""Caddy with the shipped Caddyfile: only ports, certificates and the public name are replaced."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import ROOT, free_port, running
from real_parts import missing


@dataclass(frozen=True, slots=True)
class Caddy:
    """A running Caddy: its ports on 127.0.0.1, and the root certificate that its own is from."""

    http: int
    https: int
    root: Path


@contextmanager
def caddy(folder: Path, domain: str, upstream: str) -> Iterator[Caddy]:
    """Run Caddy for ``domain`` in front of ``upstream`` (host:port)."""
    program = shutil.which("caddy")
    if program is None:
        missing("caddy (Debian: caddy)")
    server = Caddy(free_port(), free_port(), folder / "caddy/pki/authorities/local/root.crt")
    here = (
        f"{{\n admin off\n local_certs\n skip_install_trust\n default_bind 127.0.0.1\n"
        f" http_port {server.http}\n https_port {server.https}\n"
        f" storage file_system {folder}/caddy\n"
    )
    text = (ROOT / "infra/proxies/Caddyfile").read_text(encoding="utf-8").replace("{\n", here, 1)
    config = folder / "Caddyfile"
    # What Debian's version calls it.
    config.write_text(re.sub(r"request_buffers \w+", "buffer_requests", text))
    environ = {"DOMAIN": domain, "UPSTREAM": upstream, "HOME": str(folder)}
    command = [program, "run", "--adapter", "caddyfile", "--config", str(config)]
    with running(command, environ, folder):
        yield server
