"""mlx-lm for this host, really built from the committed recipe and lock, once for all test processes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mr_core.platform import Platform
from support.need import missing
from support.tiny_model import make_tiny_model

PROJECT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Built:
    """The layout, the cache, and what ``mr-bundle build --json`` said."""

    layout: Path
    cache: Path
    outcome: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.outcome["ref_name"])

    @property
    def source(self) -> str:
        return f"oci:{self.layout}:{self.name}"


def tool(name: str, *arguments: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``mr-bundle`` or ``mr-install``."""
    finished = subprocess.run(
        [str(BIN / name), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert not check or finished.returncode == 0, finished.stderr
    return finished


def outcome(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the last line of a ``--json`` run."""
    last: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return last


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def built(shared: Path) -> Built:
    if str(Platform.host()) not in {"linux/amd64", "linux/arm64"}:
        missing("a Linux host, which the recipe's CPU targets need")
    place = shared / "mlx-lm"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = place / "outcome.json"
        if not record.exists():
            arguments = ("--layout", place / "layout", "--cache", place / "cache", "--json")
            finished = tool("mr-bundle", "build", PROJECT / "recipes" / "mlx-lm", *arguments)
            record.write_text(finished.stdout.splitlines()[-1])
    return Built(place / "layout", place / "cache", json.loads(record.read_text()))


@pytest.fixture(scope="session")
def model(shared: Path) -> Path:
    place = shared / "tiny model"
    with (shared / "model-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            make_tiny_model(place)
    return place


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with mlx-lm in it; tests read it only."""
    root = tmp_path_factory.mktemp("installed") / "a dir with spaces"
    tool("mr-install", "mlx-lm", "--from", built.source, "--root", root, "-q")
    return root
