"""A repository in a registry, as a store; the protocol is the OCI distribution specification 1.1.

A tag is resolved once, everything after that goes by digest. What a server's headers claim is compared, never trusted:
identity comes from the bytes. Moving a tag cannot be made atomic, the protocol has no compare-and-swap; two pushes of
different bundles to one new tag at the same moment both succeed, and the later one wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from mr_core.digest import Digest
from mr_core.errors import IntegrityError, NotFoundError, UnavailableError
from mr_core.events import BlobFinished, Cancel, Outcome, Reporter, discard
from mr_core.manifest import ACCEPT, MAX_MANIFEST_BYTES, Descriptor, parse_document
from mr_core.memory import BytesStream
from mr_core.reader import check_limit, read_verified
from mr_core.reference import Reference
from mr_core.referrer_index import checked_referrers
from mr_core.registry_headers import is_exact_range, stated_document
from mr_core.registry_options import RegistryOptions
from mr_core.registry_referrers import RegistryReferrers
from mr_core.registry_session import RegistrySession, RemoteStream, read_small
from mr_core.registry_upload import BlobUpload
from mr_core.retry import TransientFailure, call_with_retries
from mr_core.store import NO_ANNOTATIONS, SMALL_BLOB_BYTES, BlobFile, BlobStream, refuse_move

if TYPE_CHECKING:
    import requests

_OK = frozenset({200})
_FOUND_OR_NOT = frozenset({200, 404})
_ACCEPT = {"Accept": ", ".join(ACCEPT)}


class RegistryStore:
    """One repository of a registry; safe to use from several threads, which share pooled connections."""

    def __init__(
        self, reference: Reference, *, options: RegistryOptions | None = None, cancel: Cancel | None = None
    ) -> None:
        self.reference = reference
        self._where = f"{reference.registry}/{reference.repository}"
        self._session = RegistrySession(
            reference.registry, reference.repository, options=options or RegistryOptions(), cancel=cancel
        )
        self._path = f"/v2/{quote(reference.repository)}"
        self._referrers = RegistryReferrers(self._session, self._path, self._where, self)

    def describe(self) -> str:
        """Return ``docker://<registry>/<repository>``."""
        return f"docker://{self._where}"

    def resolve(self, name: str) -> Descriptor:
        """Return what a tag or a digest points to.

        That takes one HEAD (which Docker Hub does not count as a pull), and a GET when its answer says too little.
        """
        what = f"use `{self._named(name)}`"  # whatever fails but a 404: nobody knows whether it is there
        response = self._session.request(
            "HEAD", f"{self._path}/manifests/{name}", what=what, accept=frozenset({200, 404, 405}), headers=_ACCEPT
        )
        with response:
            read_small(response)
            if response.status_code == 404:
                raise NotFoundError(
                    f"Cannot find `{self._named(name)}`: the registry does not have it",
                    hint="check repository and tag; `skopeo list-tags` shows the tags there are",
                    reference=self._named(name),
                )
            found = stated_document(response.headers) if response.status_code == 200 else None
        if found is None:
            found = self._fetch_unknown(name, what)
        if ":" in name and str(found.digest) != name:
            raise IntegrityError(f"Cannot accept `{self._named(name)}`: the registry calls it {found.digest}")
        return found

    def read_document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest or an index, verified; wrong bytes are fetched a second time before giving up."""
        url = f"{self._path}/manifests/{descriptor.digest}"
        accept = _ACCEPT if descriptor.media_type in ACCEPT else {"Accept": descriptor.media_type}
        return self._read(url, descriptor, "manifest", MAX_MANIFEST_BYTES, accept)

    def read_blob(self, descriptor: Descriptor, *, limit: int = SMALL_BLOB_BYTES) -> bytes:
        """Return a small blob, verified; wrong bytes are fetched a second time before giving up."""
        return self._read(self._blob_url(descriptor), descriptor, "blob", limit, {})

    def read_referrers(self, subject: Digest, *, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Return what refers to ``subject``: from the referrers API, or the fallback tag of a registry without one."""
        return self._referrers.read(subject, artifact_type=artifact_type)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """Open a blob at ``offset``; the stream begins at 0 when the registry cannot resume exactly there."""
        if offset >= descriptor.size:
            return _AtEnd(descriptor.size)
        what = f"download blob {descriptor.digest}"
        url = self._blob_url(descriptor)
        if offset > 0:
            # A server that knows no ranges answers 200; 416 or an inexact 206 means: ask for everything.
            accept = frozenset({200, 206, 416})
            response = self._session.request(
                "GET", url, what=what, accept=accept, headers={"Range": f"bytes={offset}-"}
            )
            if response.status_code == 206 and is_exact_range(response.headers, offset, descriptor.size):
                return self._stream(response, what, offset)
            if response.status_code == 200:
                return self._whole(response, what, descriptor)
            response.close()
        return self._whole(self._session.request("GET", url, what=what, accept=_OK), what, descriptor)

    def blob_file(self, descriptor: Descriptor) -> BlobFile | None:  # noqa: ARG002 - the protocol's signature
        """Return `None`: the bytes are elsewhere."""
        return None

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob with its size."""
        what = f"look for blob {descriptor.digest}"
        with self._session.request("HEAD", self._blob_url(descriptor), what=what, accept=_FOUND_OR_NOT) as response:
            read_small(response)
            stated = response.headers.get("Content-Length", str(descriptor.size))
            return response.status_code == 200 and stated == str(descriptor.size)

    def put_blob(
        self,
        descriptor: Descriptor,
        source: BlobStream,
        *,
        mount_from: Sequence[str] = (),
        report: Reporter = discard,
        cancel: Cancel | None = None,
    ) -> Outcome:
        """Mount or upload a blob.

        Raises:
            UnavailableError: also for a broken upload; call again with the source at its start.
        """
        if self.has_blob(descriptor):
            report(BlobFinished(digest=str(descriptor.digest), total=descriptor.size, outcome=Outcome.SKIPPED))
            return Outcome.SKIPPED
        upload = BlobUpload(self._session, self.reference.repository, descriptor, source, report=report, cancel=cancel)
        return upload.run(mount_from)

    def put_document(
        self,
        raw: bytes,
        media_type: str,
        *,
        name: str = "",
        overwrite: bool = False,
        annotations: Mapping[str, str] = NO_ANNOTATIONS,  # noqa: ARG002 - a registry has no place for them
    ) -> Descriptor:
        """Upload a document by its digest, read it back, and only then let the tag ``name`` point to it."""
        descriptor = Descriptor(media_type=media_type, digest=Digest.of(raw), size=len(raw))
        check_limit(descriptor, what="manifest", limit=MAX_MANIFEST_BYTES)
        if name and not overwrite:
            present = self._present(name)
            if present is not None and present != descriptor.digest:
                raise refuse_move(self.describe(), name, present, descriptor.digest)
        self.write_manifest(str(descriptor.digest), raw, media_type)
        self.read_document(descriptor)
        if name and name != str(descriptor.digest):
            self.write_manifest(name, raw, media_type)
        return descriptor

    def put_referrers(self, subject: Digest, documents: Sequence[bytes], *, replace: bool = False) -> None:
        """Upload artifact manifests; a registry without the referrers API gets their list under the fallback tag."""
        self._referrers.write(subject, checked_referrers(subject, documents), replace=replace)

    def write_manifest(self, name: str, raw: bytes, media_type: str) -> str:
        """Write a manifest under a tag, whatever that named before, or under its digest.

        Returns:
            The subject that the registry has recorded, empty from a registry without the referrers API.
        """
        with self._session.request(
            "PUT",
            f"{self._path}/manifests/{name}",
            what=f"write `{self._named(name)}`",
            accept=frozenset({201}),
            headers={"Content-Type": media_type},
            body=raw,
        ) as response:
            read_small(response)
            return response.headers.get("OCI-Subject", "")

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _named(self, name: str) -> str:
        return f"{self._where}@{name}" if ":" in name else f"{self._where}:{name}"

    def _blob_url(self, descriptor: Descriptor) -> str:
        return f"{self._path}/blobs/{descriptor.digest}"

    def _present(self, name: str) -> Digest | None:
        try:
            return self.resolve(name).digest
        except NotFoundError:
            return None

    def _read(self, url: str, descriptor: Descriptor, what: str, limit: int, headers: Mapping[str, str]) -> bytes:
        check_limit(descriptor, what=what, limit=limit)

        verb = f"read {what} {descriptor.digest}"

        def fetch(more: Mapping[str, str] = NO_ANNOTATIONS) -> bytes:
            response = self._session.request("GET", url, what=verb, accept=_OK, headers={**headers, **more})
            try:
                with self._stream(response, verb, 0) as stream:
                    return read_verified(stream, descriptor, what=what, limit=limit)
            except UnavailableError as error:  # in the body; the request itself has had its own retries
                raise TransientFailure(error) from error

        def attempt() -> bytes:
            try:
                return fetch()
            except IntegrityError:  # perhaps a cache on the way: once more, from the origin
                return fetch({"Cache-Control": "no-cache"})

        return call_with_retries(attempt, self._session.options.retry, self._session.cancel)

    def _fetch_unknown(self, name: str, what: str) -> Descriptor:
        """Return the descriptor of a document that HEAD said too little about, from its bytes."""
        with self._session.request(
            "GET", f"{self._path}/manifests/{name}", what=what, accept=_OK, headers=_ACCEPT
        ) as response:
            stream = self._stream(response, what, 0)
            raw = b""
            while len(raw) <= MAX_MANIFEST_BYTES and (chunk := stream.read(MAX_MANIFEST_BYTES + 1 - len(raw))):
                raw += chunk
        digest = Digest.parse(name) if ":" in name else Digest.of(raw)
        found = read_verified(
            BytesStream(raw),
            Descriptor(media_type="", digest=digest, size=len(raw)),
            what="manifest",
            limit=MAX_MANIFEST_BYTES,
        )
        return Descriptor(media_type=parse_document(found).media_type, digest=digest, size=len(found))

    def _whole(self, response: requests.Response, what: str, descriptor: Descriptor) -> BlobStream:
        stated = response.headers.get("Content-Length", str(descriptor.size))
        if stated != str(descriptor.size):
            response.close()
            raise IntegrityError(
                f"Cannot {what}: `{self._where}` announces {stated[:20]} bytes, its manifest {descriptor.size}",
                digest=str(descriptor.digest),
                size=descriptor.size,
            )
        return self._stream(response, what, 0)

    def _stream(self, response: requests.Response, what: str, offset: int) -> RemoteStream:
        host = self.reference.registry
        return RemoteStream(response, what=what, host=host, offset=offset, cancel=self._session.cancel)


class _AtEnd(BytesStream):
    """The end of a blob: the reference registry answers a range at the full size with a broken 416."""

    __slots__ = ()

    def __init__(self, size: int) -> None:
        super().__init__(b"")
        self.offset = size
