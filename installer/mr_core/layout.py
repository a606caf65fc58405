"""A store in a directory, in the image layout of the OCI image specification 1.1.

Every file becomes visible by one rename of synced bytes, so a reader never sees half a blob, and a crash leaves the
layout as it was. ``.ingest/`` holds blobs that are being written, ``.index.lock`` orders writers of ``index.json``;
other tools ignore both.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mr_core.blob_file import FileStream, find_blob
from mr_core.digest import Digest
from mr_core.durable import host_error, host_errors, make_directories, write_durably
from mr_core.errors import BundleError, InvalidInputError, NotFoundError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Outcome, Reporter, discard
from mr_core.flock import wait_lock
from mr_core.ingest import ingest, sweep
from mr_core.layout_index import (
    EMPTY_INDEX,
    INDEX_FILE,
    LAYOUT_BYTES,
    LAYOUT_FILE,
    bundle_entries,
    check_layout_file,
    find_entry,
    layout_entries,
    resolve_entry,
    with_entry,
    without_name,
)
from mr_core.manifest import MAX_MANIFEST_BYTES, MEDIA_INDEX, REF_NAME, Descriptor
from mr_core.reader import VerifyingReader, check_limit, read_verified
from mr_core.referrer_index import checked_referrers, fallback_name, parse_referrers, with_referrers
from mr_core.store import NO_ANNOTATIONS, SMALL_BLOB_BYTES, BlobFile, BlobStream, refuse_move

_CHUNK = 1 << 20
_OURS = frozenset({".index.lock", ".ingest", "blobs", INDEX_FILE})
_LOCK_SECONDS = 60.0


class LayoutStore:
    """An OCI layout directory; several processes and threads may read and write it at once."""

    def __init__(self, path: Path, *, create: bool = False, late: bool = False, cancel: Cancel | None = None) -> None:
        """Open the layout at ``path``.

        Args:
            path: The directory.
            create: Whether to make it when it does not exist or is empty.
            late: Whether to make it only when the first write comes; until then it is empty.
            cancel: Stops waiting for other writers.

        Raises:
            NotFoundError: when there is no layout.
            InvalidInputError: when the directory holds something else.
            HostError: when it cannot be read, or created.
        """
        self.path = path
        self._cancel = cancel
        self._thread_lock = threading.RLock()
        self._held = False
        self._swept = False
        self._absent = False
        if create and late:
            self._absent = self._may_create()
        elif create:
            self._create()
        if not self._absent:
            self._check()

    def _check(self) -> None:
        check_layout_file(self._read_file(LAYOUT_FILE, 4096), str(self.path))

    def describe(self) -> str:
        """Return ``oci:<path>``."""
        return f"oci:{self.path}"

    def names(self) -> tuple[Descriptor, ...]:
        """Return the entries of ``index.json``, without the lists of referrers."""
        return bundle_entries(self._entries())

    def resolve(self, name: str) -> Descriptor:
        """Return the entry called ``name``; the only entry when it is empty; a document by its digest."""
        return resolve_entry(self._entries(), name, str(self.path), read_loose=self._read_loose)

    def read_document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest or an index, verified."""
        return self._read(descriptor, "manifest", MAX_MANIFEST_BYTES)

    def read_blob(self, descriptor: Descriptor, *, limit: int = SMALL_BLOB_BYTES) -> bytes:
        """Return a small blob, verified."""
        return self._read(descriptor, "blob", limit)

    def read_referrers(
        self,
        subject: Digest,
        *,
        artifact_type: str = "",  # noqa: ARG002 - the protocol's signature
    ) -> tuple[Descriptor, ...]:
        """Return the artifacts that are listed under the fallback name of ``subject``."""
        raw = self._referrers(subject)
        return () if raw is None else parse_referrers(raw, f"{subject} in `{self.path}`")

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """Open a blob at ``offset``; the file has the announced size."""
        return FileStream(self.blob_file(descriptor), offset)

    def blob_file(self, descriptor: Descriptor) -> BlobFile:
        """Return where the blob lies; its size has been compared, its bytes have not."""
        return find_blob(self._blob_path(descriptor.digest), descriptor, where=self.describe())

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there with its size."""
        try:
            self.blob_file(descriptor)
        except BundleError:
            return False
        return True

    def put_blob(
        self,
        descriptor: Descriptor,
        source: BlobStream,
        *,
        mount_from: Sequence[str] = (),  # noqa: ARG002 - there are no repositories
        report: Reporter = discard,
        cancel: Cancel | None = None,
    ) -> Outcome:
        """Write a blob beside the others, then rename it into place."""
        digest = str(descriptor.digest)
        if self.has_blob(descriptor):
            report(BlobFinished(digest=digest, total=descriptor.size, outcome=Outcome.SKIPPED))
            return Outcome.SKIPPED
        reader = VerifyingReader(source, descriptor.digest, descriptor.size)
        with ingest(self._ingest_folder(), self._blob_path(descriptor.digest)) as file:
            while chunk := reader.read(_CHUNK):
                if cancel is not None:
                    cancel.check()
                file.write(chunk)
                report(BlobProgress(digest=digest, offset=reader.position, total=descriptor.size))
            reader.finish()
        report(BlobFinished(digest=digest, total=descriptor.size, sent=True))
        return Outcome.DONE

    def put_document(
        self,
        raw: bytes,
        media_type: str,
        *,
        name: str = "",
        overwrite: bool = False,
        annotations: Mapping[str, str] = NO_ANNOTATIONS,
    ) -> Descriptor:
        """Write a document as a blob, then its entry in ``index.json`` in one step; other entries are kept."""
        entry = Descriptor(media_type=media_type, digest=Digest.of(raw), size=len(raw), annotations=dict(annotations))
        check_limit(entry, what="manifest", limit=MAX_MANIFEST_BYTES)
        if not self._holds(entry, raw):
            with ingest(self._ingest_folder(), self._blob_path(entry.digest)) as file:
                file.write(raw)
        if name:
            with self.exclusive():
                index = self._read_file(INDEX_FILE, MAX_MANIFEST_BYTES)
                self._check_move(index, name, entry.digest, overwrite=overwrite)
                write_durably(self.path / INDEX_FILE, with_entry(index, entry, name, annotations))
        return entry

    def put_referrers(self, subject: Digest, documents: Sequence[bytes], *, replace: bool = False) -> None:
        """Write artifact manifests, then their list under the fallback name of ``subject``; other entries are kept."""
        new = checked_referrers(subject, documents)
        for referrer in new:
            self.put_document(referrer.raw, referrer.listed.media_type)
        listed = [referrer.listed for referrer in new]
        with self.exclusive():
            raw = self._referrers(subject)
            changed = with_referrers(raw, listed, replace=replace, where=f"{subject} in `{self.path}`")
            if changed != raw:
                self.put_document(changed, MEDIA_INDEX, name=fallback_name(subject), overwrite=True)

    def remove_name(self, name: str) -> bool:
        """Take ``name`` out of ``index.json``, and return whether it was there; blobs stay."""
        with self.exclusive():
            index = self._read_file(INDEX_FILE, MAX_MANIFEST_BYTES)
            entries = layout_entries(index, str(self.path))
            found = any(entry.annotations.get(REF_NAME) == name for entry in entries)
            if found:
                write_durably(self.path / INDEX_FILE, without_name(index, name))
            return found

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other writers away from ``index.json`` for a read-change-write; may be nested within a thread.

        Raises:
            HostError: when another process held the lock for a minute.
            CancelledError: when asked to stop while waiting for it.
        """
        with self._thread_lock:
            if self._held:
                yield
                return
            self._make()
            what = f"layout `{self.path}`"
            lock = self.path / ".index.lock"
            with wait_lock(lock, what=what, timeout=_LOCK_SECONDS, cancel=self._cancel):
                self._held = True
                try:
                    yield
                finally:
                    self._held = False

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _entries(self) -> tuple[Descriptor, ...]:
        return layout_entries(self._read_file(INDEX_FILE, MAX_MANIFEST_BYTES), str(self.path))

    def _referrers(self, subject: Digest) -> bytes | None:
        try:
            listed = find_entry(self._entries(), fallback_name(subject), str(self.path))
        except NotFoundError:
            return None
        return self.read_document(listed)

    def _make(self) -> None:
        """Create the layout now if that has waited."""
        with self._thread_lock:
            if self._absent:
                self._absent = False
                self._create()
                self._check()

    def _may_create(self) -> bool:
        """Whether there is no layout yet; raise when there can be none, and leave everything as it is."""
        with host_errors("read layout", self.path):
            if (self.path / LAYOUT_FILE).exists():
                return False
        with host_errors("create", self.path), contextlib.suppress(FileNotFoundError):
            self._refuse_strangers()
        return True

    def _refuse_strangers(self) -> None:
        strangers = sorted({place.name for place in self.path.iterdir()} - _OURS)
        if strangers:
            raise InvalidInputError(
                f"Cannot create layout `{self.path}`: the directory holds `{strangers[0]}`",
                hint="name an empty or a new directory",
            )

    def _create(self) -> None:
        with host_errors("read layout", self.path):
            if (self.path / LAYOUT_FILE).exists():
                return
        make_directories(self.path)
        with self.exclusive(), host_errors("create", self.path):
            if (self.path / LAYOUT_FILE).exists():
                return
            self._refuse_strangers()
            make_directories(self.path / "blobs" / "sha256")
            if not (self.path / INDEX_FILE).exists():
                write_durably(self.path / INDEX_FILE, EMPTY_INDEX)
            write_durably(self.path / LAYOUT_FILE, LAYOUT_BYTES)  # last: with it the directory is a layout

    def _read_file(self, name: str, limit: int) -> bytes:
        if self._absent and name == INDEX_FILE:
            return EMPTY_INDEX
        path = self.path / name
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"Cannot read layout `{self.path}`: it has no `{name}`",
                hint="name a directory that `mr-bundle build` or `skopeo copy … oci:DIR` wrote",
            ) from error
        except OSError as error:
            raise host_error(f"Cannot read layout `{self.path}`", error) from error
        with FileStream(BlobFile(path=path, size=min(size, limit + 1))) as stream:
            raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise InvalidInputError(f"Cannot read `{path}`: more than the {limit} bytes allowed")
        return raw

    def _read_loose(self, digest: Digest) -> bytes | None:
        try:
            size = self._blob_path(digest).stat().st_size
        except OSError:
            return None
        return self._read(Descriptor(media_type="", digest=digest, size=size), "manifest", MAX_MANIFEST_BYTES)

    def _holds(self, entry: Descriptor, raw: bytes) -> bool:
        try:
            return self.read_document(entry) == raw
        except BundleError:
            return False

    def _ingest_folder(self) -> Path:
        self._make()
        folder = self.path / ".ingest"
        if not self._swept:
            self._swept = True
            sweep(folder)
        return folder

    def _read(self, descriptor: Descriptor, what: str, limit: int) -> bytes:
        check_limit(descriptor, what=what, limit=limit)
        with self.open_blob(descriptor) as stream:
            return read_verified(stream, descriptor, what=what, limit=limit)

    def _check_move(self, index: bytes, name: str, digest: Digest, *, overwrite: bool) -> None:
        entries = layout_entries(index, str(self.path))
        if overwrite:
            return
        with contextlib.suppress(NotFoundError):
            present = find_entry(entries, name, str(self.path)).digest
            if present != digest:
                raise refuse_move(self.describe(), name, present, digest)

    def _blob_path(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex
