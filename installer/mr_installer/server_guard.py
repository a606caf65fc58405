"""The process between `mr_installer.server` and a server: whatever ends the former, the latter does not stay behind.

Run as a script (``python -I -S server_guard.py CONTROL STATUS SIGNAL GRACE COMMAND…``), standard library only. It
starts the command in a process group of its own and waits. End of file on the CONTROL descriptor, also because its
other side was killed, means: send SIGNAL, wait GRACE seconds, then SIGKILL to the whole group. Linux's
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


def main(arguments: list[str]) -> int:
    """Start the command, watch it and the control descriptor, and report how it ended."""
    control, status, stop_signal, grace, command = _parse(arguments)
    wake = _wake_on_signals()
    try:
        process = os.posix_spawn(
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
    _tell(status, f"started {process}")
    ending, forced = _watch(process, control, wake, stop_signal=stop_signal, grace=grace)
    _kill_group(process)  # workers that outlived their parent hold memory and ports
    code = os.waitstatus_to_exitcode(ending)
    _tell(status, f"exited {code} {forced:d}" if code >= 0 else f"signalled {-code} {forced:d}")
    return 0


def _parse(arguments: list[str]) -> tuple[int, int, signal.Signals, float, list[str]]:
    control, status, number, grace, *command = arguments
    for descriptor in (int(control), int(status)):
        os.set_inheritable(descriptor, False)
    return int(control), int(status), signal.Signals(int(number)), float(grace), command


def _wake_on_signals() -> int:
    """Return a descriptor that becomes readable when a child ends or somebody asks this process to end."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_ASKED_TO_END):
        signal.signal(number, lambda *_: None)
    return readable


def _watch(process: int, control: int, wake: int, *, stop_signal: signal.Signals, grace: float) -> tuple[int, bool]:
    """Wait until the process has ended; return its wait status, and whether SIGKILL was needed."""
    deadline: float | None = None
    forced = False
    while True:
        ended, ending = os.waitpid(process, os.WNOHANG)
        if ended:
            return ending, forced
        if deadline is not None and not forced and time.monotonic() >= deadline:
            forced = True
            _kill_group(process)
        timeout = None if deadline is None or forced else max(0.0, deadline - time.monotonic())
        watched = [wake, control] if deadline is None else [wake]
        ready, _, _ = select.select(watched, [], [], timeout)
        asked = control in ready  # a byte and end of file mean the same
        if wake in ready:
            asked = asked or any(number in _ASKED_TO_END for number in os.read(wake, 512))
        if asked and deadline is None:
            deadline = time.monotonic() + grace
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, stop_signal)


def _kill_group(group: int) -> None:
    # macOS answers EPERM for a group of which only a zombie is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _tell(status: int, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(status, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
