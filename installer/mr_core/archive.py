"""A layout inside an uncompressed tar file, read in place: members are found by offset and never extracted."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from mr_core.blob_file import FileStream, check_size, no_blob
from mr_core.digest import Digest
from mr_core.durable import host_error
from mr_core.errors import IntegrityError, InvalidInputError, NotFoundError
from mr_core.layout_index import (
    INDEX_FILE,
    LAYOUT_FILE,
    bundle_entries,
    check_layout_file,
    find_entry,
    layout_entries,
    resolve_entry,
)
from mr_core.manifest import MAX_MANIFEST_BYTES, Descriptor
from mr_core.reader import check_limit, read_verified
from mr_core.referrer_index import fallback_name, parse_referrers
from mr_core.store import SMALL_BLOB_BYTES, BlobFile, BlobStream

_MAX_MEMBERS = 20_000
_MAX_HEADER_BYTES = 64 << 10
_MAX_HEADERS_BYTES = 1 << 20
_MAX_GLOBAL_FIELDS = 100
_MAKE = "name a file that `mr-bundle export` or `skopeo copy … oci-archive:FILE` wrote"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"BZ": "bzip2", b"\xfd7": "xz"}


class ArchiveSource:
    """An ``oci-archive`` file as skopeo, podman, buildkit or ``mr-bundle export`` write it."""

    def __init__(self, path: Path) -> None:
        """Read the member table of ``path``.

        Raises:
            NotFoundError: when there is no such file.
            InvalidInputError: when it is not a tar file, is compressed, or names a member twice.
            IntegrityError: when the tar file is damaged or cut off.
            HostError: when it cannot be read.
        """
        self.path = path
        self._members = _members(path)
        check_layout_file(self._read_file(LAYOUT_FILE, 4096), str(path))
        self._entries = layout_entries(self._read_file(INDEX_FILE, MAX_MANIFEST_BYTES), str(path))

    def describe(self) -> str:
        """Return ``oci-archive:<path>``."""
        return f"oci-archive:{self.path}"

    def names(self) -> tuple[Descriptor, ...]:
        """Return the entries of ``index.json``, without the lists of referrers."""
        return bundle_entries(self._entries)

    def resolve(self, name: str) -> Descriptor:
        """Return the entry called ``name``; the only entry when it is empty; a document by its digest."""
        return resolve_entry(self._entries, name, str(self.path), read_loose=self._read_loose)

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
        try:
            entry = find_entry(self._entries, fallback_name(subject), str(self.path))
        except NotFoundError:
            return ()
        return parse_referrers(self.read_document(entry), f"{subject} in `{self.path}`")

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """Open a blob at ``offset``; the member has the announced size."""
        return FileStream(self.blob_file(descriptor), offset)

    def blob_file(self, descriptor: Descriptor) -> BlobFile:
        """Return the part of the tar file that is the blob; its size has been compared, its bytes have not."""
        member = self._members.get(_blob_name(descriptor.digest))
        if member is None:
            raise no_blob(self.describe(), descriptor)
        return check_size(member, descriptor, where=self.describe())

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _read_file(self, name: str, limit: int) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise InvalidInputError(
                f"Cannot read archive `{self.path}`: it has no `{name}`, so it holds no OCI layout",
                hint=_MAKE,
            )
        if member.size > limit:
            raise InvalidInputError(
                f"Cannot read `{name}` of `{self.path}`: {member.size} bytes, more than the {limit} allowed"
            )
        with FileStream(member) as stream:
            return stream.read(member.size)

    def _read_loose(self, digest: Digest) -> bytes | None:
        member = self._members.get(_blob_name(digest))
        if member is None:
            return None
        return self._read(Descriptor(media_type="", digest=digest, size=member.size), "manifest", MAX_MANIFEST_BYTES)

    def _read(self, descriptor: Descriptor, what: str, limit: int) -> bytes:
        check_limit(descriptor, what=what, limit=limit)
        with self.open_blob(descriptor) as stream:
            return read_verified(stream, descriptor, what=what, limit=limit)


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


class _HeaderFile:
    """A file that `tarfile` may read headers from, but nothing large: a hostile header cannot fill the memory.

    At most 64 KiB at once, and 1 MiB for all the headers of one member: maps of sparse files and chains of extended
    headers grow with every read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _MAX_HEADERS_BYTES
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= min(_MAX_HEADER_BYTES, self._left):
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._left -= size
        return self._file.read(size)

    def next_member(self) -> None:
        """Allow the headers of another member."""
        self._left = _MAX_HEADERS_BYTES


def _members(path: Path) -> dict[str, BlobFile]:
    """Return the regular files of a tar file by name; directories and everything else are left out."""
    found: dict[str, BlobFile] = {}
    try:
        with path.open("rb") as file:
            _refuse_compressed(path, file.read(512))
            end = file.seek(0, 2)
            file.seek(0)
            for member in _headers(path, file):
                name = member.name.removeprefix("./")
                if member.issparse() or not member.isreg():
                    continue
                if name in found:
                    raise InvalidInputError(f"Cannot read archive `{path}`: it names `{name[:200]}` twice")
                if member.offset_data + member.size > end:
                    raise _cut(path, f"`{name[:200]}` reaches beyond its end")
                found[name] = BlobFile(path=path, offset=member.offset_data, size=member.size)
    except FileNotFoundError as error:
        raise NotFoundError(f"Cannot read archive `{path}`: there is no such file", hint=_MAKE) from error
    except tarfile.TarError as error:
        if found or "unexpected end" in str(error):
            raise _cut(path, str(error)) from error
        raise InvalidInputError(
            f"Cannot read archive `{path}`: it is not a tar file ({error})",
            hint=_MAKE,
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _cut(path, "a header points before its start") from error
        raise host_error(f"Cannot read archive `{path}`", error) from error
    except (ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        # `tarfile` parses the fields of extended headers without minding what they hold.
        raise _cut(path, f"a header cannot be read: {type(error).__name__}") from error
    return found


def _headers(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar file one by one, and keep none."""
    headers = _HeaderFile(file)
    # The cast: it has all that `tarfile` uses for reading headers.
    with tarfile.open(fileobj=cast("BinaryIO", headers), mode="r:") as tar:
        count = 0
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # unknown to typeshed; it would keep every header
            headers.next_member()
            count += 1
            if count > _MAX_MEMBERS or len(tar.pax_headers) > _MAX_GLOBAL_FIELDS:
                most = f"{_MAX_MEMBERS} members, or {_MAX_GLOBAL_FIELDS} global header fields"
                raise InvalidInputError(f"Cannot read archive `{path}`: more than {most}")
            yield member


def _refuse_compressed(path: Path, start: bytes) -> None:
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic) and start[257:262] != b"ustar":
            raise InvalidInputError(
                f"Cannot read archive `{path}`: it is compressed with {kind}",
                hint="decompress it first; the layers inside are compressed already",
            )


def _cut(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        f"Cannot read archive `{path}`: it is damaged or cut off ({reason})", hint="copy or download the file again"
    )
