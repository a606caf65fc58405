"""Read bytes through a check of size and digest, so that nothing unverified passes for complete."""

from __future__ import annotations

from typing import Protocol

from mr_core.digest import Digest
from mr_core.errors import IntegrityError, InvalidInputError
from mr_core.manifest import Descriptor


class Readable(Protocol):
    """The one method that a verified source of bytes needs."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; ``b""`` at the end."""


class VerifyingReader:
    """Pass bytes on and digest them; the last byte is handed out only after size and digest matched.

    A reader that gave all ``size`` bytes and did not raise has therefore given the right bytes. `finish` says so
    explicitly and also refuses to end early.
    """

    __slots__ = ("_digest", "_done", "_hasher", "_size", "_stream", "_what", "position")

    def __init__(self, stream: Readable, digest: Digest, size: int, *, what: str = "blob") -> None:
        self._stream = stream
        self._digest = digest
        self._size = size
        self._what = what
        self._hasher = digest.hasher()
        self._done = False
        self.position = 0

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; ``b""`` only when everything was read and matched.

        Raises:
            IntegrityError: when the data ends early, goes on too long, or has another digest.
        """
        if self._done:
            return b""
        chunk = self._stream.read(min(size, self._size - self.position)) if self.position < self._size else b""
        if not chunk and self.position < self._size:
            raise self._wrong(f"it ends after {self.position} of {self._size} bytes")
        self._hasher.update(chunk)
        self.position += len(chunk)
        if self.position > self._size:
            raise self._wrong(f"it is longer than the {self._size} bytes announced")
        if self.position == self._size:
            self._check_end()
        return chunk

    def finish(self) -> None:
        """Confirm that everything was read and matched.

        Raises:
            IntegrityError: when bytes are missing, left over or wrong.
        """
        if not self._done and self.position == self._size:
            self._check_end()
        if not self._done:
            raise self._wrong(f"only {self.position} of {self._size} bytes were read")

    def _check_end(self) -> None:
        if self._stream.read(1):
            raise self._wrong(f"it is longer than the {self._size} bytes announced")
        found = self._hasher.hexdigest()
        if found != self._digest.hex:
            raise self._wrong(f"its digest is {self._digest.algorithm}:{found}")
        self._done = True

    def _wrong(self, reason: str) -> IntegrityError:
        return IntegrityError(
            f"Cannot accept {self._what} {self._digest}: {reason}",
            hint="the bytes were damaged or replaced on the way; get them from another source",
            digest=str(self._digest),
            size=self._size,
        )


def read_verified(stream: Readable, descriptor: Descriptor, *, what: str, limit: int) -> bytes:
    """Return all bytes of a small blob, verified.

    Raises:
        InvalidInputError: when the descriptor announces more than ``limit`` bytes; nothing is read then.
        IntegrityError: when the bytes differ from the descriptor.
    """
    check_limit(descriptor, what=what, limit=limit)
    reader = VerifyingReader(stream, descriptor.digest, descriptor.size, what=what)
    chunks = []
    while chunk := reader.read(min(1 << 20, descriptor.size + 1)):
        chunks.append(chunk)
    reader.finish()
    return b"".join(chunks)


def check_limit(descriptor: Descriptor, *, what: str, limit: int) -> None:
    """Refuse a descriptor that announces more bytes than may be held in memory."""
    if descriptor.size > limit:
        raise InvalidInputError(
            f"Cannot read {what} {descriptor.digest}: {descriptor.size} bytes, more than the {limit} allowed",
            digest=str(descriptor.digest),
            size=descriptor.size,
        )
