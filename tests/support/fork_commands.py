"""Run ``mr-bundle`` in processes of its own without paying for an interpreter's start each time.

One process imports everything and waits; for each command line it forks a child that runs the real command and may be
killed. Run as a script it is that process; `Forker` talks to it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import click

import mr_bundler.cli
import mr_bundler.cli.main
from mr_core import registry_upload


class Forker:
    """A context manager; one command runs at a time."""

    def __init__(self, scratch: Path, **constants: int) -> None:
        """``constants`` replace those of `mr_core.registry_upload`."""
        self._scratch = scratch
        self._constants = constants
        self.pid = 0

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, __file__, str(self._scratch), json.dumps(self._constants)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def start(self, *arguments: str) -> None:
        """Begin a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self.pid = int(self._process.stdout.readline())

    def kill(self) -> None:
        """Kill the command that runs, if it still does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 60) -> int:
        """Return the exit status, negative for a signal; `output` holds what was written then."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(timeout, self.kill)
        watchdog.start()
        status = int(self._process.stdout.readline())
        watchdog.cancel()
        return status

    @property
    def output(self) -> str:
        return (self._scratch / "output.txt").read_text()


def _serve(scratch: Path, constants: dict[str, int]) -> None:
    for name in ("push", "copy", "index"):
        mr_bundler.cli.main.main.get_command(click.Context(mr_bundler.cli.main.main), name)
    for name in ("requests", "oras.auth.base", "oras.container"):
        importlib.import_module(name)
    for name, value in constants.items():
        assert hasattr(registry_upload, name)
        setattr(registry_upload, name, value)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            output = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdin = open(os.devnull)  # noqa: SIM115 - the child's own
            sys.argv = ["mr-bundle", *json.loads(line)]
            mr_bundler.cli.run()
            os._exit(99)  # never reached: `run` ends the process
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), json.loads(sys.argv[2]))
