"""Run a program to its end, with all it starts: the one way steps of a recipe, git and uv are run.

``run_program(command, *, what, source, environ, cwd=None, umask=-1, seconds=None, apart=False, kept=1000, hint="",
report=discard, cancel=None) -> Finished``: ``Finished.status`` is the exit status, ``Finished.log`` the last lines.

The program gets a process group of its own, which is killed whole when this is asked to stop, and also when the
program has ended: what it leaves running could still write where its results lie. What left that group and holds the
output open is waited for, and the wait can be cancelled.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import IncrementalNewlineDecoder
from pathlib import Path
from typing import IO

from mr_core.errors import HostError, redact
from mr_core.events import Cancel, Level, Notice, Output, Reporter, discard

_POLL_SECONDS = 0.1
_PIECE = 1 << 16
_LONGEST_LINE = 1 << 16
_NOTICE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a program ended.

    Attributes:
        status: Exit status; that of a program that a signal ended is the signal's number, negative.
        log: The last lines it wrote, without credentials in addresses.
        output: What it wrote to stdout, when that was kept apart.
    """

    status: int
    log: tuple[str, ...]
    output: str = ""


def run_program(
    command: Sequence[str],
    *,
    what: str,
    source: str,
    environ: Mapping[str, str],
    cwd: Path | None = None,
    umask: int = -1,
    seconds: float | None = None,
    apart: bool = False,
    kept: int = 1000,
    hint: str = "",
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Finished:
    """Run ``command`` without input, and return how it ended; a status other than 0 is the caller's to judge.

    Args:
        command: Program and arguments.
        what: What the program is, for the error that it cannot be started.
        source: Of the `Output` events, one for each line.
        environ: Its whole environment.
        cwd: Where it runs.
        umask: As for `subprocess.Popen`.
        seconds: It is killed after so long, and the log says so.
        apart: Whether stdout is returned instead of being part of the log.
        kept: How many lines the log has at most.
        hint: For the error that it cannot be started.
        report: Gets the lines, in the thread of the caller.
        cancel: Kills the program and its group.

    Raises:
        HostError: it cannot be started.
        CancelledError: asked to stop.
    """
    cancel = cancel or Cancel()
    cancel.check()
    try:
        process = subprocess.Popen(
            command,
            env=environ,
            cwd=cwd,
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if apart else subprocess.STDOUT,
            bufsize=0,
            process_group=0,
        )
    except OSError as error:
        raise HostError(f"Cannot run {what}: {error.strerror}", hint=hint) from error
    log = _Log(source, kept, report)
    output: list[bytes] = []
    with process:
        sinks: dict[IO[bytes], Callable[[bytes], None]] = {}
        if process.stdout is not None:
            sinks[process.stdout] = output.append if apart else log.feed
        if process.stderr is not None:
            sinks[process.stderr] = log.feed
        try:
            _read(process, sinks, log, seconds=seconds, cancel=cancel)
        finally:
            if process.returncode is None:  # else the group is dead, and its number may be another's by now
                _kill_group(process)
            process.wait()
    return Finished(
        status=process.returncode, log=tuple(log.lines), output=b"".join(output).decode("utf-8", errors="replace")
    )


class _Log:
    """The lines of a program: each is reported, the last ones are kept."""

    def __init__(self, source: str, kept: int, report: Reporter) -> None:
        self.lines: deque[str] = deque(maxlen=kept)
        self._source, self._report = source, report
        self._decoder = IncrementalNewlineDecoder(getincrementaldecoder("utf-8")("replace"), translate=True)
        self._rest = ""
        self._told = False

    def feed(self, piece: bytes) -> None:
        """Take what was read; nothing stands for the end."""
        *lines, rest = (self._rest + self._decoder.decode(piece, final=not piece)).split("\n")
        if rest and (not piece or len(rest) > _LONGEST_LINE):
            lines, rest = [*lines, rest], ""
        self._rest = rest
        for line in lines:
            self.add(line)

    def add(self, line: str) -> None:
        """Take a line."""
        self.lines.append(redact(line))
        self._report(Output(source=self._source, line=self.lines[-1]))

    def tell_outlived(self) -> None:
        """Say once why this goes on."""
        if not self._told:
            self._told = True
            text = f"`{self._source}` has ended, but something it started still holds its output: waiting for that"
            self._report(Notice(code="process-outlived", message=text, level=Level.WARNING))


def _read(
    process: subprocess.Popen[bytes],
    sinks: Mapping[IO[bytes], Callable[[bytes], None]],
    log: _Log,
    *,
    seconds: float | None,
    cancel: Cancel,
) -> None:
    """Read until the program has ended and nobody can write to its output any more."""
    over = time.monotonic() + seconds if seconds is not None else None
    ended: float | None = None
    with selectors.DefaultSelector() as selector:
        for stream, sink in sinks.items():
            selector.register(stream, selectors.EVENT_READ, sink)
        while True:
            cancel.check()
            now = time.monotonic()
            if over is not None and now >= over:
                log.add(f"stopped after {seconds:g} seconds")
                return
            if ended is None and process.poll() is not None:
                ended = now
                _kill_group(process)
            if ended is not None and not selector.get_map():
                return
            if ended is not None and now - ended > _NOTICE_SECONDS:
                log.tell_outlived()
            if not selector.get_map():
                cancel.sleep(_POLL_SECONDS)
                continue
            for key, _ in selector.select(_POLL_SECONDS):
                piece = os.read(key.fd, _PIECE)
                key.data(piece)
                if not piece:
                    selector.unregister(key.fileobj)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group. Its number is not reused while a member, or the program's status, is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for a dead group
        os.killpg(process.pid, signal.SIGKILL)
