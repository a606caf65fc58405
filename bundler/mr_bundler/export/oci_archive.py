"""Write an OCI archive: one uncompressed tar file that holds the layout of one bundle, as skopeo and podman read it.

The same bundle gives the same bytes wherever it is exported from. Order of the members: ``oci-layout`` and
``index.json``, so that a reader of a stream knows at once what comes, then every manifest before its config and its
layers, in the order in which the index lists them; papers last.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mr_bundler.export.archive_tar import END, directory_header, file_header, member_bytes, padding
from mr_bundler.image.image import reference_name
from mr_core.bundle_config import ANNOTATION_BACKEND
from mr_core.digest import Digest
from mr_core.durable import host_error, host_errors, make_directories, sync_directory
from mr_core.errors import HostError, NotFoundError, UsageError
from mr_core.events import BlobFinished, Cancel, Phase, Reporter, SafeReporter, Unit, discard
from mr_core.layout_index import EMPTY_INDEX, INDEX_FILE, LAYOUT_BYTES, LAYOUT_FILE, with_entry
from mr_core.manifest import REF_NAME, Descriptor, Index, parse_document
from mr_core.memory import MemoryStore
from mr_core.reader import VerifyingReader
from mr_core.referrer_index import fallback_name
from mr_core.resuming import ResumingStream
from mr_core.store import NO_ANNOTATIONS, Source
from mr_core.transfer import transfer

_PIECE = 1 << 20
_VERSION = "org.opencontainers.image.version"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written: ``path`` is empty for a stream, ``bytes`` is the size of the archive."""

    path: str
    name: str
    digest: Digest
    documents: int
    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A file of the archive: bytes at hand, or a blob of the source."""

    path: str
    size: int
    content: bytes | None = None
    blob: Descriptor | None = None


def export_archive(
    source: Source,
    name: str,
    path: Path | BinaryIO,
    *,
    targets: Sequence[str] | None = None,
    papers: bool = True,
    overwrite: bool = False,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> ExportResult:
    """Write what ``name`` means in ``source`` as an OCI archive, in constant memory.

    In the archive it is called ``<backend>-<version>``, as `mr-bundle build` calls it in a layout, or keeps its name
    when it is no bundle of this project.

    Args:
        source: Where it is.
        name: A name or digest there; empty for the only entry of a layout.
        path: A file, which appears complete or not at all, or an open stream.
        targets: Only these targets of an index.
        papers: Whether the papers of every bundle come along.
        overwrite: Whether an existing file may be replaced.
        report: Gets the phases ``inspect`` and ``export``.
        cancel: Stops at the next piece of data.

    Raises:
        UsageError: the file is there already.
        IntegrityError: bytes of the source differ from their digest.
        HostError: the file or the stream cannot be written.
    """
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    if isinstance(path, Path):  # before links are followed by name: those of /dev/stdout lead to no name
        with contextlib.suppress(OSError):
            _check_kind(path, path.stat().st_mode)
    place = _behind_links(path) if isinstance(path, Path) else path
    _check_place(place, overwrite=overwrite)
    with Phase(report, "inspect", source.describe()):
        plan, label = _Plan("archive"), archive_name(source, name)
        transfer(source, name, plan, label, targets=targets, papers=papers, cancel=cancel)
        top = plan.resolve(label)
        members = _members(plan, top, label)
    folders = [directory_header(folder) for folder in _folders(members)]
    total = sum(member_bytes(member.path, member.size) for member in members) + sum(map(len, folders)) + len(END)
    written = 0
    with Phase(report, "export", label, total=total, unit=Unit.BYTES) as phase, _output(place) as output:
        for piece in _pieces(source, members, folders, report, cancel):
            output.write(piece)
            written += len(piece)
            phase.progress(written)
        _check_place(place, overwrite=overwrite)
    return ExportResult(
        path=str(path) if isinstance(path, Path) else "",
        name=label,
        digest=top.digest,
        documents=sum(member.content is not None for member in members) - 2,
        blobs=sum(member.blob is not None for member in members),
        bytes=written,
    )


def archive_name(source: Source, name: str) -> str:
    """Return what `export_archive` will call the bundle.

    Raises:
        NotFoundError: there is nothing of that name.
    """
    top = source.resolve(name)
    document = parse_document(source.read_document(top), top.media_type)
    backend, version = (document.annotations.get(key, "") for key in (ANNOTATION_BACKEND, _VERSION))
    if backend and version:
        return reference_name(backend, version)
    plain = name.rpartition("@")[0] if "@" in name else name
    return top.annotations.get(REF_NAME, "") or (plain if ":" not in plain else "") or "bundle"


class _Plan(MemoryStore):
    """A store that keeps documents and takes every blob for present: a transfer to it finds all, and reads no blob."""

    def has_blob(self, descriptor: Descriptor) -> bool:  # noqa: ARG002 - the protocol's signature
        """Say yes."""
        return True


def _members(plan: _Plan, top: Descriptor, name: str) -> list[_Member]:
    """Return the files of the archive in order: everything behind ``name`` and behind lists of referrers, each once."""
    found: list[_Member] = []
    names = {name: top}
    seen: set[Digest] = set()

    def visit(entry: Descriptor) -> None:
        if entry.digest in seen:
            return
        seen.add(entry.digest)
        raw = plan.read_document(entry)
        found.append(_Member(path=_blob_path(entry.digest), size=len(raw), content=raw))
        with contextlib.suppress(NotFoundError):
            papers = fallback_name(entry.digest)
            names[papers] = plan.resolve(papers)
        document = parse_document(raw, entry.media_type)
        if isinstance(document, Index):
            for child in document.manifests:
                visit(child)
            return
        for blob in (document.config, *document.layers):
            if blob.digest not in seen:
                seen.add(blob.digest)
                found.append(_Member(path=_blob_path(blob.digest), size=blob.size, blob=blob))

    visited: set[str] = set()
    while waiting := sorted(names.keys() - visited):  # papers may have papers: a signature of an SBOM
        for waits in waiting:
            visit(names[waits])
            visited.add(waits)
    index = EMPTY_INDEX
    for label, entry in names.items():
        index = with_entry(index, entry, label, NO_ANNOTATIONS)
    files = {LAYOUT_FILE: LAYOUT_BYTES, INDEX_FILE: index}
    return [*(_Member(path=path, size=len(raw), content=raw) for path, raw in files.items()), *found]


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _folders(members: Sequence[_Member]) -> list[str]:
    return sorted({str(folder) for member in members for folder in PurePosixPath(member.path).parents} - {"."})


def _pieces(
    source: Source, members: Sequence[_Member], folders: Sequence[bytes], report: Reporter, cancel: Cancel
) -> Iterator[bytes]:
    """Yield the archive; every blob is compared with its digest on the way."""
    waiting = list(folders)
    for member in members:
        if "/" in member.path:
            yield from waiting
            waiting.clear()
        yield file_header(member.path, member.size)
        if member.blob is not None:
            yield from _blob_pieces(source, member.blob, report, cancel)
        else:
            yield member.content or b""
        yield padding(member.size)
    yield END


def _blob_pieces(source: Source, blob: Descriptor, report: Reporter, cancel: Cancel) -> Iterator[bytes]:
    with ResumingStream(source, blob, cancel=cancel) as stream:
        reader = VerifyingReader(stream, blob.digest, blob.size)
        while piece := reader.read(_PIECE):
            cancel.check()
            yield piece
        reader.finish()
    report(BlobFinished(digest=str(blob.digest), total=blob.size))


def _behind_links(path: Path) -> Path:
    """Return the file that will be replaced; a circle of links is returned as it is, and refused for what it is."""
    return Path(os.path.realpath(path))  # `Path.resolve` raises RuntimeError for a circle before Python 3.13


def _check_place(place: Path | BinaryIO, *, overwrite: bool) -> None:
    """Refuse to replace what is there, and always what is no regular file."""
    if not isinstance(place, Path):
        return
    with host_errors("look at", place):
        try:
            kind = place.lstat().st_mode
        except FileNotFoundError:
            return
    _check_kind(place, kind)
    if not overwrite:
        raise UsageError(
            f"Cannot write `{place}`: there is a file of this name", hint="choose another name, or say `--overwrite`"
        )


def _check_kind(place: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise HostError(
            f"Cannot write `{place}`: it is no regular file", hint="name a new file, or `-o -` for standard output"
        )


class _Output:
    """An open file or stream whose errors become ours."""

    def __init__(self, stream: BinaryIO, what: str) -> None:
        self._stream = stream
        self._what = what

    def write(self, piece: bytes) -> None:
        """Write all of ``piece``."""
        try:
            self._stream.write(piece)
        except OSError as error:
            raise host_error(f"Cannot write {self._what}", error) from error

    def flush(self) -> None:
        """Hand everything to the system."""
        try:
            self._stream.flush()
        except OSError as error:
            raise host_error(f"Cannot write {self._what}", error) from error


@contextlib.contextmanager
def _output(destination: Path | BinaryIO) -> Iterator[_Output]:
    """Yield what takes the archive: the stream, or a file beside its place that is renamed when the block ends well."""
    if not isinstance(destination, Path):
        stream = _Output(destination, "the archive to the stream")
        yield stream
        stream.flush()
        return
    make_directories(destination.parent)
    temporary = destination.with_name(f".{destination.name[:50]}.{secrets.token_hex(4)}.partial")
    with host_errors("write", destination):  # not by `tempfile`, whose files are private whatever the umask says
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(number, "wb") as file:
            output = _Output(file, f"`{destination}`")
            yield output
            output.flush()
            with host_errors("write", destination):
                os.fsync(file.fileno())
        with host_errors("write", destination):
            temporary.replace(destination)
            sync_directory(destination.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
