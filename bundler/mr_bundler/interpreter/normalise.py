"""Give interpreters of every source the same shape; refuse what would not work in a bundle."""

from __future__ import annotations

import posixpath
import re

from mr_bundler.interpreter.build_variables import (
    builder_paths,
    is_build_variables,
    read_build_variables,
    relocated_build_variables,
)
from mr_bundler.interpreter.contents import DYNLOAD, EXECUTABLE, STDLIB, belongs, is_executable
from mr_bundler.interpreter.tree import File, Link, Tree
from mr_bundler.interpreter.user_site import encodings_with_own_site, site_without_user_site
from mr_core.errors import BuildError

_SHEBANG = re.compile(rb"\A#![^\n]*python[^\n]*")
_LANDMARK = b"CPython finds its prefix by this directory, so it must not be empty in an archive.\n"


def normalise(tree: Tree) -> Tree:
    """Return ``tree`` as bundles have it.

    Only what `contents.belongs` names; ``bin/python3`` and ``bin/python`` as relative links; no user site; build
    variables computed; shebangs that name no machine's path; modes by place; links inside the tree only.

    Raises:
        BuildError: when a part that must be there is missing or has another form than known.
    """
    kept = {path: member for path, member in tree.items() if belongs(path)}
    for required in (EXECUTABLE, f"{STDLIB}/os.py", f"{STDLIB}/site.py", f"{STDLIB}/encodings/__init__.py"):
        if not isinstance(kept.get(required), File):
            raise BuildError(f"Cannot use the base interpreter: `{required}` is not in it")
    result: Tree = {}
    for path, member in kept.items():
        match member:
            case Link(target=target):
                # a link to something that was dropped goes with it
                if posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) in kept:
                    result[path] = member
            case File(content=content):
                result[path] = File(content=_normal_content(path, content), executable=is_executable(path))
    name = posixpath.basename(EXECUTABLE)
    result["bin/python3"] = result["bin/python"] = Link(target=name)
    if not any(path.startswith(f"{DYNLOAD}/") for path in result):
        result[f"{DYNLOAD}/README.txt"] = File(content=_LANDMARK)
    return result


def _normal_content(path: str, content: bytes) -> bytes:
    if path == f"{STDLIB}/site.py":
        return site_without_user_site(content)
    if path == f"{STDLIB}/encodings/__init__.py":
        return encodings_with_own_site(content)
    if is_build_variables(path):
        return _relocated_variables(content)
    if path.endswith(".py"):
        return _SHEBANG.sub(b"#!/usr/bin/env python3", content, count=1)
    return content


def _relocated_variables(content: bytes) -> bytes:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BuildError(f"Cannot read the interpreter's build variables: {error}") from error
    variables = read_build_variables(text)
    if variables is None:
        return content
    prefixes = builder_paths({key: variables.get(key, "") for key in ("prefix", "exec_prefix")})
    return relocated_build_variables(variables, prefixes).encode()
