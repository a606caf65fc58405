"""Frame blobs as members of an uncompressed tar file: the outer archive of OCI layouts and of ``docker load``."""

from __future__ import annotations

import tarfile

from mr_bundler.image.tar_writer import BLOCK, MTIME

END = bytes(2 * BLOCK)
"""Two zero blocks end a tar file."""


def file_header(name: str, size: int) -> bytes:
    """Return what stands before the content of a file; sizes of 8 GiB and more get a PAX header."""
    return _header(name, tarfile.REGTYPE, 0o644, size)


def directory_header(name: str) -> bytes:
    """Return a directory member."""
    return _header(name, tarfile.DIRTYPE, 0o755, 0)


def padding(size: int) -> bytes:
    """Return what follows the content of a file of ``size`` bytes."""
    return bytes(-size % BLOCK)


def member_bytes(name: str, size: int) -> int:
    """Return how many bytes a file takes in the archive, header and padding included."""
    return len(file_header(name, size)) + size + -size % BLOCK


def _header(name: str, kind: bytes, mode: int, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.mtime = kind, mode, size, MTIME
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
