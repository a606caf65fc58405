from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_core.layout import LayoutStore
from mr_core.reference import Reference
from mr_core.referrers import attach
from mr_core.registry import RegistryStore
from mr_core.transfer import transfer
from support.bundles import Bundles, build_small_bundles
from support.layout_bundle import NAME, entry
from support.registry import RealRegistry


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Never write below its layout: tests and test processes share it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # every worker has a directory of its own below the run's
    return build_small_bundles(shared / "small-bundles")


@pytest.fixture
def layout(bundles: Bundles, tmp_path: Path) -> LayoutStore:
    """A layout with one version, to which every test may write, and with a paper of the test's own."""
    layout = LayoutStore(tmp_path / "layout", create=True)
    transfer(LayoutStore(bundles.layout), NAME, layout, NAME)
    attach(layout, entry(layout), artifact_type="text/licences", media_type="text/plain", content=b"MIT\n")
    return layout


@pytest.fixture(scope="session")
def registry() -> Iterator[RealRegistry]:
    with RealRegistry() as running:
        yield running


@pytest.fixture
def remote(registry: RealRegistry) -> Iterator[RegistryStore]:
    """A repository that no other test uses."""
    reference = Reference.parse(f"{registry.host}/test/{uuid.uuid4().hex}")
    store = RegistryStore(reference, options=registry.options())
    yield store
    store.close()
