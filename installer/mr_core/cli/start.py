"""The first moments of a command: streams that are closed, and Ctrl-C before anything else could handle it.

Imported before everything heavy, so it needs next to nothing itself.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

CANCELLED = 130


def prepare_process() -> None:
    """Open what the caller closed among standard input, output and error, and let Ctrl-C end this process quietly."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    signal.signal(signal.SIGINT, _quit)


def _quit(_signal: int, _frame: object) -> NoReturn:
    os.write(2, b"error: Cancelled\n")
    os._exit(CANCELLED)
