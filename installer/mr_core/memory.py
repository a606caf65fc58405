"""A store in memory: the same contract as the others, for tests and for hosts that embed the library."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from typing import Self

from mr_core.blob_file import no_blob
from mr_core.digest import Digest
from mr_core.errors import BundleError, NotFoundError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Outcome, Reporter, discard
from mr_core.manifest import MAX_MANIFEST_BYTES, MEDIA_INDEX, Descriptor
from mr_core.reader import VerifyingReader, check_limit, read_verified
from mr_core.referrer_index import checked_referrers, fallback_name, parse_referrers, with_referrers
from mr_core.store import NO_ANNOTATIONS, SMALL_BLOB_BYTES, BlobFile, BlobStream, refuse_move


class BytesStream:
    """Bytes as a blob stream."""

    __slots__ = ("_stream", "offset")

    def __init__(self, content: bytes, offset: int = 0) -> None:
        self.offset = min(offset, len(content))
        self._stream = io.BytesIO(content)
        self._stream.seek(self.offset)

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes."""
        return self._stream.read(size)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryStore:
    """Blobs, documents and names in dictionaries."""

    def __init__(self, label: str = "memory") -> None:
        self._label = label
        self._lock = threading.RLock()
        self._blobs: dict[Digest, bytes] = {}
        self._documents: dict[Digest, tuple[bytes, str]] = {}
        self._names: dict[str, Digest] = {}

    def describe(self) -> str:
        """Return the label the store was made with."""
        return self._label

    def resolve(self, name: str) -> Descriptor:
        """Return what a name or a digest points to."""
        digest = self._names.get(name)
        if digest is None:
            try:
                digest = Digest.parse(name)
            except BundleError:
                digest = None
        found = self._documents.get(digest) if digest is not None else None
        if digest is None or found is None:
            raise NotFoundError(f"Cannot find `{name}` in `{self._label}`: there is nothing of that name")
        raw, media_type = found
        return Descriptor(media_type=media_type, digest=digest, size=len(raw))

    def read_document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest or an index, verified."""
        check_limit(descriptor, what="manifest", limit=MAX_MANIFEST_BYTES)
        found = self._documents.get(descriptor.digest)
        if found is None:
            raise no_blob(self._label, descriptor)
        return read_verified(BytesStream(found[0]), descriptor, what="manifest", limit=MAX_MANIFEST_BYTES)

    def read_blob(self, descriptor: Descriptor, *, limit: int = SMALL_BLOB_BYTES) -> bytes:
        """Return a small blob, verified."""
        check_limit(descriptor, what="blob", limit=limit)
        with self.open_blob(descriptor) as stream:
            return read_verified(stream, descriptor, what="blob", limit=limit)

    def read_referrers(
        self,
        subject: Digest,
        *,
        artifact_type: str = "",  # noqa: ARG002 - the protocol's signature
    ) -> tuple[Descriptor, ...]:
        """Return the artifacts that are listed under the fallback name of ``subject``."""
        present = self._names.get(fallback_name(subject))
        return () if present is None else parse_referrers(self._documents[present][0], f"{subject}")

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """Open a blob at ``offset``."""
        content = self._blobs.get(descriptor.digest)
        if content is None:
            raise no_blob(self._label, descriptor)
        return BytesStream(content, offset)

    def blob_file(self, descriptor: Descriptor) -> BlobFile | None:  # noqa: ARG002 - the protocol's signature
        """Return `None`: the bytes are in no file."""
        return None

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there with its size."""
        content = self._blobs.get(descriptor.digest)
        return content is not None and len(content) == descriptor.size

    def put_blob(
        self,
        descriptor: Descriptor,
        source: BlobStream,
        *,
        mount_from: Sequence[str] = (),  # noqa: ARG002 - there are no repositories
        report: Reporter = discard,
        cancel: Cancel | None = None,
    ) -> Outcome:
        """Keep a blob's bytes."""
        digest = str(descriptor.digest)
        if self.has_blob(descriptor):
            report(BlobFinished(digest=digest, total=descriptor.size, outcome=Outcome.SKIPPED))
            return Outcome.SKIPPED
        reader = VerifyingReader(source, descriptor.digest, descriptor.size)
        chunks = []
        while chunk := reader.read(1 << 20):
            if cancel is not None:
                cancel.check()
            chunks.append(chunk)
            report(BlobProgress(digest=digest, offset=reader.position, total=descriptor.size))
        reader.finish()
        with self._lock:
            self._blobs[descriptor.digest] = b"".join(chunks)
        report(BlobFinished(digest=digest, total=descriptor.size, sent=True))
        return Outcome.DONE

    def put_document(
        self,
        raw: bytes,
        media_type: str,
        *,
        name: str = "",
        overwrite: bool = False,
        annotations: Mapping[str, str] = NO_ANNOTATIONS,  # noqa: ARG002 - the protocol's signature
    ) -> Descriptor:
        """Keep a document and, with a name, let it point there."""
        descriptor = Descriptor(media_type=media_type, digest=Digest.of(raw), size=len(raw))
        check_limit(descriptor, what="manifest", limit=MAX_MANIFEST_BYTES)
        with self._lock:
            present = self._names.get(name)
            if name and present not in {None, descriptor.digest} and not overwrite:
                assert present is not None  # noqa: S101 - narrows the type, the line above says it
                raise refuse_move(self._label, name, present, descriptor.digest)
            self._documents[descriptor.digest] = (raw, media_type)
            if name:
                self._names[name] = descriptor.digest
        return descriptor

    def put_referrers(self, subject: Digest, documents: Sequence[bytes], *, replace: bool = False) -> None:
        """Keep artifact manifests, and list them under the fallback name of ``subject``."""
        new = checked_referrers(subject, documents)
        for referrer in new:
            self.put_document(referrer.raw, referrer.listed.media_type)
        name = fallback_name(subject)
        with self._lock:
            present = self._names.get(name)
            raw = None if present is None else self._documents[present][0]
            changed = with_referrers(raw, [item.listed for item in new], replace=replace, where=f"{subject}")
            self.put_document(changed, MEDIA_INDEX, name=name, overwrite=True)

    def close(self) -> None:
        """Nothing is held open."""
