"""Imports structlog without rich, in the programs of the service.

structlog imports rich, if it is installed, for tracebacks in colours, which the service never
prints. That would cost each process 3 MB, and each start a tenth of its processor time. Programs
that use ``submitter`` as a library keep rich. So only our own programs import this module, before
all our other modules. Commands that print tables import rich themselves.
"""

import sys

_HIDDEN = None  # Python then behaves as if the package were not installed

if "rich" not in sys.modules and "structlog" not in sys.modules:
    sys.modules["rich"] = _HIDDEN  # type: ignore[assignment]  # as the import system allows
    import structlog  # noqa: F401

    del sys.modules["rich"]
