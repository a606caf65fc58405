"""Advisory locks between processes (``flock(2)``): one exclusive holder, or many shared ones.

The lock file is never unlinked while anybody may wait for it; its inode is compared again after the lock was taken, so
that a file which was replaced meanwhile does not count.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Self

from mr_core.durable import host_error
from mr_core.errors import HostError
from mr_core.events import Cancel

_POLL_SECONDS = 0.05
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FileLock:
    """A held lock; leaving the ``with`` block, or the end of the process, gives it back."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """Take the lock on ``path`` at once, or return `None` when somebody else holds it.

    Raises:
        FileNotFoundError: when the file does not exist and ``create`` is false.
        HostError: when it cannot be opened.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise host_error(f"Cannot open lock `{path}`", error) from error
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                return None
            raise host_error(f"Cannot lock `{path}`", error) from error
        if _same_file(descriptor, path):
            return FileLock(path, descriptor)
        os.close(descriptor)


def wait_lock(
    path: Path, *, what: str, shared: bool = False, timeout: float | None = None, cancel: Cancel | None = None
) -> FileLock:
    """Take the lock on ``path``, waiting up to ``timeout`` seconds (`None`: without end).

    Raises:
        HostError: when ``what`` is still busy after ``timeout``.
        CancelledError: when asked to stop meanwhile.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while (lock := try_lock(path, shared=shared)) is None:
        if deadline is not None and time.monotonic() >= deadline:
            raise HostError(
                f"Cannot change {what}: another process is working on it",
                hint="wait until it has finished, or look for it with `ps`",
                lock=str(path),
            )
        if cancel is not None:
            cancel.sleep(_POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)
    return lock


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
