"""Console scripts that work wherever the tree lies: shell on the first lines, Python below. Pure.

Such a file is a program for both: to the shell, ``"":"`` is the command ``:``; to Python, everything up to the closing
quotes is the module's docstring. So ``multiprocessing`` can import it again, as it does with a common script.
"""

from __future__ import annotations

import configparser
import re
import warnings
from dataclasses import dataclass

from mr_bundler.environment.wheel_record import InstalledDistribution
from mr_core.errors import BuildError

_TRAMPOLINE = '''\
#!/bin/sh
""":"
# Runs with the Python that lies beside this file, wherever that is now; links to this file are followed.
self=$0
case $self in
*/*) ;;
*) if [ -f "./$self" ]; then self=./$self; else self=$(command -v -- "$self"); fi ;;
esac
while [ -L "$self" ]; do
    next=$(readlink -- "$self")
    case $next in
    /*) self=$next ;;
    *) self=${self%/*}/$next ;;
    esac
done
exec "${self%/*}/python3" -P "$self" "$@"
":"""
'''
_ENTRY_POINT = """\
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({attribute}())
"""
_GROUPS = ("console_scripts", "gui_scripts")
_REFERENCE = re.compile(r"(?P<module>\w+(\.\w+)*)\s*:\s*(?P<attribute>\w+(\.\w+)*)\s*(\[[^\]]*\])?")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
# What uv writes where a path is too long or holds a space for `#!`: distlib's form of a script for both languages.
_LONG_SHEBANG = re.compile(rb"\A#!/bin/sh\n'''exec' [^\n]*\n' '''\n")
_SHEBANG = re.compile(rb"\A#![^\n]*python[^\n]*(\n|\Z)")
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A file to write below ``bin/``."""

    path: str
    content: bytes


def entry_point_scripts(distribution: InstalledDistribution) -> tuple[Script, ...]:
    """Return the console scripts of a distribution.

    Raises:
        BuildError: when its ``entry_points.txt`` cannot be understood.
    """
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[method-assign,assignment] # names are case-sensitive; documented way
    where = f"{distribution.place}/entry_points.txt"
    try:
        parser.read_string(distribution.entry_points)
    except configparser.Error as error:
        raise BuildError(f"Cannot read `{where}`: {error.message}") from error
    scripts: dict[str, Script] = {}
    for group in _GROUPS:
        for name, reference in parser.items(group) if parser.has_section(group) else ():
            match = _REFERENCE.fullmatch(reference.strip())
            if match is None or not _FILE_NAME.fullmatch(name):
                raise BuildError(f"Cannot read `{where}`: `{name} = {reference}` is not a script")
            attribute = match["attribute"]
            text = _ENTRY_POINT.format(module=match["module"], name=attribute.partition(".")[0], attribute=attribute)
            path = f"bin/{name}"
            scripts[path] = Script(path=path, content=(_TRAMPOLINE + text).encode())
    return tuple(scripts.values())


def relocated_script(path: str, content: bytes) -> bytes | None:
    """Return a Python script a wheel brought with it in relocatable form, or None when it is something else.

    Raises:
        BuildError: when it is Python, but would not be any more.
    """
    body = _without_shebang(content)
    if body is None:
        return None
    trampoline = _TRAMPOLINE.replace(" -P ", " ").encode()  # such a script may import the one beside it
    if coding := next(filter(None, map(_CODING.match, body.split(b"\n", 2)[:2])), None):
        # PEP 263 looks at the first two lines only
        trampoline = trampoline.replace(b"\n", b"\n# -*- coding: " + coding[1] + b" -*-\n", 1)
    result = trampoline + body
    if _parses(body) and not _parses(result):
        raise BuildError(
            f"Cannot make `{path}` relocatable: it must begin with its own docstring or `from __future__` import",
            hint=f"leave it out: add `/{path}` to `slim.remove` in the recipe",
        )
    return result


def _without_shebang(content: bytes) -> bytes | None:
    for pattern in (_LONG_SHEBANG, _SHEBANG):
        if match := pattern.match(content):
            return content[match.end() :]
    return None


def _parses(source: bytes) -> bool:
    with warnings.catch_warnings(action="ignore"):
        try:
            compile(source, "script", "exec", dont_inherit=True)  # `ast.parse` lets misplaced imports pass
        except (SyntaxError, ValueError):
            return False
    return True
