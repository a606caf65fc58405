"""The one error of the shim, and the exit statuses it may carry (the same table as the rest of the project)."""

from __future__ import annotations

USAGE = 2
INVALID_INPUT = 3
NOT_FOUND = 4
UNSUPPORTED = 5
HOST = 9
PROBE = 11


class ShimError(Exception):
    """The server cannot be started; ``exit_code`` says whose move it is, ``hint`` what the move is.

    The message has the form ``Cannot <verb> <object>: <reason>`` without a final period.
    """

    def __init__(self, exit_code: int, message: str, hint: str = "") -> None:
        self.exit_code = exit_code
        self.message = message
        self.hint = hint
        super().__init__(message)
