"""A worker process as its parent sees it: start it, give it a layer, follow it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mr_installer
from mr_core.errors import BundleError, CancelledError, HostError
from mr_core.events import Cancel
from mr_core.file_manifest import Entry
from mr_installer.extract.job import LayerJob, LayerResult, unpack_entries
from mr_installer.extract.worker import unpack_error

_START_SECONDS = 30.0
_POLL_MILLISECONDS = 100
_END_SECONDS = 2.0

# The package itself is replaced by an empty one with the same path, so that a worker starts without the registry
# client and everything else that `mr_installer` offers. Ctrl-C is the parent's to handle.
_BOOTSTRAP = """
import signal, sys, types
signal.signal(signal.SIGINT, signal.SIG_IGN)
stage, parent, package, *path = sys.argv[1:]
sys.path += [entry for entry in path if entry not in sys.path]
sys.modules["mr_installer"] = types.ModuleType("mr_installer")
sys.modules["mr_installer"].__path__ = [package]
from mr_installer.extract.worker import serve
serve(int(stage), int(parent))
"""


class WorkerFailed(Exception):  # noqa: N818 - never leaves this package: the pool falls back to its own process
    """No worker process can be had here; the text says why."""


class _Refused(Exception):  # noqa: N818 - carries an answer, and ends where it is caught
    """The worker answered with an error, and is ready for the next layer."""

    def __init__(self, error: BundleError) -> None:
        super().__init__()
        self.error = error


class WorkerProcess:
    """A process that extracts one layer at a time; not for use by two threads at once.

    Raises:
        WorkerFailed: from the constructor and from the first `run`, when the process does not come up.
    """

    def __init__(self, python: Path, stage: int) -> None:
        package = os.fspath(Path(mr_installer.__path__[0]).absolute())
        path = [entry for entry in sys.path if Path(entry).is_absolute()]
        flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
        arguments = [str(stage), str(os.getpid()), package, *path]
        try:
            self._process = subprocess.Popen(
                [python, *flags, "-c", _BOOTSTRAP, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(stage,),
                cwd="/",
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            raise WorkerFailed(f"`{python}` does not start: {error}") from error
        assert self._process.stdin is not None  # noqa: S101 - they are pipes, three lines above
        assert self._process.stdout is not None  # noqa: S101
        assert self._process.stderr is not None  # noqa: S101
        self._requests = self._process.stdin
        self._answers = self._process.stdout
        self._messages = self._process.stderr
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._buffer = b""
        self._ready = False

    def run(self, job: LayerJob, tick: Callable[[int], None], cancel: Cancel) -> LayerResult:
        """Extract one layer.

        Raises:
            BundleError: what the worker raised, or `HostError` when it died.
            CancelledError: asked to stop; the process is gone then.
        """
        if not self._ready:
            self._wait_until_ready(cancel)
        with contextlib.suppress(BrokenPipeError):  # it died: the next read says so
            self._requests.write(json.dumps(job.to_json()).encode() + b"\n")
        try:
            return self._follow(job, tick, cancel)
        except _Refused as refused:
            raise refused.error from None
        except BaseException:
            self.kill()  # it may be in the middle of a layer
            raise

    def _follow(self, job: LayerJob, tick: Callable[[int], None], cancel: Cancel) -> LayerResult:
        entries: list[Entry] = []
        while True:
            match self._receive(cancel):
                case {"bytes": int(done)}:
                    tick(done)
                case {"entries": list(rows)}:
                    entries += unpack_entries(rows)
                case {"done": {"bytes": int(size), "directories": list(directories)}}:
                    tick(size)
                    return LayerResult(entries=tuple(entries), directories=frozenset(directories), bytes=size)
                case {"error": dict(error)}:
                    raise _Refused(unpack_error(error))
                case _:
                    raise self._died(job)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def close(self) -> None:
        """End an idle process: the end of its input tells it to go."""
        with contextlib.suppress(OSError):
            self._requests.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._release()

    def kill(self) -> None:
        """End a process that may be busy."""
        self._process.kill()
        self._release()

    def _release(self) -> None:
        self._process.wait()
        for pipe in (self._requests, self._answers, self._messages):
            with contextlib.suppress(OSError):
                pipe.close()

    def _wait_until_ready(self, cancel: Cancel) -> None:
        match self._receive(cancel, deadline=time.monotonic() + _START_SECONDS):
            case {"ready": True}:
                self._ready = True
            case _:
                reason = self._last_words()
                self.kill()
                raise WorkerFailed(reason or "the worker process ended at once")

    def _receive(self, cancel: Cancel, deadline: float | None = None) -> dict[str, Any] | None:
        """Return the next message; `None` when the process has ended or the deadline has passed."""
        parts: list[bytes] = []
        part = self._buffer
        while True:
            head, newline, rest = part.partition(b"\n")
            parts.append(head)
            if newline:
                self._buffer = rest
                message: dict[str, Any] = json.loads(b"".join(parts))
                return message
            while not self._poll.poll(_POLL_MILLISECONDS):
                self._check(cancel)
                if deadline is not None and time.monotonic() > deadline:
                    return None
            self._check(cancel)
            part = os.read(self._answers.fileno(), 1 << 16)
            if not part:
                self._buffer = b""
                return None

    def _check(self, cancel: Cancel) -> None:
        if cancel.is_set:
            self.kill()
            raise CancelledError

    def _died(self, job: LayerJob) -> HostError:
        words = self._last_words()
        self.kill()
        status = self._process.returncode
        how = f"killed by signal {-status}" if status < 0 else f"it ended with status {status}"
        return HostError(
            f"Cannot extract layer `{job.digest}`: its worker process died ({how})",
            hint="check that the machine has memory left, then try again",
            layer=str(job.digest),
            status=status,
            output=words,
        )

    def _last_words(self) -> str:
        """Return the last line the process wrote to stderr, if any."""
        os.set_blocking(self._messages.fileno(), False)
        with contextlib.suppress(OSError):
            lines = (self._messages.read(1 << 16) or b"").decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""
