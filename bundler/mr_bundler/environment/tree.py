"""The environment: the tree on disk that becomes a bundle, and the private directory it is built in."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mr_core.durable import host_errors, make_directories, remove_tree
from mr_core.errors import BuildError, BundleError, HostError, printable
from mr_core.flock import FileLock, try_lock

_PREFIX = "mr-build-"
_TREE = "backend"


class Found(NamedTuple):
    """What lies at a path: a link when ``link`` is not empty, else a regular file."""

    size: int
    executable: bool
    link: str = ""

    @property
    def mode(self) -> int:
        """The mode a bundle gives it: the owner's right to execute decides, so the umask does not matter."""
        return 0o755 if self.executable else 0o644


@contextlib.contextmanager
def build_directory(parent: Path) -> Iterator[Path]:
    """Yield a new directory below ``parent`` and remove it afterwards, whatever happens.

    It is locked while it is in use; what killed builds left is recognised by that, and removed first.

    Raises:
        HostError: when ``parent`` cannot be written.
    """
    make_directories(parent)
    _sweep(parent)
    place, lock = _claim(parent)
    with lock:  # until the tree is gone: a build that starts meanwhile must not remove it as well
        try:
            yield place
        except BaseException:
            with contextlib.suppress(BundleError):  # the cause counts; the next build sweeps what is left
                remove_tree(place)
            raise
        remove_tree(place)


def _claim(parent: Path) -> tuple[Path, FileLock]:
    """Return a new directory and its lock; a sweep may win the lock of a directory that is a moment old."""
    while True:
        with host_errors("create a directory in", parent):
            place = Path(tempfile.mkdtemp(dir=parent, prefix=_PREFIX))
        try:
            lock = try_lock(place / ".lock")
        except HostError:
            if place.exists():
                raise
            continue
        if lock is not None:
            return place, lock


def _sweep(parent: Path) -> None:
    """Remove what killed builds left; whatever stands in the way is not this build's trouble."""
    for leftover in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, BundleError):
            lock = try_lock(leftover / ".lock", create=False)
            if lock is not None:
                with lock:
                    remove_tree(leftover)


def tree_of(place: Path) -> Path:
    """Return where the tree lies in a build directory."""
    return place / _TREE


def list_tree(root: Path) -> dict[str, Found]:
    """Return all files and links below ``root`` by their path relative to it, sorted by its bytes.

    Raises:
        BuildError: when a name is not UTF-8: no document of a bundle could hold it. When something is neither a file,
            a directory nor a link.
        HostError: when something cannot be read.
    """
    found: dict[str, Found] = {}
    with host_errors("read", root):
        _list(os.fspath(root), "", found)
    for path in found:
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise BuildError(f"Cannot use the environment: the name of {path!a} is not UTF-8") from error
    return {path: found[path] for path in sorted(found, key=os.fsencode)}


def _list(directory: str, prefix: str, found: dict[str, Found]) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.is_symlink():
                found[path] = Found(0, executable=False, link=os.readlink(entry.path))  # noqa: PTH115 - a hot loop
            elif entry.is_dir():
                _list(entry.path, f"{path}/", found)
            else:
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):  # reading a FIFO would wait for ever
                    raise BuildError(
                        f"Cannot use the environment: `{printable(path)}` is neither a file, a directory nor a link",
                        hint="find out what made it there, such as a prebuild step",
                        path=printable(path),
                    )
                found[path] = Found(status.st_size, bool(status.st_mode & 0o100))


def remove_files(root: Path, paths: Iterable[str]) -> None:
    """Remove files of the tree; directories may stay, for only files and links make it into a layer."""
    with host_errors("remove files in", root):
        for path in paths:
            os.unlink(os.path.join(root, path))  # noqa: PTH108, PTH118 - thousands of them


def move_files(source: Path, root: Path, paths: Iterable[str]) -> None:
    """Move files from one tree to another on the same filesystem; what lies there under the same path is replaced."""
    made: set[str] = set()
    with host_errors("move files to", root):
        for path in paths:
            directory = path.rpartition("/")[0]
            if directory not in made:
                (root / directory).mkdir(parents=True, exist_ok=True)
                made.add(directory)
            os.rename(f"{source}/{path}", f"{root}/{path}")  # noqa: PTH104 - thousands of them


def write_file(root: Path, path: str, content: bytes, *, executable: bool = False) -> None:
    """Write a file of the tree anew; what lies there is unlinked first, so that no other name of it changes."""
    place = root / path
    with host_errors("write", place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_bytes(content)
        place.chmod(0o755 if executable else 0o644)
