"""Read blobs that lie in files on this disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Self

from mr_core.durable import host_error
from mr_core.errors import IntegrityError, NotFoundError
from mr_core.manifest import Descriptor
from mr_core.store import BlobFile


class FileStream:
    """The bytes of a `BlobFile` from ``offset`` on, as a blob stream."""

    __slots__ = ("_descriptor", "_left", "_path", "_position", "offset")

    def __init__(self, blob: BlobFile, offset: int = 0) -> None:
        self.offset = min(offset, blob.size)
        self._path = blob.path
        self._position = blob.offset + self.offset
        self._left = blob.size - self.offset
        try:
            # O_NONBLOCK: a FIFO in a hostile layout must not hang us; it means nothing for regular files.
            self._descriptor = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise host_error(f"Cannot read `{blob.path}`", error) from error

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; ``b""`` at the end of the blob or of the file."""
        try:
            chunk = os.pread(self._descriptor, min(size, self._left), self._position)
        except OSError as error:
            raise host_error(f"Cannot read `{self._path}`", error) from error
        self._position += len(chunk)
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_blob(path: Path, descriptor: Descriptor, *, where: str) -> BlobFile:
    """Return the file of a blob after comparing its size, before a byte of it is read.

    Raises:
        NotFoundError: when there is no such file.
        IntegrityError: when it is not a regular file of the announced size.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise no_blob(where, descriptor) from error
    except OSError as error:
        raise host_error(f"Cannot read `{path}`", error) from error
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"Cannot read blob {descriptor.digest} in `{where}`: it is not a regular file")
    return check_size(BlobFile(path=path, size=status.st_size), descriptor, where=where)


def check_size(blob: BlobFile, descriptor: Descriptor, *, where: str) -> BlobFile:
    """Return ``blob`` when it has the size the descriptor announces; raise `IntegrityError` otherwise."""
    if blob.size != descriptor.size:
        raise IntegrityError(
            f"Cannot read blob {descriptor.digest} in `{where}`: {blob.size} bytes there, {descriptor.size} announced",
            hint="the copy is damaged or incomplete; make it again",
            digest=str(descriptor.digest),
            size=descriptor.size,
            found=blob.size,
        )
    return blob


def no_blob(where: str, descriptor: Descriptor) -> NotFoundError:
    """Return the error for a blob that a store does not have."""
    return NotFoundError(
        f"Cannot read blob {descriptor.digest}: it is not in `{where}`",
        hint="the copy is incomplete; push, copy or download it again",
        digest=str(descriptor.digest),
    )
