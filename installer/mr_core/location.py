"""Where bundles come from and go to, in skopeo's spelling.

``docker://REFERENCE``, ``oci:DIRECTORY[:NAME]`` or ``oci-archive:FILE[:NAME]``.
"""

from __future__ import annotations

import errno
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mr_core.durable import host_error
from mr_core.errors import InvalidInputError
from mr_core.reference import Reference


@dataclass(frozen=True, slots=True)
class RegistryLocation:
    """A reference in a registry."""

    reference: Reference

    def __str__(self) -> str:
        return f"docker://{self.reference}"


@dataclass(frozen=True, slots=True)
class LayoutLocation:
    """An OCI layout directory; ``name`` is its ``org.opencontainers.image.ref.name``, empty for the only entry."""

    path: Path
    name: str = ""

    def __str__(self) -> str:
        return f"oci:{self.path}:{self.name}" if self.name else f"oci:{self.path}"


@dataclass(frozen=True, slots=True)
class ArchiveLocation:
    """A tar file that holds an OCI layout."""

    path: Path
    name: str = ""

    def __str__(self) -> str:
        return f"oci-archive:{self.path}:{self.name}" if self.name else f"oci-archive:{self.path}"


Location: TypeAlias = RegistryLocation | LayoutLocation | ArchiveLocation

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_USER = re.compile(r"[^/]*:.*@(?!sha(?:256|512):)")
_HINT = "use `docker://REGISTRY/REPOSITORY:TAG`, `oci:DIRECTORY[:NAME]` or `oci-archive:FILE[:NAME]`"


def parse_location(text: str) -> Location:
    """Parse a location; a plain path to an existing file or directory means an archive or a layout.

    A trailing ``:NAME`` belongs to the path when a file of that whole name exists.

    Raises:
        InvalidInputError: for an unknown transport or an empty path.
        HostError: when a path cannot be looked at.
    """
    if not text or "\x00" in text or "\n" in text:
        raise InvalidInputError(f"Cannot read location {text[:200]!r}: it is empty or has line breaks", hint=_HINT)
    if text.startswith("docker://"):
        return RegistryLocation(Reference.parse(text.removeprefix("docker://")))
    if text.startswith("oci-archive:"):
        return ArchiveLocation(*_path_and_name(text.removeprefix("oci-archive:"), text))
    if text.startswith("oci:"):
        return LayoutLocation(*_path_and_name(text.removeprefix("oci:"), text))
    path = Path(text)
    kind = _kind(path)
    if stat.S_ISDIR(kind):
        return LayoutLocation(path)
    if stat.S_ISREG(kind):
        return ArchiveLocation(path)
    shown = _USER.sub("…@", text, count=1)  # a reference without its transport may come with a password
    raise InvalidInputError(
        f"Cannot read location `{shown[:200]}`: it names no transport and no existing file", hint=_HINT
    )


def _path_and_name(rest: str, text: str) -> tuple[Path, str]:
    path, colon, name = rest.rpartition(":")
    if not colon or "/" in name or _kind(Path(rest)):
        path, name = rest, ""
    if not path:
        raise InvalidInputError(f"Cannot read location `{text[:200]}`: the path is empty", hint=_HINT)
    return Path(path), name


def _kind(path: Path) -> int:
    """Return the mode bits of what a path leads to, 0 when there is nothing."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise host_error(f"Cannot look at `{path}`", error) from error
