"""The built-in list of backends, and where a backend comes from when no ``--from`` is given."""

from __future__ import annotations

import difflib
import os
import tomllib
from importlib import resources

from mr_core.decode import Decoder
from mr_core.errors import InvalidInputError, NotFoundError, UsageError
from mr_core.location import Location, parse_location

REPOSITORY_VARIABLE = "MR_REPOSITORY"


def known_backends() -> dict[str, str]:
    """Return name → summary of every backend in the catalogue."""
    text = resources.files("mr_installer").joinpath("catalogue.toml").read_text("utf-8")
    read = Decoder(tomllib.loads(text), "catalogue")
    return {name: entry.text("summary") for name, entry in read.table("backends").entries()}


def default_location(backend: str, version: str) -> Location:
    """Return where ``backend`` is fetched from by default.

    ``MR_REPOSITORY`` is a location with ``{backend}`` and ``{version}`` in it, such as
    ``docker://registry.example/bundles/{backend}:{version}``; one without them gets ``/{backend}:{version}`` appended.

    Raises:
        NotFoundError: for a name that the catalogue does not know.
        UsageError: when no repository is configured.
    """
    known = known_backends()
    if backend not in known:
        near = difflib.get_close_matches(backend, known, n=1)
        raise NotFoundError(
            f"Cannot find backend `{backend}`: it is not in the catalogue ({', '.join(sorted(known))})",
            hint=f"did you mean `{near[0]}`?" if near else "name a source with `--from`",
        )
    template = os.environ.get(REPOSITORY_VARIABLE, "")
    if not template:
        raise UsageError(
            f"Cannot install `{backend}`: no source is given and no repository is configured",
            hint=f"add `--from docker://REGISTRY/REPOSITORY:TAG`, or set {REPOSITORY_VARIABLE}",
        )
    if "{backend}" not in template:
        template = template.rstrip("/") + "/{backend}:{version}"
    if version.startswith(("sha256:", "sha512:")):
        template = template.replace(":{version}", "@{version}")
    text = template.replace("{backend}", backend).replace("{version}", version or "latest")
    try:
        return parse_location(text)
    except InvalidInputError as error:
        raise UsageError(
            f"Cannot use {REPOSITORY_VARIABLE}=`{template}`: {error.message}",
            hint="it looks like `docker://registry.example/bundles/{backend}:{version}`",
        ) from error
