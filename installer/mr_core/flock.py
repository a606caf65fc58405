"""Advisory locks between processes (``flock(2)``): one exclusive holder, or many shared ones.

The lock file is never unlinked while anybody may wait for it; its inode is compared again after the lock was taken, so
that a file which was replaced meanwhile does not count.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Self

from mr_core.durable import host_error
from mr_core.errors import HostError
from mr_core.events import Cancel, Notice, Reporter, discard

_POLL_SECONDS = 0.05
_NOTICE_SECONDS = 1.0
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
# O_NONBLOCK: a FIFO in the lock's place must not hang us; it means nothing for regular files.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileLock:
    """A held lock; leaving the ``with`` block, or the end of the process, gives it back."""

    __slots__ = ("_descriptor", "_owner", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._owner = os.getpid()

    def release(self) -> None:
        """Give the lock back; a second call does nothing.

        A child that was forked meanwhile has a copy of the descriptor: it neither keeps the lock nor gives it back.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if self._owner == os.getpid():
                with contextlib.suppress(OSError):  # closing it is the second way to the same end
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """Take the lock on ``path`` at once, or return `None` when somebody else holds it.

    Raises:
        FileNotFoundError: when the file does not exist and ``create`` is false.
        HostError: when it cannot be opened, or created.
    """
    while True:
        try:
            descriptor = _open(path, shared=shared, create=create)
        except FileNotFoundError as error:
            if not create:
                raise
            raise _no_directory(path) from error
        except OSError as error:
            raise host_error(f"Cannot open lock `{path}`", error) from error
        lock = FileLock(path, descriptor)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            lock.release()
            if error.errno in _BUSY:
                return None
            raise host_error(f"Cannot lock `{path}`", error) from error
        if _is_there(descriptor, path):
            return lock
        lock.release()


def wait_lock(
    path: Path,
    *,
    what: str,
    shared: bool = False,
    timeout: float | None = None,
    cancel: Cancel | None = None,
    report: Reporter = discard,
) -> FileLock:
    """Take the lock on ``path``, waiting up to ``timeout`` seconds (`None`: without end).

    A wait of more than a second is reported once, by a notice ``waiting-for-lock``.

    Raises:
        HostError: when ``what`` is still busy after ``timeout``, or its directory does not exist (any more).
        CancelledError: when asked to stop meanwhile.
    """
    begin = time.monotonic()
    said = False
    while (lock := try_lock(path, shared=shared)) is None:
        waited = time.monotonic() - begin
        if timeout is not None and waited >= timeout:
            raise HostError(
                f"Cannot change {what}: another process is working on it",
                hint="wait until it has finished, or look for it with `ps`",
                lock=str(path),
            )
        if waited >= _NOTICE_SECONDS and not said:
            said = True
            report(Notice(code="waiting-for-lock", message=f"waiting for another process that works on {what}"))
        if cancel is not None:
            cancel.sleep(_POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)
    return lock


def _open(path: Path, *, shared: bool, create: bool) -> int:
    """Open a lock file for writing where an exclusive lock or a new file needs it: NFS refuses the lock otherwise.

    An existing file that may only be read is opened for that, which is enough everywhere but for an exclusive lock on
    NFS; whoever would also create the file wants to change something here, and learns at once that he may not.
    """
    flags = (os.O_RDONLY if shared and not create else os.O_RDWR) | (os.O_CREAT if create else 0)
    try:
        return os.open(path, flags | _FLAGS, 0o644)
    except OSError as error:
        if error.errno not in _READ_ONLY or not (shared or not create):
            raise
        try:
            return os.open(path, os.O_RDONLY | _FLAGS)
        except OSError:
            raise error from None


def _no_directory(path: Path) -> HostError:
    return HostError(
        f"Cannot open lock `{path}`: its directory does not exist, or was removed meanwhile",
        hint="run the same command again",
        lock=str(path),
    )


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the file that is open; a file that was replaced or removed is locked in vain."""
    try:
        there = path.lstat()
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
