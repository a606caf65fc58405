"""Registries that run for the whole session, and stores of every kind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_core.layout import LayoutStore
from mr_core.memory import BytesStream, MemoryStore
from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.store import Store
from support.referrers_api import ReferrersApi
from support.registry import Mode, RealRegistry
from support.remote_blob import BLOB, CONTENT, connect
from support.small_image import SmallImage, small_image
from support.wire import FaultProxy


def _session_registry(mode: Mode) -> Iterator[RealRegistry]:
    with RealRegistry(mode=mode) as registry:
        yield registry


@pytest.fixture(scope="session")
def plain_registry() -> Iterator[RealRegistry]:
    yield from _session_registry("none")


@pytest.fixture(scope="session")
def basic_registry() -> Iterator[RealRegistry]:
    yield from _session_registry("basic")


@pytest.fixture(scope="session")
def tls_registry() -> Iterator[RealRegistry]:
    yield from _session_registry("tls")


@pytest.fixture
def repository() -> str:
    """A repository name that no other test uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def referrers_api(plain_registry: RealRegistry) -> Iterator[ReferrersApi]:
    with ReferrersApi(plain_registry.host) as proxy:
        yield proxy


@pytest.fixture(params=["memory", "layout", "registry", "registry-basic", "registry-tls", "registry-referrers"])
def store(request: pytest.FixtureRequest, tmp_path: Path, repository: str) -> Iterator[Store]:
    """An empty store of each kind."""
    made: Store
    match request.param:
        case "memory":
            made = MemoryStore()
        case "layout":
            made = LayoutStore(tmp_path / "layout", create=True)
        case "registry-referrers":
            api: ReferrersApi = request.getfixturevalue("referrers_api")
            made = connect(api.host, repository)
        case kind:
            fixture = {"registry": "plain", "registry-basic": "basic", "registry-tls": "tls"}[kind]
            registry: RealRegistry = request.getfixturevalue(f"{fixture}_registry")
            reference = Reference.parse(f"{registry.host}/{repository}")
            made = RegistryStore(reference, options=registry.options())
    yield made
    made.close()


@pytest.fixture
def image(plain_registry: RealRegistry, repository: str) -> SmallImage:
    """An image and the blob `CONTENT`, in the plain registry."""
    image = small_image()
    direct = connect(plain_registry.host, repository)
    image.write(direct, "1.0")
    direct.put_blob(BLOB, BytesStream(CONTENT))
    direct.close()
    return image


@pytest.fixture
def proxy(plain_registry: RealRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(plain_registry.host) as proxy:
        yield proxy


@pytest.fixture
def remote(proxy: FaultProxy, repository: str) -> Iterator[RegistryStore]:
    remote = connect(proxy.host, repository)
    yield remote
    remote.close()
