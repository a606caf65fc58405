"""Read a blob to its end although connections break: open it again where the last one stopped."""

from __future__ import annotations

import random
from typing import Self

from mr_core.errors import InternalError, UnavailableError
from mr_core.events import Cancel
from mr_core.manifest import Descriptor
from mr_core.retry import RetryPolicy
from mr_core.store import BlobStream, Source

_PROGRESS_BYTES = 1 << 20  # this much in one go means that the connection works, so earlier failures are forgiven


class ResumingStream:
    """A blob stream over as many connections as it takes; opened by the first read.

    The bytes are not verified. A source that cannot resume is read from its start again, and what was given already is
    skipped.

    Attributes:
        position: Where the next byte comes from in the blob.
        gave_up: Whether the source failed for good, so that it makes no sense to begin again.
    """

    __slots__ = (
        "_at",
        "_cancel",
        "_descriptor",
        "_failures",
        "_policy",
        "_since",
        "_source",
        "_stream",
        "gave_up",
        "offset",
        "position",
    )

    def __init__(
        self,
        source: Source,
        descriptor: Descriptor,
        *,
        offset: int = 0,
        policy: RetryPolicy | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self.offset = offset
        self.position = offset
        self.gave_up = False
        self._source = source
        self._descriptor = descriptor
        self._policy = policy or RetryPolicy()
        self._cancel = cancel or Cancel()
        self._stream: BlobStream | None = None
        self._at = 0
        self._failures = 0
        self._since = offset

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes.

        Raises:
            UnavailableError: when the source cannot be opened, or broke too often without progress.
        """
        while True:
            self._cancel.check()
            stream = self._open() if self._stream is None else self._stream
            skip = self.position - self._at
            try:
                chunk = stream.read(min(size, skip) if skip else size)
            except UnavailableError:
                self.close()
                self._failures += 1
                self._since = self.position
                if self._failures >= self._policy.attempts:
                    self.gave_up = True
                    raise
                self._cancel.sleep(self._policy.delay(self._failures, None, random.random()))  # noqa: S311 - jitter
                continue
            self._at += len(chunk)
            if skip and chunk:
                continue
            self.position += len(chunk)
            if self.position - self._since >= _PROGRESS_BYTES:
                self._failures = 0
            return chunk

    def close(self) -> None:
        """Close the current connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> BlobStream:
        try:
            stream = self._stream = self._source.open_blob(self._descriptor, self.position)
        except UnavailableError:  # the source has had its own retries
            self.gave_up = True
            raise
        if stream.offset > self.position:
            raise InternalError(f"Cannot resume blob {self._descriptor.digest}: the stream begins too late")
        self._at = stream.offset
        return stream
