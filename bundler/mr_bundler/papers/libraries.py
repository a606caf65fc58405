"""Tell foreign shared libraries apart from what brought them: grafted into the interpreter, vendored in wheels. Pure.

A host Python that was made relocatable has its libraries in ``lib/`` (`mr_bundler.interpreter.libraries`), with the
copyright texts of their packages in ``share/licenses/<package>/``. Repair tools of wheels put libraries into
``<name>.libs/`` (auditwheel) or ``.dylibs/`` (delocate), and auditwheel puts a digest into every name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mr_bundler.papers.component import Component
from mr_core.file_manifest import Entry

_GRAFTED = re.compile(r"lib/(lib[^/]+?)\.(so(\.[0-9.]+)?|([0-9.]+\.)?dylib)")
_OWN = re.compile(r"lib/libpython[^/]*")
_LICENCE = re.compile(r"share/licenses/([^/]+)/.+")
_VENDORED = re.compile(
    r"(?:.*/)?(?:[^/]+\.libs|\.dylibs)/(?P<kept>[^/]+?)(?:-[0-9a-f]{8,16})?\.(?:so|[0-9.]*\.?dylib)[^/]*"
    r"|.*/(?P<named>lib[^/]+?)-[0-9a-f]{8}\.so(?:\.[0-9.]+)?"
)


@dataclass(frozen=True, slots=True)
class _Project:
    """Where a library comes from: the project, its licence, its file names and those of its distributors' packages."""

    name: str
    licence: str
    library: re.Pattern[str]
    package: re.Pattern[str]


def _project(name: str, licence: str, library: str, package: str) -> _Project:
    return _Project(name, licence, re.compile(library), re.compile(rf"{package}[0-9.-]*(t64)?"))


# What CPython's standard library needs beyond the C library. liblzma's name does not tell its version: up to 5.4 it was
# in the public domain, and it is 0BSD since 5.6 (COPYING of xz).
_PROJECTS = (
    _project("openssl", "Apache-2.0", r"lib(ssl|crypto)\.so\.3.*", "(libssl|openssl)"),
    _project("openssl", "OpenSSL", r"lib(ssl|crypto)\.so\.1.*", "(libssl|openssl)"),
    _project("sqlite", "blessing", r"libsqlite3\..*", "libsqlite"),
    _project("libffi", "MIT", r"libffi\..*", "libffi"),
    _project("xz", "0BSD OR LicenseRef-Public-Domain", r"liblzma\..*", "liblzma"),
    _project("bzip2", "bzip2-1.0.6", r"libbz2\..*", "libbz2"),
    _project("zlib", "Zlib", r"libz\..*", "zlib1g"),
    _project("util-linux", "BSD-3-Clause", r"libuuid\..*", "libuuid"),
    _project("expat", "MIT", r"libexpat\..*", "libexpat"),
    _project("mpdecimal", "BSD-2-Clause", r"libmpdec\..*", "libmpdec"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentTree:
    """A component without its foreign libraries, and these, sorted by name."""

    component: Component
    libraries: tuple[Component, ...] = ()


def split_libraries(component: Component) -> ComponentTree:
    """Give the foreign libraries among a component's files components of their own."""
    found: dict[str, Component] = {}
    if component.kind == "interpreter":
        found = _grafted(component.entries)
    elif component.kind == "distribution":
        found = _vendored(component.entries)
    taken = {entry.path for library in found.values() for entry in library.entries}
    if not taken:
        return ComponentTree(component=component)
    kept = [entry for entry in component.entries if entry.path not in taken]
    return ComponentTree(
        component=replace(component, entries=kept), libraries=tuple(found[name] for name in sorted(found))
    )


def unlicensed_libraries(entries: Sequence[Entry]) -> list[str]:
    """Return the names of libraries among an interpreter's files whose licence this tool cannot name, sorted."""
    return sorted(name for name, library in _grafted(entries).items() if not library.licence)


def _grafted(entries: Sequence[Entry]) -> dict[str, Component]:
    """Return a component for each project, with its libraries and their licence texts."""
    found: dict[str, list[Entry]] = {}
    projects: dict[str, _Project] = {}
    for entry in entries:
        match = _GRAFTED.fullmatch(entry.path)
        if match is not None and not _OWN.fullmatch(entry.path):
            project = _project_of(entry.path.removeprefix("lib/"), match[1])
            projects.setdefault(project.name, project)
            found.setdefault(project.name, []).append(entry)
    for entry in entries:
        match = _LICENCE.fullmatch(entry.path)
        if match is not None:
            owner = next((name for name in sorted(projects) if projects[name].package.fullmatch(match[1])), None)
            if owner is not None:
                found[owner].append(entry)
    return {
        name: Component(kind="library", name=name, entries=members, licence=projects[name].licence)
        for name, members in found.items()
    }


def _project_of(file: str, stem: str) -> _Project:
    known = next((project for project in _PROJECTS if project.library.fullmatch(file)), None)
    return known or _project(stem, "", re.escape(stem), re.escape(stem))


def _vendored(entries: Sequence[Entry]) -> dict[str, Component]:
    """Return a component for each library; the licence is the distribution's affair, which has to state it."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        match = _VENDORED.fullmatch(entry.path)
        if match is not None:
            found.setdefault(match["kept"] or match["named"], []).append(entry)
    return {name: Component(kind="library", name=name, entries=members) for name, members in found.items()}
