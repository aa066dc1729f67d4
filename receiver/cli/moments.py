"""Moments on the command line: a day, a time in this machine's zone, or an age such as ``2h``."""

import re
from datetime import datetime, timedelta

import click

from receiver import clock

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_AGO = 100 * 366 * 86400


class Moment(click.ParamType[float]):
    """Seconds since the epoch; of a day its begin, or its end where ``after`` is set."""

    name = "time"

    def __init__(self, *, after: bool = False) -> None:
        self._after = after

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read ``2026-07-01``, ``2026-07-01 18:00``, RFC 3339, or ``2h`` for two hours ago."""
        text = str(value).strip()
        if found := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
            return clock.now() - min(int(found[1]) * _UNITS[found[2]], _LONGEST_AGO)
        try:
            moment = datetime.fromisoformat(text)
            is_day = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is not None
            return (moment + timedelta(days=self._after and is_day)).timestamp()
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is not a time: write a day such as 2026-07-01, a time such as "
                '"2026-07-01 18:00", or an age: 30m, 2h, 7d',
                param,
                ctx,
            )


MOMENT, MOMENT_AFTER = Moment(), Moment(after=True)
