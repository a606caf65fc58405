"""What every content store can do: a `Source` is read from, a `Store` is written to as well.

Four things implement these protocols: a layout on disk, a layout in a tar file (reading only), a registry, and memory.
One suite of tests runs over all of them.

`Source.open_blob` is the only call that hands out bytes nobody has checked; whoever calls it reads them through a
`mr_core.reader.VerifyingReader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from mr_core.digest import Digest
from mr_core.errors import AccessDeniedError, NotFoundError
from mr_core.events import Cancel, Outcome, Reporter, discard
from mr_core.manifest import Descriptor

SMALL_BLOB_BYTES = 16 << 20
NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobFile:
    """Where the bytes of a blob lie on this disk: ``size`` bytes of ``path``, from ``offset`` on."""

    path: Path
    offset: int = 0
    size: int


class BlobStream(Protocol):
    """Bytes of a blob in order, from `offset` on; leaving the ``with`` block closes it."""

    @property
    def offset(self) -> int:
        """Where the stream begins in the blob; 0 when the other side could not resume."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, perhaps fewer; ``b""`` only at the end of the data.

        Raises:
            UnavailableError: when the connection broke or stalled; opening the blob again at the position reached
                continues it.
        """

    def close(self) -> None:
        """Give everything back; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Source(Protocol):
    """A store that can be read, safe to use from several threads."""

    def describe(self) -> str:
        """Return the store as a location without secrets, for messages and receipts."""

    def resolve(self, name: str) -> Descriptor:
        """Return what ``name`` (a tag, a layout's reference name, or a digest) points to now.

        Raises:
            NotFoundError: when there is nothing of that name.
        """

    def read_document(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a manifest or an index; size and digest have been verified.

        Raises:
            IntegrityError: when the bytes differ.
            InvalidInputError: when the descriptor announces more than 4 MiB.
            NotFoundError: when it is not there.
        """

    def read_blob(self, descriptor: Descriptor, *, limit: int = SMALL_BLOB_BYTES) -> bytes:
        """Return a small blob of at most ``limit`` bytes, such as a config; size and digest have been verified."""

    def read_referrers(self, subject: Digest, *, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Return the artifacts that refer to ``subject``, sorted by type and digest; none is no error.

        A registry may leave other types than ``artifact_type`` out; callers filter all the same.

        Raises:
            InvalidInputError: when their list cannot be read, or is longer than 256.
        """

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """Open a blob at ``offset``. Its bytes are **not** verified, and the stream may begin at 0 all the same."""

    def blob_file(self, descriptor: Descriptor) -> BlobFile | None:
        """Return where the blob lies on this disk, or `None` for a store that is elsewhere."""

    def close(self) -> None:
        """Close connections and files; a second call does nothing."""


class Store(Source, Protocol):
    """A source that can be written to."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether a blob of that digest and size is there."""

    def put_blob(
        self,
        descriptor: Descriptor,
        source: BlobStream,
        *,
        mount_from: Sequence[str] = (),
        report: Reporter = discard,
        cancel: Cancel | None = None,
    ) -> Outcome:
        """Store a blob in constant memory; `Outcome.SKIPPED` when it is there already.

        ``source`` must begin at offset 0; it is not read when the blob is skipped or mounted, and is left for the
        caller to close. ``mount_from`` names repositories of the same registry that may have the blob, so that it need
        not be sent (`Outcome.MOUNTED`); other stores than registries have no repositories.

        Raises:
            IntegrityError: when the bytes of ``source`` differ; nothing is stored then.
        """

    def put_document(
        self,
        raw: bytes,
        media_type: str,
        *,
        name: str = "",
        overwrite: bool = False,
        annotations: Mapping[str, str] = NO_ANNOTATIONS,
    ) -> Descriptor:
        """Store a manifest or an index whose blobs and manifests are there, and let ``name`` point to it.

        Without a ``name`` it can be reached by its digest only. ``annotations`` go beside the name in a layout;
        registries and memory have no place for them.

        Raises:
            AccessDeniedError: when ``name`` points to another digest and ``overwrite`` is false.
        """

    def put_referrers(self, subject: Digest, documents: Sequence[bytes], *, replace: bool = False) -> None:
        """Store artifact manifests whose blobs are there, and list them as referrers of ``subject``.

        What others listed meanwhile is kept. With ``replace``, entries of the same artifact types go.

        Raises:
            InvalidInputError: when a document has another subject, or the list becomes too long.
            UnavailableError: when other writers of the list keep getting in the way.
        """


def check_move(store: Store, name: str, digest: Digest) -> None:
    """Raise `AccessDeniedError` when ``name`` means something else than ``digest``; `Store.put_document` checks again.

    For asking before gigabytes are sent.
    """
    try:
        present = store.resolve(name).digest
    except NotFoundError:
        return
    if present != digest:
        raise refuse_move(store.describe(), name, present, digest)


def refuse_move(where: str, name: str, old: Digest, new: Digest) -> AccessDeniedError:
    """Return the error for a name that already points elsewhere: published names do not move on their own."""
    return AccessDeniedError(
        f"Cannot write `{name}` to `{where}`: it already names {old.algorithm}:{old.short}…, not {new.short}…",
        hint="choose another name, or say `--overwrite` to move this one",
        name=name,
        present=str(old),
        wanted=str(new),
    )
