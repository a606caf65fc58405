"""Make an installed CPython relocatable: the second source of base interpreters, on Linux with glibc.

Its files are read, filtered, stripped, given ``$ORIGIN``-relative RUNPATHs, joined by the libraries they need beyond
glibc, and cleaned of the builder's paths. The Python itself is never changed.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.binaries.elf import Elf, floor_of, is_elf, read_elf, strip_elf
from mr_bundler.interpreter.build_variables import builder_paths, is_build_variables, read_build_variables
from mr_bundler.interpreter.builder_traces import neutralised, refuse_traces, telling_paths
from mr_bundler.interpreter.contents import DYNLOAD, EXECUTABLE, STDLIB, belongs
from mr_bundler.interpreter.host_search import HostPython
from mr_bundler.interpreter.libraries import Library, graft_libraries
from mr_bundler.interpreter.licences import package_licences
from mr_bundler.interpreter.normalise import normalise
from mr_bundler.interpreter.patchelf import set_runpath
from mr_bundler.interpreter.tree import File, Tree
from mr_bundler.lock.python_pin import SERIES
from mr_core.errors import BuildError, HostError
from mr_core.events import Cancel, Level, Notice, Phase, Reporter, discard

_RUNPATHS = {"bin": "$ORIGIN/../lib", DYNLOAD: "$ORIGIN/../..", "lib": "$ORIGIN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RelocatedHost:
    """A host Python as a tree; ``grafted`` are the files on this machine its libraries came from."""

    tree: Tree
    glibc: str
    grafted: tuple[Path, ...]


def host_files(host: HostPython) -> dict[str, Path]:
    """Return which files of an installed Python are taken, by their path in the tree."""
    files = {EXECUTABLE: host.executable}
    for top in (STDLIB, f"include/python{SERIES}"):
        root = str(host.prefix / top)
        for directory, children, names in os.walk(root):
            inside = top + directory.removeprefix(root)
            children[:] = [child for child in children if belongs(f"{inside}/{child}/x")]
            files |= {f"{inside}/{name}": Path(directory, name) for name in names if belongs(f"{inside}/{name}")}
    return files


def relocate_host(
    host: HostPython, *, patchelf: Path, report: Reporter = discard, cancel: Cancel | None = None
) -> RelocatedHost:
    """Return the tree of ``host``, ready to lie anywhere.

    Raises:
        BuildError: when a part of it is missing, malformed, or would still name this machine.
        HostError: when a file cannot be read.
        UnsupportedError: when it is not for glibc.
    """
    with Phase(report, "relocate", str(host.prefix)) as phase:
        files = host_files(host)
        tree = _read(files)
        if cancel is not None:
            cancel.check()
        binaries = {path: read_elf(content, path) for path, content in tree.items() if is_elf(content)}
        _require_machine(binaries)
        libraries = graft_libraries({files[path]: elf for path, elf in binaries.items()}, {})
        for name, library in libraries.items():
            tree[f"lib/{name}"], binaries[f"lib/{name}"] = library.content, library.elf
        traces = _traces(host, tree)
        edited = _edit(tree, binaries, set(libraries), patchelf)
        tree |= {path: neutralised(content, traces) for path, content in edited.items()}
        tree |= _licences(libraries, report)
        result = normalise({path: File(content=content) for path, content in tree.items()})
        refuse_traces(result, (*traces, *_home()))
        phase.detail = {"files": len(result), "libraries": len(libraries)}
        text = f"libraries of this machine in the tree: {', '.join(sorted(libraries)) or 'none'}"
        report(Notice(code="grafted-libraries", message=text, level=Level.DETAIL))
        return RelocatedHost(
            tree=result,
            glibc=floor_of(elf.glibc for elf in binaries.values()),
            grafted=tuple(sorted(library.place for library in libraries.values())),
        )


def _read(files: dict[str, Path]) -> dict[str, bytes]:
    try:
        return {path: place.read_bytes() for path, place in files.items()}
    except OSError as error:
        raise HostError(f"Cannot read `{error.filename}`: {error.strerror}") from error


def _require_machine(binaries: dict[str, Elf]) -> None:
    if EXECUTABLE not in binaries:
        raise BuildError(f"Cannot relocate this Python: its `{EXECUTABLE}` is not an ELF file")
    machine = binaries[EXECUTABLE].machine
    strange = sorted(path for path, elf in binaries.items() if elf.machine != machine)
    if strange:
        raise BuildError(f"Cannot relocate this Python: `{strange[0]}` is for another machine than its executable")


def _traces(host: HostPython, tree: dict[str, bytes]) -> tuple[str, ...]:
    paths = [str(host.prefix), os.path.realpath(host.prefix), str(host.executable.parent.parent)]
    for path, content in tree.items():
        if is_build_variables(path):
            paths += builder_paths(read_build_variables(content.decode("utf-8", "replace")) or {})
    return telling_paths(paths)


def _home() -> tuple[str, ...]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - `Path.home` raises for a user without one
    return (f"{home}/",) if home.is_absolute() and home != Path("/") else ()


def _edit(tree: dict[str, bytes], binaries: dict[str, Elf], grafted: set[str], patchelf: Path) -> dict[str, bytes]:
    """Strip every binary, then point those that need the tree's own libraries, or had a RUNPATH, to them."""
    with tempfile.TemporaryDirectory(prefix="mr-interpreter-") as scratch:
        groups: dict[str, list[Path]] = {runpath: [] for runpath in _RUNPATHS.values()}
        places: dict[str, Path] = {}
        try:
            for number, (path, elf) in enumerate(sorted(binaries.items())):
                place = Path(scratch, str(number))
                place.write_bytes(strip_elf(tree[path]))
                places[path] = place
                if elf.runpath or not grafted.isdisjoint(elf.needed):
                    groups[_runpath_for(path)].append(place)
            for runpath, members in groups.items():
                set_runpath(patchelf, runpath, members)
            return {path: place.read_bytes() for path, place in places.items()}
        except OSError as error:
            raise HostError(f"Cannot edit the interpreter's binaries in `{scratch}`: {error.strerror}") from error


def _runpath_for(path: str) -> str:
    directory = path.rpartition("/")[0]
    if directory not in _RUNPATHS:
        raise BuildError(f"Cannot relocate this Python: there is no rule for a binary at `{path}`")
    return _RUNPATHS[directory]


def _licences(libraries: dict[str, Library], report: Reporter) -> dict[str, bytes]:
    grafted = {name: library.place for name, library in libraries.items() if not name.startswith("libpython")}
    found = package_licences(grafted.values())
    missing = sorted(name for name, place in grafted.items() if place not in found)
    if missing:
        text = f"No licence text was found for {', '.join(missing)}"
        report(Notice(code="licence-missing", message=text, level=Level.WARNING))
    return {f"share/licenses/{package}/copyright": text for package, text in found.values()}
