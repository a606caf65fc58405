"""Write a file beside its final place, and commit it by one rename of synced bytes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mr_core.durable import host_errors, make_directories, sync_directory, write_all
from mr_core.errors import HostError
from mr_core.flock import try_lock

_STALE_SECONDS = 60.0  # far more than ever lies between creating a temporary file and locking it


class Ingest:
    """An open temporary file that takes the bytes of a blob."""

    __slots__ = ("_descriptor", "_target")

    def __init__(self, descriptor: int, target: Path) -> None:
        self._descriptor = descriptor
        self._target = target

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``; raise `HostError` when the disk is full."""
        with host_errors("write", self._target):
            write_all(self._descriptor, chunk)


@contextlib.contextmanager
def ingest(folder: Path, target: Path) -> Iterator[Ingest]:
    """Yield a file in ``folder`` to write to; when the block ends well it is synced and becomes ``target``.

    ``folder`` and ``target`` must lie on one filesystem. The temporary file is locked while it is written, so that
    `sweep` can tell it from what a killed process left.
    """
    make_directories(folder)
    make_directories(target.parent)
    with host_errors("write", target):
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=f"{target.name[:12]}-")
    temporary = Path(name)
    try:
        with host_errors("lock", temporary):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Ingest(descriptor, target)
        with host_errors("write", target):
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
            temporary.replace(target)
            sync_directory(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in ``folder``: regular files, not locked by anybody, and not brand new.

    What is in the way (a link, somebody else's file) stays; it costs space and no correctness.
    """
    try:
        leftovers = list(folder.iterdir())
    except OSError:
        return
    for leftover in leftovers:
        with contextlib.suppress(OSError, HostError):
            status = leftover.lstat()
            if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < _STALE_SECONDS:
                continue
            lock = try_lock(leftover, create=False)
            if lock is not None:
                with lock:
                    leftover.unlink()
