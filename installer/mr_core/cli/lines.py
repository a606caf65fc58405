"""The plain sink: a line for each finished phase on stderr, for logs and pipes."""

from __future__ import annotations

import threading
from typing import IO

from mr_core.cli.units import show_bytes, show_seconds
from mr_core.errors import printable
from mr_core.events import (
    BlobFinished,
    BlobProgress,
    Event,
    Level,
    Notice,
    Outcome,
    Output,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    Unit,
)

_MOST = 10_000
VERBS = {outcome: "" if outcome is Outcome.DONE else outcome.value for outcome in Outcome}
"""How an outcome reads at the end of a line."""


class PlainLines:
    """Writes one line for each phase that ended; ``verbose`` adds blobs, child output and details.

    Attributes:
        show_output: Whether lines of child processes are written.
    """

    def __init__(self, stream: IO[str], *, verbose: bool = False) -> None:
        self._stream = stream
        self._verbose = verbose
        self.show_output = verbose
        self._totals: dict[str, PhaseStarted] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write the line for one event, if it has one."""
        line = self._line(event)
        if line:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()

    def close(self) -> None:
        """Do nothing: every line is complete."""

    def _line(self, event: Event) -> str:
        match event:
            case PhaseStarted():
                self._totals[event.phase] = event
                return ""
            case PhaseFinished():
                return phase_line(event, self._totals.pop(event.phase, None))
            case Notice(level=Level.DETAIL):
                return f"  {printable(event.message, most=_MOST)}" if self._verbose else ""
            case Notice(level=Level.WARNING):
                return f"warning: {printable(event.message, most=_MOST)}"
            case Notice():
                return f"note: {printable(event.message, most=_MOST)}"
            case BlobFinished():
                return f"  {blob_line(event)}" if self._verbose else ""
            case Output():
                return f"  {event.source}: {printable(event.line, most=_MOST)}" if self.show_output else ""
            case PhaseProgress() | BlobProgress():
                return ""


def blob_line(event: BlobFinished) -> str:
    """Return what a finished blob looks like on one line."""
    done = VERBS[event.outcome] or ("sent" if event.sent else "fetched")
    return f"{event.label or event.digest[:19]} {show_bytes(event.total)} {done}"


def _fact(key: str, value: object) -> str:
    match value:
        case True:
            return key
        case int() if key == "bytes":
            return show_bytes(value)
        case _:
            return f"{key} {value}"


def shorten(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` columns (at least 12), with an ellipsis where it was cut."""
    text = text.strip()
    width = max(12, width)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def phase_line(event: PhaseFinished, started: PhaseStarted | None, *, width: int = 0) -> str:
    """Return what a finished phase looks like on one line; its subject is cut to fit ``width`` columns, if given."""
    parts = [f"{event.phase:<11}"]
    if started is not None and started.subject:
        rest = sum(len(f"{key} {value} ") for key, value in event.detail.items()) + 36
        parts.append(shorten(started.subject, width - rest) if width else started.subject)
    if started is not None and started.total and started.unit is Unit.BYTES:
        parts.append(show_bytes(started.total))
    parts.extend(_fact(key, value) for key, value in event.detail.items() if value not in (False, None, ""))
    if VERBS[event.outcome]:
        parts.append(VERBS[event.outcome])
    parts.append(f"({show_seconds(event.seconds)})")
    return " ".join(parts)
