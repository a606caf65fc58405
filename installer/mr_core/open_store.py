"""Turn a location into the store it names."""

from __future__ import annotations

from typing import assert_never

from mr_core.errors import UsageError
from mr_core.events import Cancel
from mr_core.layout import LayoutStore
from mr_core.location import ArchiveLocation, LayoutLocation, Location, RegistryLocation
from mr_core.registry import RegistryStore
from mr_core.registry_options import RegistryOptions
from mr_core.store import Source, Store


def open_source(
    location: Location, *, options: RegistryOptions | None = None, cancel: Cancel | None = None
) -> tuple[Source, str]:
    """Return the store to read from and the name to resolve in it; nothing is sent to a registry yet.

    Raises:
        NotFoundError: when there is no such layout or archive.
        InvalidInputError: when the layout or archive is not one.
        IntegrityError: when the archive is damaged or cut off.
        HostError: when one of them cannot be read.
    """
    match location:
        case RegistryLocation(reference):
            return RegistryStore(reference, options=options, cancel=cancel), reference.target
        case LayoutLocation(path, name):
            return LayoutStore(path, cancel=cancel), name
        case ArchiveLocation(path, name):
            from mr_core.archive import ArchiveSource  # noqa: PLC0415 - `tarfile` takes long to import

            return ArchiveSource(path), name
        case _:
            assert_never(location)


def open_store(
    location: Location, *, options: RegistryOptions | None = None, cancel: Cancel | None = None
) -> tuple[Store, str]:
    """Return the store to write to and the name to write; the first write creates a layout.

    Raises:
        UsageError: for an archive, which is written as a whole and not blob by blob.
    """
    match location:
        case RegistryLocation(reference):
            return RegistryStore(reference, options=options, cancel=cancel), reference.target
        case LayoutLocation(path, name):
            return LayoutStore(path, create=True, late=True, cancel=cancel), name
        case ArchiveLocation():
            raise UsageError(f"Cannot write to `{location}`: an archive can only be read", hint="use `oci:DIRECTORY`")
        case _:
            assert_never(location)
