"""The download store: partial and complete blobs below ``<root>/.mr/blobs``, shared by all backends and processes.

``sha256/<hex>.part`` grows while its downloader holds an exclusive lock on it; a complete blob is renamed to
``sha256/<hex>``, and its users hold a shared lock, so that nobody drops it under them. A blob found here is never
trusted: whoever reads it next verifies its digest again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mr_core.digest import CHUNK, Hasher
from mr_core.durable import host_errors, make_directories, write_all
from mr_core.errors import BundleError, IntegrityError, UnavailableError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Outcome, Reporter
from mr_core.flock import FileLock, try_lock, wait_lock
from mr_core.manifest import Descriptor
from mr_core.resuming import ResumingStream
from mr_core.retry import RetryPolicy
from mr_core.store import BlobFile, Source


@dataclass(slots=True, kw_only=True)
class HeldBlob:
    """A complete blob that stays until it is dropped or released.

    ``verified`` tells whether this process saw all its bytes match the digest.
    """

    blob: BlobFile
    verified: bool
    outcome: Outcome
    _lock: FileLock

    def release(self) -> None:
        """Stop using the blob, and leave it for a later run."""
        self._lock.release()

    def drop(self) -> None:
        """Stop using the blob and remove it, unless somebody else uses it."""
        self._lock.release()
        with contextlib.suppress(FileNotFoundError, BundleError):  # a blob that stays costs space, not correctness
            lock = try_lock(self.blob.path, create=False)
            if lock is not None:
                with lock, contextlib.suppress(OSError):
                    self.blob.path.unlink()


class BlobStore:
    """Fetches blobs into a directory, continuing what an earlier run began."""

    def __init__(self, directory: Path, *, retry: RetryPolicy | None = None) -> None:
        self._directory = directory
        self._retry = retry or RetryPolicy()

    def _path(self, descriptor: Descriptor) -> Path:
        return self._directory / descriptor.digest.algorithm / descriptor.digest.hex

    def missing_bytes(self, descriptor: Descriptor) -> int:
        """Return how many bytes of the blob are still to be fetched."""
        path = self._path(descriptor)
        for place in (path, path.with_name(f"{path.name}.part")):
            with contextlib.suppress(OSError):
                return max(0, descriptor.size - place.stat().st_size)
        return descriptor.size

    def fetch(
        self, source: Source, descriptor: Descriptor, *, label: str, report: Reporter, cancel: Cancel
    ) -> HeldBlob:
        """Return the blob, complete; its bytes are fetched from ``source`` where they are not here.

        Raises:
            IntegrityError: the source served other bytes, twice.
            UnavailableError: the source stopped answering.
            HostError: this machine cannot store it.
        """
        path = self._path(descriptor)
        part = path.with_name(f"{path.name}.part")
        make_directories(path.parent)
        while True:
            outcome, verified = Outcome.SKIPPED, False
            with wait_lock(part, what=f"download `{descriptor.digest.short}`", cancel=cancel):
                if _size(path) == descriptor.size:
                    with host_errors("remove", part):
                        part.unlink()
                else:
                    download = _Download(
                        source, descriptor, part, label=label, retry=self._retry, report=report, cancel=cancel
                    )
                    with host_errors("write", part):
                        outcome, verified = download.run(), True
                        part.replace(path)
            with contextlib.suppress(FileNotFoundError):
                lock = try_lock(path, shared=True, create=False)
                if lock is not None:
                    break
        report(BlobFinished(digest=str(descriptor.digest), total=descriptor.size, outcome=outcome, label=label))
        blob = BlobFile(path=path, offset=0, size=descriptor.size)
        return HeldBlob(blob=blob, verified=verified, outcome=outcome, _lock=lock)


class _Download:
    """One blob on its way into its ``.part`` file; the caller holds the lock on that file."""

    def __init__(
        self,
        source: Source,
        descriptor: Descriptor,
        part: Path,
        *,
        label: str,
        retry: RetryPolicy,
        report: Reporter,
        cancel: Cancel,
    ) -> None:
        self._retry = retry
        self._source = source
        self._descriptor = descriptor
        self._part = part
        self._label = label
        self._report = report
        self._cancel = cancel

    def run(self) -> Outcome:
        """Fetch what is missing; a wrong digest is answered by one fetch from the start."""
        descriptor = os.open(self._part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for _ in range(2):
                resumed = self._fill(descriptor)
                if self._hasher.hexdigest() == self._descriptor.digest.hex:
                    return Outcome.RESUMED if resumed else Outcome.DONE
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)
        raise IntegrityError(
            f"Cannot fetch `{self._descriptor.digest}`: {self._source.describe()} serves other bytes",
            hint="tell its publisher; nothing was installed",
            digest=str(self._descriptor.digest),
        )

    def _fill(self, part: int) -> bool:
        """Append to the file until it has the blob's size; return whether an earlier run's bytes were used."""
        begin = self._take_prefix(part)
        if begin == self._descriptor.size:  # never ask for a range at the end: registries answer it wrongly
            return begin > 0
        with ResumingStream(
            self._source, self._descriptor, offset=begin, policy=self._retry, cancel=self._cancel
        ) as stream:
            while stream.position < self._descriptor.size:
                chunk = stream.read(min(CHUNK, self._descriptor.size - stream.position))
                if not chunk:
                    raise UnavailableError(
                        f"Cannot fetch `{self._descriptor.digest}`: {self._source.describe()} ends it after"
                        f" {stream.position} of {self._descriptor.size} bytes",
                        hint="run the same command again: it goes on where it stopped",
                    )
                write_all(part, chunk)
                self._hasher.update(chunk)
                self._report(
                    BlobProgress(
                        digest=str(self._descriptor.digest),
                        offset=stream.position,
                        total=self._descriptor.size,
                        label=self._label,
                    )
                )
        return begin > 0

    def _take_prefix(self, part: int) -> int:
        """Digest what the file holds already, and leave the position behind it."""
        self._hasher: Hasher = hashlib.new(self._descriptor.digest.algorithm)
        if os.fstat(part).st_size > self._descriptor.size:
            os.ftruncate(part, 0)
        os.lseek(part, 0, os.SEEK_SET)
        while chunk := os.read(part, CHUNK):
            self._cancel.check()
            self._hasher.update(chunk)
        return os.lseek(part, 0, os.SEEK_CUR)


def _size(path: Path) -> int | None:
    """Return the size of a regular file, `None` when there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
