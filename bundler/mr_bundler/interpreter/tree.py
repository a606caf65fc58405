"""An interpreter's files in memory, and their one deterministic form in bytes and on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mr_bundler.interpreter.contents import STDLIB
from mr_core.errors import HostError, IntegrityError, UsageError
from mr_core.events import Cancel

_CHECK_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A regular file; mode 0755 when ``executable``, else 0644."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A symbolic link with a relative target inside the tree."""

    target: str


Tree: TypeAlias = dict[str, File | Link]
"""Paths relative to the prefix, in POSIX form, to what lies there; directories follow from the paths."""


def pack_tree(tree: Tree) -> bytes:
    """Return the one serial form of ``tree``: a JSON line (path, kind, size or target), then all contents."""
    index: list[list[str | int]] = []
    contents: list[bytes] = []
    for path in sorted(tree, key=os.fsencode):
        match tree[path]:
            case File(content=content, executable=executable):
                index.append([path, "x" if executable else "f", len(content)])
                contents.append(content)
            case Link(target=target):
                index.append([path, "l", target])
    return b"".join((json.dumps(index, separators=(",", ":")).encode(), b"\n", *contents))


def unpack_tree(packed: bytes) -> Tree:
    """Read what `pack_tree` wrote; raise `IntegrityError` when it does not add up."""
    tree: Tree = {}
    try:
        end = packed.index(b"\n")
        position = end + 1
        for path, kind, value in json.loads(packed[:end]):
            if kind == "l":
                tree[path] = Link(target=value)
                continue
            tree[path] = File(content=packed[position : position + value], executable=kind == "x")
            position += value
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"Cannot read a packed interpreter: {error}") from error
    if position != len(packed):
        raise IntegrityError(f"Cannot read a packed interpreter: {len(packed)} bytes where {position} were expected")
    return tree


def digest_of(packed: bytes) -> str:
    """Return ``sha256:…`` of a tree's serial form."""
    return f"sha256:{hashlib.sha256(packed).hexdigest()}"


def write_tree(tree: Tree, destination: Path, *, cancel: Cancel | None = None) -> None:
    """Write ``tree`` below ``destination``, which must be absent or empty; leave nothing there after a failure.

    An empty ``site-packages`` is made too: the interpreter puts it on ``sys.path`` only when it is there.

    Raises:
        UsageError: when something is there already.
        HostError: when this machine stands in the way.
        CancelledError: when asked to stop.
    """
    try:
        if destination.is_dir() and any(destination.iterdir()):
            raise UsageError(
                f"Cannot write the interpreter to `{destination}`: the directory is not empty",
                hint="name a directory that does not exist yet",
            )
        try:
            _write(tree, destination, cancel)
        except BaseException:
            shutil.rmtree(destination, ignore_errors=True)
            raise
    except OSError as error:
        raise HostError(f"Cannot write the interpreter to `{destination}`: {error.strerror}") from error


def _write(tree: Tree, destination: Path, cancel: Cancel | None) -> None:
    root = os.fspath(destination)
    directories = {f"{STDLIB}/site-packages"}
    for path in tree:
        parent = path.rpartition("/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition("/")[0]
    destination.mkdir(parents=True, exist_ok=True)
    destination.chmod(0o755)
    for directory in sorted(directories):
        place = Path(root, directory)
        place.mkdir(exist_ok=True)
        place.chmod(0o755)
    for number, (path, member) in enumerate(tree.items()):
        if cancel is not None and number % _CHECK_EVERY == 0:
            cancel.check()
        place_name = f"{root}/{path}"
        match member:
            case Link(target=target):
                Path(place_name).symlink_to(target)
            case File(content=content, executable=executable):
                _write_file(place_name, content, 0o755 if executable else 0o644)


def _write_file(place: str, content: bytes, mode: int) -> None:
    number = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(number, "wb", buffering=0) as out:
        os.fchmod(number, mode)
        rest = memoryview(content)
        while rest:
            rest = rest[out.write(rest) :]
