"""Options of the commands that copy bundles between stores, and the stores themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.location import LayoutLocation, Location, parse_location
from mr_core.open_store import open_source, open_store
from mr_core.registry_options import RegistryOptions
from mr_core.store import Source, Store
from mr_core.transfer import TransferResult

OVERWRITE = click.option("--overwrite", is_flag=True, help="Move a name that already points to something else.")
NO_PAPERS = click.option(
    "--no-papers", is_flag=True, help="Leave SBOM, provenance, licence report and the like behind."
)
MOUNT_FROM = click.option(
    "--mount-from",
    multiple=True,
    metavar="REPOSITORY",
    help="Repository of the same registry that may have some blobs: they are taken over from it, not sent."
    " May be repeated.",
)
JOBS = click.option(
    "-j", "--jobs", type=click.IntRange(1, 32), default=4, show_default=True, help="Blobs sent at a time."
)


@contextlib.contextmanager
def open_both(
    session: Session, source: str, destination: str, registry: RegistryOptions
) -> Iterator[tuple[Source, str, Store, str]]:
    """Open two locations: a source and its name, a store and its name; both are closed at the end."""
    with contextlib.ExitStack() as stack:
        opened, name = open_source(parse_location(source), options=registry, cancel=session.cancel)
        stack.callback(opened.close)
        store, destination_name = open_store(parse_location(destination), options=registry, cancel=session.cancel)
        stack.callback(store.close)
        yield opened, name, store, destination_name


def show_transfer(result: TransferResult, destination: Location) -> str:
    """Return what a copy sent, under the full name it has now."""
    match destination:
        case LayoutLocation(path=path, name=""):
            destination = LayoutLocation(path, result.name)
        case _:
            pass
    return f"{destination}\n  digest {result.digest}\n  {show_counts(result)}"


def show_counts(result: TransferResult) -> str:
    """Return how the blobs and the papers got there."""
    parts = [f"{result.blobs_pushed} blobs sent ({show_bytes(result.bytes_pushed)})"]
    if result.blobs_mounted:
        parts.append(f"{result.blobs_mounted} mounted ({show_bytes(result.bytes_mounted)})")
    parts.append(f"{result.blobs_skipped} were there already ({show_bytes(result.bytes_skipped)})")
    if result.papers:
        parts.append(f"{result.papers} papers")
    return ", ".join(parts)
