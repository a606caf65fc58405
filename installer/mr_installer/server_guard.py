"""The process between `mr_installer.server` and a server: whatever ends the former, the latter does not stay behind.

Run as a script (``python -I -S server_guard.py PARENT CONTROL STATUS SIGNAL GRACE COMMAND…``), standard library only.
It starts the command in a process group of its own and waits. A byte or end of file on the CONTROL descriptor, also
because its other side was killed, means: send SIGNAL, wait GRACE seconds, then SIGKILL to the whole group. So does a
parent other than PARENT, because a child that the host has forked may hold the other side of CONTROL open. Linux's
``PR_SET_PDEATHSIG`` would follow a thread, not a process, does not exist on macOS, and knows no grace.

Lines written to STATUS: ``started PID`` or ``failed ERRNO``, then ``exited STATUS FORCED`` or ``signalled NUMBER
FORCED``, where FORCED is 1 when it took SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

_ASKED_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PARENT_SECONDS = 1.0
"""How often to look whether the parent is still there."""


def main(arguments: list[str]) -> int:
    """Start the command, watch it and the control descriptor, and report how it ended."""
    parent, control, status, stop_signal, grace, command = _parse(arguments)
    wake = _wake_on_signals()
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these, and ignored signals survive `exec`
        )
    except OSError as error:
        _tell(status, f"failed {error.errno}")
        return 0
    _tell(status, f"started {pid}")
    process = Child(pid)
    forced = _watch(process, parent, control, wake, stop_signal=stop_signal, grace=grace)
    _kill_group(pid)  # workers that outlived their parent hold memory and ports
    code = process.reap()
    _tell(status, f"exited {code} {forced:d}" if code >= 0 else f"signalled {-code} {forced:d}")
    return 0


def _parse(arguments: list[str]) -> tuple[int, int, int, signal.Signals, float, list[str]]:
    parent, control, status, number, grace, *command = arguments
    for descriptor in (int(control), int(status)):
        os.set_inheritable(descriptor, False)
    return int(parent), int(control), int(status), signal.Signals(int(number)), float(grace), command


class Child:
    """A child that is reaped late: while its zombie is there, nobody else gets its number, and with it our SIGKILL."""

    __slots__ = ("_ending", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ending: int | None = None

    def has_ended(self) -> bool:
        """Tell without reaping, where Python can do that; on macOS it has no ``waitid`` before 3.13."""
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        ended, ending = os.waitpid(self.pid, os.WNOHANG)
        self._ending = ending if ended else None
        return bool(ended)

    def reap(self) -> int:
        """Wait for the end, and return the exit status, negative for a signal."""
        ending = os.waitpid(self.pid, 0)[1] if self._ending is None else self._ending
        return os.waitstatus_to_exitcode(ending)


def _wake_on_signals() -> int:
    """Return a descriptor that becomes readable when a child ends or somebody asks this process to end."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_ASKED_TO_END):
        signal.signal(number, lambda *_: None)
    return readable


def _watch(process: Child, parent: int, control: int, wake: int, *, stop_signal: signal.Signals, grace: float) -> bool:
    """Wait until the process has ended, and leave it unreaped; return whether SIGKILL was needed."""
    deadline: float | None = None
    forced = False
    while not process.has_ended():
        now = time.monotonic()
        if deadline is not None and not forced and now >= deadline:
            forced = True
            _kill_group(process.pid)
        timeout = None if forced else _PARENT_SECONDS if deadline is None else max(0.0, deadline - now)
        watched = [wake, control] if deadline is None else [wake]
        ready, _, _ = select.select(watched, [], [], timeout)
        asked = control in ready or os.getppid() != parent
        if wake in ready:
            asked = any(number in _ASKED_TO_END for number in os.read(wake, 512)) or asked
        if asked and deadline is None:
            deadline = time.monotonic() + grace
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, stop_signal)
    return forced


def _kill_group(group: int) -> None:
    # macOS answers EPERM for a group of which only a zombie is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _tell(status: int, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(status, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
