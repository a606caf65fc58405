"""A start that the shim refused: its last words, read as the error they are and not shown as output as well."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from mr_core.errors import BundleError, HostError, InvalidInputError, NotFoundError, UnsupportedError, UsageError
from mr_core.events import Event, Output, Reporter

_ERROR, _HINT = "error: ", "hint: "
_BEGIN = f"{_ERROR}Cannot "
_HOLD_SECONDS = 0.5
"""The shim ends within milliseconds of its error; what stays the last line for longer is the server's own."""
_KINDS: dict[int, type[BundleError]] = {
    error.exit_code: error for error in (UsageError, InvalidInputError, NotFoundError, UnsupportedError, HostError)
}
"""Statuses of the shim, which mean the same as ours."""


def read_refusal(status: int, tail: Sequence[str]) -> BundleError | None:
    """Return the shim's own error: it writes ``error: Cannot …`` and ``hint: …`` last, and nothing after."""
    kind = _KINDS.get(status)
    lines = [line for line in tail if line]
    hint = lines.pop().removeprefix(_HINT) if lines and lines[-1].startswith(_HINT) else ""
    if kind is None or not lines or not lines[-1].startswith(_BEGIN):
        return None
    return kind(lines[-1].removeprefix(_ERROR), hint=hint)


class HeldRefusal:
    """Passes events on, but keeps lines back that look like a refusal until it is known what they are.

    All other output is passed on at once. Safe to use from several threads.
    """

    __slots__ = ("_held", "_holding", "_lock", "_report", "_since")

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._held: list[Event] = []
        self._since = 0.0
        self._holding = True

    def __call__(self, event: Event) -> None:
        """Deliver one event now, or keep it."""
        with self._lock:
            if isinstance(event, Output) and self._holding:
                if event.line.startswith(_HINT) and len(self._held) == 1:
                    self._held.append(event)
                    return
                self._release()
                if event.line.startswith(_BEGIN):
                    self._held.append(event)
                    self._since = time.monotonic()
                    return
            self._report(event)

    def release_old(self) -> None:
        """Deliver lines that have waited too long to be a refusal; to be called now and then."""
        with self._lock:
            if time.monotonic() - self._since >= _HOLD_SECONDS:
                self._release()

    def release(self) -> None:
        """Deliver what is held, and hold nothing from now on: the start is decided."""
        with self._lock:
            self._holding = False
            self._release()

    def drop(self) -> None:
        """Forget what is held: it was a refusal, and is raised as an error."""
        with self._lock:
            self._held.clear()

    def _release(self) -> None:
        for event in self._held:
            self._report(event)
        self._held.clear()
