"""Run the commands: in this process, which saves the start of a program each time, or as programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.cli.main import main
from mr_core.cli.session import run_command

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    status: int
    output: str
    errors: str

    @property
    def outcome(self) -> dict[str, Any]:
        """The last line of a ``--json`` run."""
        last: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return last


def run_program(program: str, *arguments: object, cwd: Path | None = None, **environment: str) -> Ran:
    """Run a program of this project as people do."""
    ran = subprocess.run(
        [str(PROGRAMS / program), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@contextmanager
def bundler_in_process(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Yield what runs ``mr-bundle`` here: the same command, streams and exit status as the program's."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object, cwd: Path | None = None, **environment: str) -> Ran:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["mr-bundle", *map(str, arguments)])
            for name, text in environment.items():
                patch.setenv(name, text)
            if cwd is not None:
                patch.chdir(cwd)
            with pytest.raises(SystemExit) as ended:
                run_command(main, "mr-bundle")
        output, errors = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, output, errors)

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)
