"""The lease: a shared lock that says "a server runs from this release", kept across ``exec``.

Pruning takes the exclusive lock on the same file, so it never removes a release that a server still needs. The kernel
gives the lease back when the last process that inherited it ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from mr_shim.errors import HOST, ShimError

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.02
_FIRST_FREE = 3  # 0, 1 and 2 may be closed, and the server must not find the lease there


def take_lease(prefix: str) -> int:
    """Lock ``.mr/lease`` below ``prefix`` and return the descriptor, which survives ``exec``.

    Returns -1 where there is nothing to lock: the file is missing or unreadable (a bundle used in place, which nothing
    prunes), or the filesystem has no locks.

    Raises:
        ShimError: status 9 when the release is being removed.
    """
    path = f"{prefix}/.mr/lease"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1
    if descriptor < _FIRST_FREE:
        low, descriptor = descriptor, fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
        os.close(low)
    if not _lock(descriptor, prefix):
        os.close(descriptor)
        return -1
    if not _still_there(descriptor, path):
        raise _removed(prefix)
    os.set_inheritable(descriptor, True)
    return descriptor


def _lock(descriptor: int, prefix: str) -> bool:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                return False
            if time.monotonic() > deadline:  # a look at who uses the release takes milliseconds, removal goes on
                raise _removed(prefix) from error
            time.sleep(_POLL_SECONDS)
        else:
            return True


def _still_there(descriptor: int, path: str) -> bool:
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _removed(prefix: str) -> ShimError:
    return ShimError(HOST, f"Cannot use release `{prefix}`: it is being removed", "start the server again")
