"""The id of a request, which is in its response and on each of its log lines."""

import re
from random import getrandbits

REQUEST_ID_HEADER = "X-Request-Id"
# A proxy may have set it; a value of any other form is not repeated.
_GIVEN = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)


def request_id(given: str) -> str:
    """Return the id of a request: the one that came with it, or a new one."""
    if _GIVEN.fullmatch(given):
        return given
    return f"{getrandbits(64):016x}"  # not a secret; random numbers of the system would cost a call
