"""An active fake release, with everything a launch test needs around it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from support.fake_release import activate, make_release


@dataclass(frozen=True)
class Place:
    backend: Path
    release: Path
    launcher: Path
    model: Path
    environment: dict[str, str]
    cwd: Path


def make_place(root: Path) -> Place:
    """Make one below a path with spaces and non-ASCII letters; environment and directories are all below ``root``."""
    backend = root / "Models ß ünï" / "fake"
    release = make_release(backend / "releases/1.5-0123456789ab")
    home, cwd, temporary, model = (root / name for name in ("home", "cwd", "tmp", "model"))
    for directory in (home, cwd, temporary, model):
        directory.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(temporary), "LANG": "C.UTF-8"}
    return Place(backend, release, activate(backend, release), model, environment, cwd)
