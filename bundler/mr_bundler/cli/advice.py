"""Advice that depends on how something was spelled on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from mr_core.bundle_index import VERSION
from mr_core.errors import NotFoundError, UsageError
from mr_core.location import RegistryLocation, parse_location
from mr_core.manifest import parse_document
from mr_core.reference import Reference, tag_text
from mr_core.store import Source


@contextlib.contextmanager
def tag_advice(location: str) -> Iterator[None]:
    """Say so when ``location`` was not found because no tag was named, so that `latest` was looked for."""
    try:
        yield
    except NotFoundError as error:
        reference = _untagged(location)
        if reference is None:
            raise
        name = f"docker://{reference.registry}/{reference.repository}"
        raise NotFoundError(
            f"Cannot find `{name}:latest`: no tag was named, and there is no `latest`",
            hint=f"name a tag: `{name}:TAG`",
            **error.fields,
        ) from error


def require_tag(location: str, version: Callable[[], str]) -> None:
    """Refuse to write to a repository without a tag: `latest` would be nobody's choice, and move with each version.

    Args:
        location: Where to write, as it was spelled.
        version: Returns the version to suggest; asked only when that is needed.
    """
    reference = _untagged(location)
    if reference is not None:
        name = f"docker://{reference.registry}/{reference.repository}"
        raise UsageError(
            f"Cannot write to `{name}`: it names no tag", hint=f"name one: `{name}:{tag_text(version()) or 'TAG'}`"
        )


def version_of(source: Source, name: str) -> str:
    """Return the version that an index or a bundle states, or an empty string."""
    top = source.resolve(name)
    return parse_document(source.read_document(top), top.media_type).annotations.get(VERSION, "")


def _untagged(location: str) -> Reference | None:
    """Return what a registry location names when no tag and no digest were spelled out."""
    match parse_location(location):
        case RegistryLocation(reference) if reference.digest is None and reference.tag == "latest":
            return None if location.endswith(":latest") else reference
        case _:
            return None
