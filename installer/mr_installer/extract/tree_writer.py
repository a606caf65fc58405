"""Create directories, files and links below one directory, through descriptors, so that nothing can lead outside it.

Every name is created relative to the open descriptor of its directory, exclusively and without following links. The
umask is irrelevant: modes are set on descriptors. Few descriptors stay open, however deep the tree is.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from typing import Self

from mr_core.durable import host_error, write_all
from mr_core.errors import BundleError
from mr_installer.extract.rules import Rule, refusal

_MOST_OPEN = 16
"""Directories kept open beside the root: deeper trees reopen theirs from the root, so `ulimit -n 64` is plenty."""
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY_MODE = 0o755


class TreeWriter:
    """Writes below the directory open at ``root``, which the caller keeps and closes.

    Paths are relative, without empty, ``.`` or ``..`` components. Members of one directory should come together: the
    directories on the way to the last path stay open.

    All methods raise `IntegrityError` where something else lies already, and `HostError` when the disk refuses.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._path = ""
        self._names: list[str] = []
        self._open: list[int | None] = []
        self._current = root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(0)

    def make_directory(self, path: str) -> None:
        """Create a directory; one that another layer made already is fine."""
        try:
            if not path:
                os.fchmod(self._root, _DIRECTORY_MODE)
                return
            parent, _, name = path.rpartition("/")
            try:
                os.mkdir(name, _DIRECTORY_MODE, dir_fd=self._enter(parent))
            except FileExistsError:
                self._enter(path)
            else:
                os.fchmod(self._enter(path), _DIRECTORY_MODE)
        except OSError as error:
            raise _translated("create", path, error) from error

    def write_file(self, path: str, mode: int, content: Iterable[memoryview]) -> str:
        """Create a file and return the sha256 of its content in hexadecimal."""
        hasher = hashlib.sha256()
        parent, _, name = path.rpartition("/")
        try:
            descriptor = os.open(name, _FILE_FLAGS, 0o600, dir_fd=self._enter(parent))
            try:
                for piece in content:
                    hasher.update(piece)
                    write_all(descriptor, piece)
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _translated("write", path, error) from error
        return hasher.hexdigest()

    def make_link(self, path: str, target: str) -> None:
        """Create a symbolic link; the caller has checked where it leads."""
        parent, _, name = path.rpartition("/")
        try:
            os.symlink(target, name, dir_fd=self._enter(parent))
        except OSError as error:
            raise _translated("create", path, error) from error

    def _enter(self, path: str) -> int:
        """Return the descriptor of a directory that exists, without following any link on the way."""
        if path == self._path:
            return self._current
        names = path.split("/") if path else []
        shared = 0
        for have, want in zip(self._names, names, strict=False):
            if have != want:
                break
            shared += 1
        self._leave(shared)
        while shared and self._open[shared - 1] is None:
            shared -= 1
        del self._names[shared:], self._open[shared:]
        current = self._open[-1] if self._open else None
        current = self._root if current is None else current
        for depth, name in enumerate(names[shared:], start=shared):
            current = os.open(name, _DIRECTORY_FLAGS, dir_fd=current)
            self._names.append(name)
            self._open.append(current)
            self._close(depth - _MOST_OPEN)
        self._path, self._current = path, current
        return current

    def _leave(self, depth: int) -> None:
        for level in range(depth, len(self._open)):
            self._close(level)
        del self._names[depth:], self._open[depth:]
        self._path, self._current = "\0", -1  # no path, until `_enter` sets one

    def _close(self, level: int) -> None:
        if level >= 0 and (descriptor := self._open[level]) is not None:
            self._open[level] = None
            os.close(descriptor)


def open_directory(path: os.PathLike[str]) -> int:
    """Open a directory to write below it; the caller closes the descriptor."""
    try:
        return os.open(path, _DIRECTORY_FLAGS)
    except OSError as error:
        raise host_error(f"Cannot open `{path}`", error) from error


def _translated(verb: str, path: str, error: OSError) -> BundleError:
    match error.errno:
        case errno.EEXIST:
            return refusal(Rule.DUPLICATE, "something lies there already", member=path)
        case errno.ENOTDIR | errno.ELOOP:
            return refusal(Rule.NOT_A_DIRECTORY, "a file or a link lies where a directory is needed", member=path)
        case _:
            return host_error(f"Cannot {verb} `{path or '.'}`", error)
