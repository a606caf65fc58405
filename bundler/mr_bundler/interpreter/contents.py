"""Which files of a Python prefix belong into a bundle: one rule for every source of interpreters.

Paths are relative to the prefix, in POSIX form. Everything is decided by name, so that an archive is filtered before a
byte of it is kept.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from mr_bundler.lock.python_pin import SERIES

STDLIB = f"lib/python{SERIES}"
DYNLOAD = f"{STDLIB}/lib-dynload"
EXECUTABLE = f"bin/python{SERIES}"

# Parts of the standard library that no server needs: tests, graphical and terminal interfaces, installers.
_DROPPED_DIRECTORIES = frozenset(
    {"curses", "ensurepip", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tkinter", "turtledemo"}
)
# `crypt` needs libcrypt, which is not on the platforms' common list; the customize modules and the marker say
# something about the machine they come from.
_DROPPED_MODULES = frozenset({"crypt.py", "turtle.py", "sitecustomize.py", "usercustomize.py", "EXTERNALLY-MANAGED"})
# `nis` draws in Kerberos, `_gdbm` and `_dbm` libraries under the GPL or the Sleepycat licence.
_DROPPED_EXTENSIONS = re.compile(
    r"(_test\w*|_ctypes_test|_xxtestfuzz|xxlimited\w*|xxsubtype|_tkinter|_curses\w*|readline|nis|ossaudiodev"
    r"|_crypt|_gdbm|_dbm)\..*"
)
_DROPPED_SUFFIXES = (".pyc", ".pyo", ".a", ".o", ".orig", ".pth")
_LIBRARY = re.compile(r"lib[^/]+\.(so(\.[0-9.]+)?|dylib)")
_TCL = re.compile(r"lib(tcl|tk|itcl|tdbc|thread)[^/]*")
_SHARED = re.compile(r".*\.(so(\.[0-9.]+)?|dylib)")


def belongs(path: str) -> bool:
    """Return whether the file or link at ``path`` is part of a bundle's interpreter."""
    parts = PurePosixPath(path).parts
    if "__pycache__" in parts or path.endswith(_DROPPED_SUFFIXES):
        return False
    match parts:
        case ("bin", name):
            return name == f"python{SERIES}"
        case ("include", series, _, *_):
            return series == f"python{SERIES}"
        case ("share", "licenses", _, *_):
            return True
        case ("lib", name):
            return _LIBRARY.fullmatch(name) is not None and _TCL.fullmatch(name) is None
        case ("lib", series, first, *rest):
            return series == f"python{SERIES}" and _in_stdlib(first, rest)
        case _:
            return False


def is_executable(path: str) -> bool:
    """Return whether ``path`` gets mode 0755: the place decides, never the mode or umask of some machine."""
    return path.startswith("bin/") or _SHARED.fullmatch(path) is not None


def _in_stdlib(first: str, rest: list[str]) -> bool:
    if not rest:
        return first not in _DROPPED_MODULES
    if first in _DROPPED_DIRECTORIES or first.startswith("config-"):
        return False
    return first != "lib-dynload" or _DROPPED_EXTENSIONS.fullmatch(rest[0]) is None
