"""Filesystem steps that survive a crash and a power loss: durable writes, renames and removals.

The rule behind every function here but `remove_tree`, which syncs nothing: bytes are synced before the name that makes
them visible is, and a directory is synced after an entry in it changed. On macOS ``fsync`` only hands bytes to the
drive, so the last step of a transaction uses ``F_FULLFSYNC``, which empties the drive's cache for everything handed to
it before (see ``man 2 fsync`` there). The ``sync_…`` functions and `write_all` raise `OSError` for callers that know
what they were doing (`host_errors`); all others raise `HostError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mr_core.errors import HostError

_FULL_FSYNC = 51  # F_FULLFSYNC in <sys/fcntl.h> of macOS


@contextlib.contextmanager
def host_errors(verb: str, path: Path | str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `HostError` that says ``Cannot <verb> <path>``."""
    try:
        yield
    except OSError as error:
        raise host_error(f"Cannot {verb} `{path}`", error) from error


def host_error(what: str, error: OSError) -> HostError:
    """Return a `HostError` for ``error``, with the next step for the common causes."""
    hints = {
        errno.ENOSPC: "free some disk space there, or choose another place",
        errno.EDQUOT: "your disk quota is used up; free some space, or choose another place",
        errno.EACCES: "check the owner and the permissions of that directory",
        errno.EPERM: "check the owner, the permissions and the attributes (immutable?) of that path",
        errno.EROFS: "the filesystem is read-only; choose another place",
        errno.EMFILE: "raise the limit of open files: `ulimit -n 256`",
        errno.ENOTDIR: "a file lies where a directory is needed; move it away",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = hints.get(error.errno or 0, "")
    return HostError(f"{what}: {reason.lower()}", hint=hint, errno=errno.errorcode.get(error.errno or 0, ""))


def make_directories(path: Path, *, mode: int = 0o755) -> None:
    """Create ``path`` and its parents; each new directory gets ``mode`` whatever the umask is, and is synced."""
    with host_errors("create", path):
        if path.is_dir():
            return
        missing = [path, *path.parents]
        missing = [place for place in missing if not place.exists()]
        for place in reversed(missing):
            with contextlib.suppress(FileExistsError):
                place.mkdir()
                place.chmod(mode)
                sync_directory(place.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    _sync_directory(path, _sync)


def _sync_directory(path: Path, sync: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network filesystems cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Make ``root`` and everything below it durable.

    That is one ``syncfs`` on Linux; elsewhere an ``fsync`` for each file and directory, and on macOS one
    ``F_FULLFSYNC`` behind them all.
    """
    if sys.platform == "linux":
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(descriptor) == 0:
                return
            code = ctypes.get_errno()
            if code != errno.ENOSYS:
                raise OSError(code, os.strerror(code), str(root))
        finally:
            os.close(descriptor)
    for directory, _, names in os.walk(root):
        for name in names:
            place = os.path.join(directory, name)  # noqa: PTH118 - hot loop over many thousand files
            if not os.path.islink(place):  # noqa: PTH114
                sync_file(Path(place))
        _sync_directory(Path(directory), os.fsync)
    sync_directory(root)


def sync_file(path: Path) -> None:
    """Make the bytes of one file durable, but for the cache of the drive on macOS."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - POSIX only, needed on this platform alone

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, _FULL_FSYNC)
            return
    os.fsync(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of ``content`` at the current position, however little a single ``write`` takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def write_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content`` durably in one step: a crash leaves the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with host_errors("write", path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                write_all(descriptor, content)
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
            sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def point_link(link: Path, target: str) -> None:
    """Make the symbolic link ``link`` point to ``target`` by one rename; readers see the old target or the new."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    with host_errors("link", link):
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(target)
        try:
            temporary.replace(link)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(link.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory tree of ours, also read-only directories in it; never follows a link.

    What vanishes meanwhile, because somebody else removes it too, is fine.
    """
    with host_errors("remove", path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            path.unlink(missing_ok=True)
            return
        for directory, names, _ in os.walk(path):
            if not os.access(directory, os.W_OK | os.X_OK):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(directory, 0o700)  # noqa: PTH101
            names[:] = [name for name in names if not os.path.islink(os.path.join(directory, name))]  # noqa: PTH114, PTH118
        for directory, names, files in os.walk(path, topdown=False):
            for name in [*files, *names]:
                _remove_entry(os.path.join(directory, name))  # noqa: PTH118 - hot loop over many thousand files
        _remove_entry(str(path))


def _remove_entry(place: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.isdir(place) and not os.path.islink(place):  # noqa: PTH112, PTH114
            os.rmdir(place)  # noqa: PTH106
        else:
            os.unlink(place)  # noqa: PTH108
