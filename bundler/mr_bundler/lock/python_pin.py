"""The pinned base interpreter of a lock, and the builds of python-build-standalone that are known by digest."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from mr_core.errors import InvalidInputError
from mr_core.platform import Platform

SERIES = "3.12"
"""The one Python series inside bundles; every path of a release names it."""

_HOME = "https://github.com/astral-sh/python-build-standalone/releases/download"
_TRIPLES = {
    Platform("darwin", "arm64"): "aarch64-apple-darwin",
    Platform("linux", "amd64"): "x86_64-unknown-linux-gnu",
    Platform("linux", "arm64"): "aarch64-unknown-linux-gnu",
}
# (version, build) -> triple -> sha256 of its `install_only_stripped` archive
_KNOWN: dict[tuple[str, str], dict[str, str]] = {
    ("3.12.14", "20260814"): {
        "aarch64-apple-darwin": "dd5b76ab11451a4a4367c17c61d944dded56b425396b07f102922a7ebef7d55f",
        "aarch64-unknown-linux-gnu": "2d8e17dfd732102cfeb18e0e1fa6769b24caa034e159981129590fe409c7157a",
        "x86_64-unknown-linux-gnu": "5acfa3e9ba26b51ae161c83aff278da915b590d22373a424b2ba55b8afe91fcc",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonPin:
    """One exact archive of python-build-standalone.

    Attributes:
        version: CPython's version, such as ``3.12.14``.
        build: Release of python-build-standalone, such as ``20260814``.
        file: Archive name with a literal ``+``, as it lies in a mirror directory.
        url: Public home of the archive, with ``%2B``.
        sha256: 64 lower-case hexadecimal digits.
    """

    version: str
    build: str
    file: str
    url: str
    sha256: str


def newest_build() -> tuple[str, str]:
    """Return version and build of the newest interpreter that is known by digest."""
    return max(_KNOWN, key=lambda pair: (pair[1], [int(part) for part in pair[0].split(".")]))


def archive_name(version: str, build: str, platform: Platform) -> str:
    """Return the file name python-build-standalone gives the archive; raise `InvalidInputError` without one."""
    triple = _TRIPLES.get(platform)
    if triple is None:
        raise InvalidInputError(
            f"Cannot pin Python for {platform}: no base interpreter is known for this platform",
            hint=f"use one of {', '.join(str(known) for known in sorted(_TRIPLES))}",
        )
    return f"cpython-{version}+{build}-{triple}-install_only_stripped.tar.gz"


def pin_for(version: str, build: str, platform: Platform) -> PythonPin:
    """Return the pin of a known build; raise `InvalidInputError` when its sha256 is not known here."""
    file = archive_name(version, build, platform)
    digests = _KNOWN.get((version, build), {})
    sha256 = digests.get(_TRIPLES[platform])
    if sha256 is None:
        known = ", ".join(f"version {known_version}, build {known_build}" for known_version, known_build in _KNOWN)
        raise InvalidInputError(
            f"Cannot pin Python {version} build {build} for {platform}: its sha256 is not known",
            hint=f"choose a known base interpreter: {known}",
        )
    return PythonPin(version=version, build=build, file=file, url=f"{_HOME}/{build}/{quote(file)}", sha256=sha256)
