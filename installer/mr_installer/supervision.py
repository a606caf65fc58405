"""A supervised process: its guard, its output, and how it ended."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from mr_core.errors import BundleError, HostError, NotFoundError, UsageError
from mr_core.events import Cancel, Level, Notice, Output, Reporter, discard
from mr_installer.python_path import find_python

TAIL_LINES = 40
_LINE_LIMIT = 64 << 10
_POLL_SECONDS = 0.2
_KILL_SECONDS = 10.0
_START_SECONDS = 30.0
"""Most that the guard may take to start the command: an interpreter's start and one `exec`, on a slow network disk."""
_GUARD = Path(__file__).with_name("server_guard.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """It ended because we asked; ``forced`` when it took SIGKILL after the grace."""

    forced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """It ended by itself with this exit status."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """A signal that we did not send ended it."""

    signal: int


ExitReason: TypeAlias = Stopped | Exited | Signalled


class SupervisedProcess:
    """A command in a process group of its own, which never outlives this process.

    Its output goes line by line to ``report`` (as `Output`), to the file ``log`` when there is one, and the last lines
    stay in memory. Safe to use from several threads.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None,
        stop_signal: str,
        stop_grace: float,
        log: Path | None,
        report: Reporter = discard,
        cancel: Cancel | None = None,
    ) -> None:
        """Start ``command``.

        Raises:
            UsageError: when an argument or a variable of ``environment`` cannot be passed to a process.
            NotFoundError: when its program does not exist.
            HostError: when it, or the log, cannot be opened; when it does not start in time; or when no Python
                interpreter is known that could run the guard.
            CancelledError: when asked to stop before it has started.
        """
        self._grace = stop_grace
        self._report = report
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._asked = False
        self._failure = 0
        self._reason: ExitReason | None = None
        self._known = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.pid = 0
        python = find_python()
        if python is None:
            raise HostError(
                f"Cannot start `{command[0]}`: no Python interpreter runs this program, and its guard needs one",
                hint="start the backend's `bin/mr-serve` without supervision",
            )
        self._log = _open_log(log)
        control, self._control = os.pipe()
        status, told = os.pipe()
        number = int(signal.Signals[stop_signal])
        options = [str(value) for value in (os.getpid(), control, told, number, stop_grace)]
        try:
            self._guard = subprocess.Popen(
                [python, "-I", "-S", "-B", _GUARD, *options, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                pass_fds=(control, told),
                start_new_session=True,  # a Ctrl-C in the terminal is for us; the server gets signal and grace
            )
        except (OSError, ValueError) as error:
            os.close(status)
            os.close(self._control)
            self._close_log()
            raise _not_started(command[0], python, error) from error
        finally:
            os.close(control)
            os.close(told)
        self._reader = threading.Thread(target=self._read_output, name="server-output", daemon=True)
        self._reader.start()
        self._watcher = threading.Thread(target=self._read_status, args=(status,), name="server-status", daemon=True)
        self._watcher.start()
        self._wait_started(command[0], cancel)
        self._check_started(command[0])

    def _wait_started(self, program: str, cancel: Cancel | None) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._known.wait(_POLL_SECONDS):
            late = time.monotonic() >= deadline
            if late or (cancel is not None and cancel.is_set):
                # The guard is not killed: it may have started the command just now, and ends it when it reads this.
                self._let_go(asked=True)
            if cancel is not None:
                cancel.check()
            if late:
                raise HostError(
                    f"Cannot start `{program}`: it did not begin to run within {_START_SECONDS:g} s",
                    hint="check that its disk answers",
                )

    def _check_started(self, program: str) -> None:
        if self.pid:
            return
        self.drain()
        if not self._failure:
            raise HostError(f"Cannot start `{program}`: the process that guards it ended at once", tail=self.tail)
        reason = os.strerror(self._failure).lower()
        if self._failure == errno.ENOENT:
            raise NotFoundError(f"Cannot start `{program}`: {reason}", hint="install the backend again")
        raise HostError(f"Cannot start `{program}`: {reason}", hint="check its permissions, and mounts with `noexec`")

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines it wrote."""
        return tuple(self._tail)

    @property
    def reason(self) -> ExitReason | None:
        """How it ended, or `None` while it runs."""
        return self._reason if self._ended.is_set() else None

    def wait(self, timeout: float | None = None, *, cancel: Cancel | None = None) -> ExitReason | None:
        """Wait until it has ended, for ``timeout`` seconds at most; `None` when it still runs then.

        Raises:
            CancelledError: when asked to stop waiting; the process still runs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.is_set():
            if cancel is not None:
                cancel.check()
            left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return None
            self._ended.wait(left)
        return self._reason

    def stop(self) -> ExitReason:
        """Send the stop signal, wait for the grace, then kill the whole group; return how it ended.

        Raises:
            HostError: when not even SIGKILL ended it (a process stuck in the kernel).
        """
        self._let_go(asked=True)
        reason = self.wait(self._grace + _KILL_SECONDS)
        if reason is None:
            raise HostError(f"Cannot stop process {self.pid}: it did not end after SIGKILL", pid=self.pid)
        self.drain()
        return reason

    def drain(self) -> None:
        """After the end: wait until its last lines have been read.

        A process that left the group may hold the other side open, so this takes two seconds at most.
        """
        self._watcher.join(1.0)
        self._reader.join(1.0)

    def _let_go(self, *, asked: bool) -> None:
        """Close our side of the control pipe, once; when ``asked``, say so, since a forked child may hold it open."""
        with self._lock:
            if self._control >= 0:
                self._asked = asked
                if asked:
                    with contextlib.suppress(OSError):  # the guard has ended
                        os.write(self._control, b"\n")
                os.close(self._control)
                self._control = -1

    def _read_status(self, status: int) -> None:
        reason: ExitReason = Signalled(signal=int(signal.SIGKILL))  # the guard itself was killed
        told = False
        with open(status, encoding="ascii") as lines:
            for line in lines:
                word, number, *forced = line.split()
                match word:
                    case "started":
                        self.pid = int(number)
                        self._known.set()
                    case "failed":
                        self._failure = int(number)
                        told = True
                    case "exited":
                        reason, told = Exited(status=int(number)), True
                    case _:
                        reason, told = Signalled(signal=int(number)), True
                if self._asked:
                    reason = Stopped(forced=forced == ["1"])
        if not told and self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._guard.wait()
        self._let_go(asked=False)
        self._reason = reason
        self._ended.set()
        self._known.set()

    def _read_output(self) -> None:
        stream = self._guard.stdout
        assert stream is not None  # noqa: S101 - asked for above; narrows the type
        with stream:
            while raw := stream.readline(_LINE_LIMIT):
                self._write_log(raw)
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                self._tail.append(line)
                self._report(Output(source="server", line=line))
        self._close_log()

    def _write_log(self, raw: bytes) -> None:
        if self._log is None:
            return
        try:
            self._log.write(raw)
        except OSError as error:  # the server must not stand still because a disk is full
            self._report(Notice(code="log-failed", message=f"{error.strerror}", level=Level.WARNING))
            self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()
            self._log = None


def _open_log(path: Path | None) -> BinaryIO | None:
    if path is None:
        return None
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb", buffering=0)
    except OSError as error:
        raise HostError(f"Cannot open log `{path}`: {error.strerror}", log=str(path)) from error
    except ValueError as error:  # a NUL, or letters that the filesystem's encoding lacks
        raise UsageError(f"Cannot open log `{path!r}`: {error}") from error


def _not_started(program: str, python: Path, error: OSError | ValueError) -> BundleError:
    if isinstance(error, OSError):
        return HostError(f"Cannot start `{python}`: {error.strerror}")
    return UsageError(
        f"Cannot start `{program}`: an argument or a variable cannot be passed to it ({error})",
        hint="check names and values of the environment, and the extra options",
    )
