"""Which paths, links and modes some host could not extract, or must not. Pure.

The rules are those by which the installer reads layers, so what passes here installs.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping

from mr_bundler.audit.finding import Finding
from mr_core.file_manifest import Entry, FileEntry, LinkEntry

MOST_PATH_BYTES = 1024
MOST_NAME_BYTES = 255
MOST_DEPTH = 64
_MOST_STEPS = 256
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_DRIVE = re.compile(r"(^|/)[A-Za-z]:")
_SPECIAL_MODES = {0o4000: "setuid", 0o2000: "setgid", 0o1000: "sticky", 0o002: "world-writable"}


def judge_paths(entries: Mapping[str, Entry]) -> Iterator[Finding]:
    """Yield findings of the kinds ``unsafe-path``, ``unsafe-mode`` and ``case-collision``."""
    directories = directories_of(entries)
    links = {path: entry.link for path, entry in entries.items() if isinstance(entry, LinkEntry)}
    folded: dict[str, str] = {}
    for path, entry in entries.items():
        if problem := path_problem(path):
            yield Finding(kind="unsafe-path", path=path, detail=problem)
        match entry:
            case FileEntry(mode=mode):
                if problem := mode_problem(mode):
                    yield Finding(kind="unsafe-mode", path=path, detail=problem)
            case LinkEntry(link=link):
                if problem := _link_problem(path, link, links, directories):
                    yield Finding(kind="unsafe-path", path=path, detail=problem)
    for path in sorted(entries.keys() & directories):  # of two owners: no tree on disk has both
        what = "link" if path in links else "file"
        yield Finding(kind="unsafe-path", path=path, detail=f"is a {what} and a directory")
    for path in (*sorted(entries), *sorted(directories)):
        other = folded.setdefault(fold(path), path)
        if other != path:
            yield Finding(kind="case-collision", path=path, detail=other)


def directories_of(paths: Collection[str]) -> set[str]:
    """Return every directory that ``paths`` need, without the root."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def fold(path: str) -> str:
    """Return a key that is equal for paths that some filesystem takes for the same one."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def path_problem(path: str) -> str:
    """Return what is wrong with a path, empty text for nothing."""
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


def mode_problem(mode: int) -> str:
    """Return what is wrong with the mode of a file or directory, empty text for nothing."""
    return ", ".join(name for bit, name in _SPECIAL_MODES.items() if mode & bit)


def _link_problem(path: str, target: str, links: Mapping[str, str], directories: Collection[str]) -> str:
    if not target or _UNSAFE.search(target):
        return "is a link whose target is empty or holds a control character or a backslash"
    if target.startswith("/"):
        return f"is an absolute link to {target}"
    if any(name in {"", "."} for name in target.split("/")):
        return "is a link whose target has an empty component or a `.`"
    return _follow(path, links, directories)


def _follow(start: str, links: Mapping[str, str], directories: Collection[str]) -> str:
    """Return what is wrong with the way of a link, component by component, through the links on its way."""
    place, left = posixpath.dirname(start), links[start].split("/")[::-1]
    for _ in range(_MOST_STEPS):
        if not left:
            return ""
        name = left.pop()
        if place and place not in directories:
            return f"is a link through `{place}`, which is no directory"
        if name == "..":
            if not place:
                return f"is a link to {links[start]}, outside the tree"
            place = posixpath.dirname(place)
            continue
        step = posixpath.join(place, name)
        if step in links and links[step].startswith("/"):
            return ""  # that link is a finding of its own
        if step in links:
            left += links[step].split("/")[::-1]
        else:
            place = step
    return "is a link that does not end"
