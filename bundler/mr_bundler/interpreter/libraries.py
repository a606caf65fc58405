"""Find the shared libraries an interpreter needs beyond glibc, the way the dynamic loader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.binaries.elf import Elf, is_elf, read_elf
from mr_bundler.binaries.platform_libraries import SYSTEM_LIBRARIES
from mr_core.errors import BuildError, UnsupportedError

_CACHE_LINE = re.compile(r"\s+(\S+) \([^)]*\) => (/\S.*)")
_FALLBACK = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library to graft: ``place`` is its real file on this machine."""

    place: Path
    content: bytes
    elf: Elf


def graft_libraries(binaries: Mapping[Path, Elf], present: Mapping[str, Elf]) -> dict[str, Library]:
    """Return the libraries ``binaries`` need, directly or not, by the name they are asked for.

    Args:
        binaries: The interpreter's own files where they lie on this machine.
        present: Libraries that are in the tree already, by name.

    Raises:
        BuildError: when a library is not on this machine.
        UnsupportedError: when the interpreter is not one for glibc.
    """
    known = _loader_cache()
    found: dict[str, Library] = {}
    todo = list(binaries.items())
    while todo:
        place, elf = todo.pop(0)
        for asked in elf.needed:
            # a name with a slash is a place: python-build-standalone had `$ORIGIN/../lib/libpython…` for a while
            name = asked.rpartition("/")[2]
            if name in SYSTEM_LIBRARIES or name in present or name in found:
                continue
            if name.startswith(("libc.musl", "ld-musl")):
                raise UnsupportedError(
                    f"Cannot relocate this Python: `{place.name}` needs `{name}`, and bundles are for glibc"
                )
            library = _find(asked, place, elf, known)
            found[name] = library
            todo.append((library.place, library.elf))
    return found


def _find(asked: str, place: Path, elf: Elf, known: Mapping[str, list[str]]) -> Library:
    directory, _, name = asked.rpartition("/")
    if directory and "ORIGIN" not in directory:
        raise BuildError(f"Cannot relocate this Python: its `{place.name}` needs `{asked}` at exactly that place")
    entries = (directory, *elf.runpath) if directory else elf.runpath
    own = [entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(place.parent)) for entry in entries]
    candidates = [f"{entry}/{name}" for entry in own if entry.startswith("/")]
    candidates += known.get(name, [])
    candidates += [f"{fallback}/{name}" for fallback in _FALLBACK]
    for candidate in candidates:
        try:
            content = Path(candidate).read_bytes()
        except OSError:
            continue
        if is_elf(content):
            read = read_elf(content, candidate)
            if read.machine == elf.machine:
                return Library(place=Path(os.path.realpath(candidate)), content=content, elf=read)
    raise BuildError(
        f"Cannot relocate this Python: its `{place.name}` needs `{name}`, which is not on this machine",
        hint="repair that Python, or name another one with `--python-from`",
    )


def _loader_cache() -> dict[str, list[str]]:
    """Return what ``ldconfig -p`` lists, by name; nothing on a machine without it."""
    program = shutil.which("ldconfig") or shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if program is None:
        return {}
    try:
        listed = subprocess.run([program, "-p"], capture_output=True, text=True, errors="replace", check=False).stdout
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if match := _CACHE_LINE.fullmatch(line):
            found.setdefault(match[1], []).append(match[2])
    return found
