"""Refuse paths that some host could not extract, with the rules by which the installer reads layers. Pure."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping

from mr_core.errors import BuildError

MOST_PATH_BYTES = 1024
MOST_NAME_BYTES = 255
MOST_DEPTH = 64
_SHOWN = 5
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_DRIVE = re.compile(r"(^|/)[A-Za-z]:")


def directories_of(paths: Iterable[str]) -> set[str]:
    """Return every directory that ``paths`` need, without the root."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def check_paths(files: Mapping[str, str]) -> None:
    """Raise `BuildError` for unsafe, too long or colliding paths, and for links that lead out of the tree.

    Args:
        files: Target of each link by path, empty text for a regular file.
    """
    paths = list(files)
    problems = [f"`{path!a}` {reason}" for path in paths if (reason := _problem(path))]
    problems += [
        f"`{path}` is a link to `{target}`, which is outside the tree"
        for path, target in files.items()
        if target and _leaves(path, target)
    ]
    folded: dict[str, str] = {}
    for path in (*paths, *sorted(directories_of(paths))):
        other = folded.setdefault(_fold(path), path)
        if other != path:
            problems.append(f"`{path}` and `{other}` are one path on some filesystems")
    if problems:
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise BuildError(
            f"Cannot pack the environment: {'; '.join(problems[:_SHOWN])}{more}",
            hint="leave such files out with `slim.remove`",
            problems=problems,
        )


def _problem(path: str) -> str:
    if _UNSAFE.search(path):
        return "holds a control character or a backslash, or is not UTF-8"
    if path.isascii() and len(path) < MOST_NAME_BYTES and "/.wh." not in f"/{path}" and ":" not in path:
        return "is too deep" if path.count("/") >= MOST_DEPTH else ""
    if not unicodedata.is_normalized("NFC", path):
        return "is not in Unicode normal form C"
    if len(path.encode()) > MOST_PATH_BYTES:
        return f"is longer than {MOST_PATH_BYTES} bytes"
    if any(len(name.encode()) > MOST_NAME_BYTES for name in path.split("/")):
        return f"has a component longer than {MOST_NAME_BYTES} bytes"
    if "/.wh." in f"/{path}":
        return "would be taken for a whiteout"
    if _DRIVE.search(path):
        return "has a drive letter"
    return "is too deep" if path.count("/") >= MOST_DEPTH else ""


def _leaves(path: str, target: str) -> bool:
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return place.startswith(("/", "../")) or place == ".."


def _fold(path: str) -> str:
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
