"""Advice that depends on how something was spelled on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mr_core.errors import NotFoundError
from mr_core.location import RegistryLocation, parse_location


@contextlib.contextmanager
def tag_advice(location: str) -> Iterator[None]:
    """Say so when ``location`` was not found because no tag was named, so that `latest` was looked for."""
    try:
        yield
    except NotFoundError as error:
        match parse_location(location):
            case RegistryLocation(reference) if reference.tag == "latest" and not location.endswith(":latest"):
                name = f"docker://{reference.registry}/{reference.repository}"
                raise NotFoundError(
                    f"Cannot find `{name}:latest`: no tag was named, and there is no `latest`",
                    hint=f"name a tag: `{name}:TAG`",
                    **error.fields,
                ) from error
            case _:
                raise
