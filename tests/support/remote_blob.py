"""A blob to fetch from a registry, and the shortest ways to connect and to read."""

from __future__ import annotations

from typing import Any

from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.registry_options import RegistryOptions
from mr_core.store import BlobStream
from support.registry import QUICK
from support.small_image import describe

CONTENT = bytes(range(251)) * 4000
BLOB = describe(CONTENT)
HALF = 500_000


def connect(host: str, repository: str, **settings: Any) -> RegistryStore:
    settings = {"insecure_hosts": frozenset({host}), "retry": QUICK, **settings}
    options = RegistryOptions(**settings)
    return RegistryStore(Reference.parse(f"{host}/{repository}"), options=options)


def drain(stream: BlobStream) -> bytes:
    with stream:
        return b"".join(iter(lambda: stream.read(70_000), b""))
