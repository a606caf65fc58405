"""What long calls tell their caller while they run.

Events hold domain values and no formatted text; a *sink* (console, JSON lines, a daemon's
callable, a test's recorder) decides how they look. Every long call takes ``report=`` and
``cancel=``; there is no global state.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Self, TypeAlias

from mr_core.errors import CancelledError

PROGRESS_SECONDS = 0.1
PROGRESS_BYTES = 1 << 20


class Outcome(Enum):
    """How a phase or a blob ended."""

    DONE = "done"
    SKIPPED = "skipped"
    MOUNTED = "mounted"
    RESUMED = "resumed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Level(Enum):
    """How much a notice matters."""

    DETAIL = "detail"
    NOTE = "note"
    WARNING = "warning"


class Unit(Enum):
    """What the numbers of a progress event count."""

    BYTES = "bytes"
    ITEMS = "items"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted:
    """A named step began; ``total`` is in ``unit`` when it is known beforehand."""

    phase: str
    subject: str = ""
    total: int | None = None
    unit: Unit = Unit.ITEMS


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseProgress:
    """Absolute position of a running phase, never above ``total``."""

    phase: str
    done: int
    total: int
    unit: Unit = Unit.ITEMS


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFinished:
    """A named step ended after ``seconds`` of wall time; ``detail`` holds facts such as sizes."""

    phase: str
    seconds: float
    outcome: Outcome = Outcome.DONE
    detail: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobProgress:
    """Absolute offset in a blob of ``total`` bytes."""

    digest: str
    offset: int
    total: int
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobFinished:
    """A blob is complete and its digest matched (or it was there already: ``SKIPPED``).

    Attributes:
        sent: Whether it went to a store, and did not come from one.
    """

    digest: str
    total: int
    outcome: Outcome = Outcome.DONE
    label: str = ""
    sent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One line that a child process wrote."""

    source: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know; ``code`` is a stable slug."""

    code: str
    message: str
    level: Level = Level.NOTE


Event: TypeAlias = PhaseStarted | PhaseProgress | PhaseFinished | BlobProgress | BlobFinished | Output | Notice
Reporter: TypeAlias = Callable[[Event], None]


def discard(_event: Event) -> None:
    """Drop the event: the default reporter."""


class Cancel:
    """A token that asks a long call to stop; safe to set from any thread or signal handler.

    It is no `threading.Event`: setting one in a signal handler hangs when the handler interrupted a wait for it,
    because both take its lock. The ``put`` of a `queue.SimpleQueue` is reentrant.
    """

    __slots__ = ("_is_set", "_wake")

    def __init__(self) -> None:
        self._is_set = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Ask every call that holds this token to stop soon."""
        self._is_set = True
        self._wake.put(None)

    @property
    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._is_set

    def check(self) -> None:
        """Raise `CancelledError` when a stop was asked for."""
        if self._is_set:
            raise CancelledError

    def sleep(self, seconds: float) -> None:
        """Sleep up to ``seconds``; raise `CancelledError` at once when asked to stop."""
        if not self._is_set:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=max(0.0, seconds))
                self._wake.put(None)  # for the next one who sleeps
        if self._is_set:
            raise CancelledError


class SafeReporter:
    """Pass events on from any thread, one at a time; detach a reporter that raises.

    Progress events are throttled to one per 100 ms or 1 MiB for each subject; starts, ends and notices always pass. A
    reporter may cause further events while it handles one; it gets them at once, within that call.
    """

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._lock = threading.RLock()
        self._last: dict[str, tuple[float, int]] = {}

    def __call__(self, event: Event) -> None:
        """Deliver one event."""
        with self._lock:
            if self._dropped(event):
                return
            try:
                self._report(event)
            except Exception as error:  # noqa: BLE001 - a broken sink must not break an install
                report, self._report = self._report, discard
                with contextlib.suppress(Exception):
                    report(Notice(code="reporter-detached", message=f"{error}", level=Level.WARNING))

    def _dropped(self, event: Event) -> bool:
        match event:
            case BlobProgress(digest=key, offset=position, total=total):
                step = PROGRESS_BYTES
            case PhaseProgress(phase=key, done=position, total=total, unit=unit):
                step = PROGRESS_BYTES if unit is Unit.BYTES else total + 1
            case _:
                return False
        now = time.monotonic()
        then, before = self._last.get(key, (0.0, 0))
        if position < total and now - then < PROGRESS_SECONDS and 0 <= position - before < step:
            return True
        self._last[key] = (now, position)
        return False


class Phase:
    """Report the start and the end of a phase around a block, with its wall time."""

    def __init__(
        self,
        report: Reporter,
        phase: str,
        subject: str = "",
        *,
        total: int | None = None,
        unit: Unit = Unit.ITEMS,
    ) -> None:
        self._report = report
        self._phase = phase
        self._total = total
        self._unit = unit
        self.outcome = Outcome.DONE
        self.detail: dict[str, object] = {}
        self.seconds = 0.0
        self._started = PhaseStarted(phase=phase, subject=subject, total=total, unit=unit)

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._report(self._started)
        return self

    def progress(self, done: int) -> None:
        """Report the absolute position."""
        if self._total is not None:
            self._report(
                PhaseProgress(phase=self._phase, done=min(done, self._total), total=self._total, unit=self._unit)
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.seconds = time.monotonic() - self._begin
        outcome = self.outcome
        if kind is not None:
            outcome = Outcome.CANCELLED if issubclass(kind, CancelledError) else Outcome.FAILED
        self._report(PhaseFinished(phase=self._phase, seconds=self.seconds, outcome=outcome, detail=self.detail))
