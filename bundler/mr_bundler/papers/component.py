"""The parts a bundle is made of, each with the files it owns, and the package addresses (purl) they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import quote

from mr_bundler.lock.lock import LockedWheel
from mr_bundler.papers.metadata import DistributionMetadata
from mr_core.file_manifest import Entry

Kind: TypeAlias = Literal["distribution", "interpreter", "library", "bundle", "prebuild"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of a bundle.

    Attributes:
        kind: ``bundle`` is what this project itself puts in; ``prebuild`` what a native step of the recipe wrote.
        entries: The files and links it owns, and nobody else does.
        licence: SPDX expression, empty when it is unknown; `metadata` may know it all the same.
        file: Name of the wheel or archive it comes from.
        sha256: Of that file, in hexadecimal.
        url: Where that file is, when no index serves it; ``git+<repository>@<commit>`` when it was built.
        metadata: Of a distribution.
    """

    kind: Kind
    name: str
    version: str = ""
    entries: Sequence[Entry]
    licence: str = ""
    file: str = ""
    sha256: str = ""
    url: str = ""
    metadata: DistributionMetadata | None = None


def package_address(component: Component) -> str:
    """Return the package URL of a component, empty for one that has no identity outside of the bundle."""
    kind = {"distribution": "pypi", "interpreter": "generic"}.get(component.kind)
    if kind is None:
        return ""
    return purl(kind, component.name, component.version, url=component.url, sha256=component.sha256)


def wheel_address(wheel: LockedWheel) -> str:
    """Return where a wheel comes from that no index serves; ``git+<repository>@<commit>`` for a built one.

    A place on the disk of whoever locked it says nothing to others, and is left out.
    """
    if wheel.vcs is not None:
        return "" if wheel.vcs.url.startswith("file:") else f"git+{wheel.vcs.url}@{wheel.vcs.commit}"
    return "" if wheel.url.startswith("file:") else wheel.url


def purl(kind: str, name: str, version: str, *, url: str = "", sha256: str = "") -> str:
    """Return ``pkg:<kind>/<name>@<version>``; with an address, it and the digest of what lies there are part of it."""
    text = f"pkg:{kind}/{_quoted(name)}@{_quoted(version)}" if version else f"pkg:{kind}/{_quoted(name)}"
    if not url:
        return text
    if url.startswith("git+"):
        return f"{text}?vcs_url={_quoted(url)}"
    checksum = f"checksum=sha256:{sha256}&" if sha256 else ""
    return f"{text}?{checksum}download_url={_quoted(url)}"


def _quoted(text: str) -> str:
    return quote(text, safe=".-_~:")
