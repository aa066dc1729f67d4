"""How the service logs: one line an event, JSON for machines, colours for a terminal.

Tickets and secrets should never get this far. Should one all the same, quoted by a library or in a traceback, it is blackened here.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Literal

import structlog
from structlog.typing import Processor

from receiver.telemetry.redaction import Redactor


class _Blackening(structlog.stdlib.ProcessorFormatter):
    """Writes a line, its traceback included, and lets no secret stand in it."""

    mask = Redactor()

    def format(self, record: logging.LogRecord) -> str:
        return self.mask(super().format(record))


def configure(level: str, form: Literal["auto", "json", "console"], secrets: Iterable[str]) -> None:
    """Set up structlog, and the logging of libraries, for this process. Lines go to stderr.

    ``level`` and ``form`` are the settings LOG_LEVEL and LOG_FORMAT; ``secrets`` are redacted in every line.
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Plain tracebacks: the fancy ones print local variables, and a secret may be among them.
    renderer: list[Processor] = [
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    ]
    if as_json:
        renderer = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
    )
    output = logging.StreamHandler(sys.stderr)
    formatter = _Blackening(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    formatter.mask = Redactor(secrets)
    output.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [output]
    root.setLevel(logging.WARNING)  # libraries speak up only when something is wrong
    for name in ("receiver", "submitter"):
        logging.getLogger(name).setLevel(level)
