"""What every shipped deployment is compared with: variables, commands, probes, times."""

import shlex
import tomllib
from pathlib import Path

import reference_pages

from receiver.gunicorn_conf import graceful_timeout
from receiver.server.supervisor import DRAIN_TIMEOUT
from receiver.settings import Settings
from receiver.web import create_app

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
PROCFILE = dict(
    line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
)
WEB, WORKER = shlex.split(PROCFILE["web"]), shlex.split(PROCFILE["worker"])
MIGRATE = shlex.split(PROCFILE["release"].split(" && ")[0])
PORT = Settings.model_fields["port"].default
CALLBACK_MAX_BYTES = Settings.model_fields["callback_max_bytes"].default

# Seconds that a stop may take: those of gunicorn, and those of everything else.
WEB_DRAIN, DRAIN = graceful_timeout, DRAIN_TIMEOUT
LIVENESS, READINESS, METRICS = "/healthz", "/readyz", "/metrics"

_OF_LIBRARIES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "FORWARDED_ALLOW_IPS",
    "PGPASSWORD",
    "TMPDIR",
}
_OPTIONS = {
    f"{program} {command}": {option for parameter in found.params for option in parameter.opts}
    for program, command, found in reference_pages.commands()
}


def unknown(variables: set[str]) -> set[str]:
    """Return the variables that neither the service nor a library of it reads."""
    return variables - {name.upper() for name in Settings.model_fields} - _OF_LIBRARIES


def is_ours(command: list[str]) -> bool:
    """Return whether this is the Procfile's web, or one of our commands with options it has."""
    options = {word for word in command if word.startswith("--")}
    return command == WEB or options <= _OPTIONS.get(" ".join(command[:2]), {"none"})


def paths() -> set[str]:
    """Return the paths without a variable part that web answers."""
    return {rule.rule for rule in create_app().url_map.iter_rules()}
