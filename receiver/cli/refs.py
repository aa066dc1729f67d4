"""Refs on the command line: whole or by their beginning, in any case."""

import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from receiver.errors import ReceiverError
from receiver.ledger.rows import Job
from receiver.services import Services
from receiver.telemetry.printable import printable

P = ParamSpec("P")
T = TypeVar("T")

# How many refs an error names if several have this beginning.
_SHOWN = 3
# A ref, or its beginning; a shorter text is more likely a mistake.
_REF_PREFIX = "[0-7][0-9A-HJKMNP-TV-Z]{3,25}"


def ref_argument(command: Callable[P, T]) -> Callable[P, T]:
    """Give a command the argument REF: a ref in any case, or its beginning if only one job has it.

    Decorated functions get the text; ``known_job`` finds the job.
    """
    return click.argument("ref", callback=_ref_text)(command)


def _ref_text(_context: click.Context, _option: click.Parameter, value: str) -> str:
    return ref_text(value)


def ref_text(value: str) -> str:
    """Return a ref or its beginning in upper case; raise BadParameter if it cannot be one."""
    if not re.fullmatch(_REF_PREFIX, value.strip().upper()):
        raise click.BadParameter(
            f"{printable(value)} is not a ref; write one as `receiver jobs` shows it, "
            "such as 01JZ2Q7V3N0123456789ABCDEF, or its beginning"
        )
    return value.strip().upper()


def full_ref(services: Services, text: str) -> str:
    """Return the ref with this beginning; raise ReceiverError if there is none, or several."""
    found = services.queries.refs_beginning(text, _SHOWN + 1)
    if not found:
        raise ReceiverError(f"there is no job {text}; `receiver jobs` lists what there is")
    if len(found) > 1:
        more = ", …" if len(found) > _SHOWN else ""
        shown = ", ".join(found[:_SHOWN]) + more
        raise ReceiverError(f"{text} is the beginning of several jobs: {shown}")
    return found[0]


def known_job(services: Services, text: str) -> Job:
    """Return the job with this ref or beginning of one; raise ReceiverError if there is none."""
    ref = full_ref(services, text)
    job = services.queries.job(ref)
    if job is None:  # pruned since
        raise ReceiverError(f"there is no job {ref}; `receiver jobs` lists what there is")
    return job
