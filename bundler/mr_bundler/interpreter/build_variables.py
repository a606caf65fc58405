"""Rewrite ``_sysconfigdata…py`` so that it computes its paths from its own place and tells nothing of a builder.

CPython writes there, as one literal dictionary, every variable of its Makefile: the prefix about a hundred times, the
directory it was compiled in, flags with private directories, and the compiler of the machine.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from mr_core.errors import BuildError

MARK = "@PREFIX@"
NOWHERE = "/nonexistent"
_HEADER = "# Build variables of CPython; the prefix follows from this file's own place"
_FOOTER = f"""\
_prefix = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
build_time_vars = {{
    name: value.replace("{MARK}", _prefix) if isinstance(value, str) else value for name, value in _VARIABLES.items()
}}
"""
_SYSTEM_ROOTS = frozenset({"bin", "dev", "etc", "lib", "lib64", "sbin", "usr"})
_COMMANDS = frozenset({"AR", "BLDSHARED", "CC", "CXX", "LDCXXSHARED", "LDSHARED", "LINKCC", "MAINCC"})
_WORD = re.compile(r"[^\s'\"=:,;]+")
_FLAG_AND_PATH = re.compile(r"(-[A-Za-z]+)?(/[\w.].*)")
_SYSROOT = re.compile(r"-isysroot\s+\S+\s*")
Variables = dict[str, str | int]


def is_build_variables(path: str) -> bool:
    """Return whether ``path`` names the module `sysconfig` reads its variables from."""
    name = PurePosixPath(path).name
    return name.startswith("_sysconfigdata") and name.endswith(".py")


def read_build_variables(text: str) -> Variables | None:
    """Return the literal dictionary in the module, or None when it is computed already (by us)."""
    if text.startswith(_HEADER):
        return None
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id="build_time_vars")], value=value):
                    found: Variables = ast.literal_eval(value)
                    return found
                case _:
                    continue
    except (SyntaxError, ValueError, TypeError) as error:
        raise BuildError(f"Cannot read the interpreter's build variables: {error}") from error
    raise BuildError("Cannot read the interpreter's build variables: `build_time_vars` is not in `_sysconfigdata`")


def builder_paths(variables: Mapping[str, str | int]) -> tuple[str, ...]:
    """Return the directories of the builder that compiled paths may lead to: prefixes and build directories."""
    names = ("prefix", "exec_prefix", "abs_builddir", "abs_srcdir")
    found = {str(variables.get(name, "")).rstrip("/") for name in names}
    return tuple(sorted(path for path in found if path.startswith("/")))


def relocated_build_variables(variables: Variables, prefixes: tuple[str, ...]) -> str:
    """Return the text of a module with the same variables, relative to its own place."""
    lines = [_HEADER, "import os", "_VARIABLES = {"]
    lines += [f"    {name!r}: {_neutral(name, variables[name], prefixes)!r}," for name in sorted(variables)]
    return "\n".join([*lines, "}", _FOOTER])


def _neutral(name: str, value: str | int, prefixes: tuple[str, ...]) -> str | int:
    if not isinstance(value, str):
        return value
    for prefix in sorted(prefixes, key=len, reverse=True):
        value = re.sub(rf"{re.escape(prefix)}(?![\w.-])", MARK, value)
    value = _WORD.sub(lambda match: _neutral_word(match[0]), _SYSROOT.sub("", value))
    return _generic_command(value) if name in _COMMANDS else value


def _neutral_word(word: str) -> str:
    match = _FLAG_AND_PATH.fullmatch(word)
    if match is None or match[2].split("/")[1] in _SYSTEM_ROOTS:
        return word
    name = _generic_tool(match[2])
    return name or f"{match[1] or ''}{NOWHERE}"


def _generic_command(command: str) -> str:
    first, space, rest = command.partition(" ")
    return f"{_generic_tool(first) or first}{space}{rest}"


def _generic_tool(path: str) -> str:
    """Return the name under which every machine with a compiler has this tool, or nothing."""
    name = re.sub(r"-[0-9.]+$", "", path.rpartition("/")[2])
    if name.endswith(("clang++", "g++", "c++")):
        return "c++"
    if name.endswith(("clang", "gcc")) or name == "cc":
        return "cc"
    return "ar" if re.fullmatch(r"(.*-)?(gcc-|llvm-)?ar", name) else ""
