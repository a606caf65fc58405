from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bundles import Bundles, build_small_bundles
from support.registry import RealRegistry


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Never write below its layout: tests and test processes share it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # every worker has a directory of its own below the run's
    return build_small_bundles(shared / "small-bundles")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A path that would break whatever does not quote: spaces, a percent sign, letters beyond ASCII."""
    return tmp_path / "a root 100% für alle"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RealRegistry]:
    with RealRegistry(root=tmp_path / "registry") as running:
        yield running
