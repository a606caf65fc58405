"""What the loader of a host of the target would make of the binaries of a tree. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from mr_bundler.audit.finding import Finding
from mr_bundler.binaries.binary import UNSIGNED, VALID, Binary, Slice
from mr_bundler.binaries.manylinux import libstdcxx_of
from mr_bundler.binaries.platform_libraries import MACOS_DIRECTORIES, is_platform_library
from mr_core.bundle_config import HostRequirements
from mr_core.platform import Target

EMPTY_ENTRY = "(empty)"
"""Detail of the finding for an empty entry of a search path."""
_EXECUTABLES = "bin"  # where `@executable_path` of a library leads: the interpreter is what starts
_ORIGINS = ("$ORIGIN", "${ORIGIN}")
_LIBSTDCXX = "libstdc++.so.6"
_LOADER_PATH, _EXECUTABLE_PATH, _RPATH = "@loader_path", "@executable_path", "@rpath"


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """What the needed libraries of a tree may be resolved to.

    Attributes:
        paths: Every file and link.
        names: File names of its libraries and of all links, and the libraries' own names. A library is found by its
            name wherever it lies: packages load what they need beforehand by its place, and set search paths that only
            their own loader code knows.
    """

    paths: Collection[str]
    names: frozenset[str]

    @classmethod
    def of(
        cls, paths: Collection[str], links: Collection[str], binaries: Mapping[str, Binary], target: Target
    ) -> Libraries:
        """Return what a host of ``target`` can load."""
        fitting = {path: found for path, binary in binaries.items() if (found := fitting_slice(binary, target))}
        names = {posixpath.basename(path) for path in (*fitting, *links)}
        names |= {posixpath.basename(found.name) for found in fitting.values() if found.name}
        return cls(paths=paths, names=frozenset(names))


def fitting_slice(binary: Binary, target: Target) -> Slice | None:
    """Return the slice that a host of ``target`` would load."""
    for found in binary.slices:
        if (found.system, found.architecture) == (target.platform.os, target.platform.architecture):
            return found if found.kind != "object" else None
    return None


def judge_binary(
    path: str, binary: Binary, libraries: Libraries, *, target: Target, requires: HostRequirements
) -> Iterator[Finding]:
    """Yield the findings of one binary."""
    if binary.problem:
        yield Finding(kind="malformed-binary", path=path, detail=binary.problem)
        return
    loadable = [found for found in binary.slices if found.kind != "object"]
    found = fitting_slice(binary, target)
    if found is None:
        if loadable:
            detail = ", ".join(f"{item.system}/{item.architecture}" for item in loadable)
            yield Finding(kind="foreign-binary", path=path, detail=detail)
        return
    for name in found.needed:
        if not _is_found(path, name, found, libraries, target):
            yield Finding(kind="missing-library", path=path, detail=name)
    for entry in found.rpaths:
        if not _stays_inside(path, entry, found):
            yield Finding(kind="rpath", path=path, detail=entry or EMPTY_ENTRY)
    yield from _judge_floor(path, found, requires)
    if found.cxx and requires.glibc and _LIBSTDCXX not in libraries.names:
        yield from _judge_libstdcxx(path, found, requires.glibc)
    if found.signature not in {"", VALID, UNSIGNED} or (
        found.signature == UNSIGNED and found.architecture == "arm64"  # Intel Macs run unsigned code
    ):
        yield Finding(kind="broken-signature", path=path, detail=found.signature)


def version_key(version: str) -> tuple[int, ...]:
    """Return ``2.34`` as numbers that compare; trailing zeros do not count."""
    parts = [int(part) for part in version.split(".") if part.isdigit()]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _judge_floor(path: str, found: Slice, requires: HostRequirements) -> Iterator[Finding]:
    kind, floor = ("macos-floor", requires.macos) if found.system == "darwin" else ("glibc-floor", requires.glibc)
    if floor and version_key(found.floor) > version_key(floor):
        yield Finding(kind=kind, path=path, detail=found.floor)


def _judge_libstdcxx(path: str, found: Slice, glibc: str) -> Iterator[Finding]:
    """Yield findings for symbol versions that the policy of a glibc does not have; one for each family."""
    promised = libstdcxx_of(version_key(glibc))
    for text in found.cxx:
        family, _, version = text.partition("_")
        if family in promised and version_key(version) > promised[family]:
            yield Finding(kind="libstdcxx-floor", path=path, detail=text)


def _is_found(path: str, name: str, found: Slice, libraries: Libraries, target: Target) -> bool:
    if is_platform_library(name, target):
        return True
    if "/" not in name:
        return name in libraries.names
    if found.system == "darwin" and name.startswith(f"{_RPATH}/"):
        return posixpath.basename(name) in libraries.names
    place = _resolve(path, name, found)
    return place is not None and place in libraries.paths


def _stays_inside(path: str, entry: str, found: Slice) -> bool:
    if found.system == "darwin" and f"{entry}/".startswith(MACOS_DIRECTORIES) and "/../" not in f"{entry}/":
        return True  # Apple's compilers add `/usr/lib/swift`
    place = _resolve(path, entry, found)
    return place is not None and not f"{place}/".startswith("../")


def _resolve(path: str, text: str, found: Slice) -> str | None:
    """Return where a path that begins with a token leads in the tree, None for any other."""
    here = posixpath.dirname(path)
    if found.system == "darwin":
        origins = {_LOADER_PATH: here, _EXECUTABLE_PATH: here if found.kind == "executable" else _EXECUTABLES}
    else:
        origins = dict.fromkeys(_ORIGINS, here)
    token, slash, rest = text.partition("/")
    if token not in origins or (slash and "$" in rest):
        return None
    return posixpath.normpath(posixpath.join(origins[token], rest.lstrip("/")))
