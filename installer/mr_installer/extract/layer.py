"""Extract one layer: compressed digest, decompression, strict parsing, writing, digest of every file, diffID."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from mr_core.blob_file import FileStream
from mr_core.compression import open_decompressor
from mr_core.digest import CHUNK
from mr_core.errors import BundleError, IntegrityError
from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from mr_core.store import BlobFile
from mr_installer.extract.header import DIRECTORY, LINK
from mr_installer.extract.job import LayerJob, LayerResult
from mr_installer.extract.rules import Rule, refusal
from mr_installer.extract.tar_reader import TarReader
from mr_installer.extract.tree_writer import TreeWriter

_READ_BYTES = 128 << 10
_RATIO_FLOOR_BYTES = 64 << 20
"""A layer that stays below this may have any ratio: a few directories alone compress a hundredfold."""


def extract_layer(job: LayerJob, stage: int, tick: Callable[[int], None]) -> LayerResult:
    """Extract a layer below the directory open at descriptor ``stage``; links are returned, not created.

    Args:
        job: What to extract.
        stage: Descriptor of the stage directory.
        tick: Called about once a MiB with the bytes of files that were met so far; may raise to stop.

    Raises:
        IntegrityError: bytes differ from their digest, or the archive breaks a rule; files written so far stay.
        HostError: the blob cannot be read, or the tree cannot be written.
    """
    try:
        return _extract(job, stage, tick)
    except BundleError as error:
        error.fields.setdefault("layer", str(job.digest))
        raise


def _extract(job: LayerJob, stage: int, tick: Callable[[int], None]) -> LayerResult:
    if not job.verified:
        _verify(job, tick)
    stream = _Stream(job, tick)
    entries: list[Entry] = []
    directories: list[str] = []
    with closing(stream.chunks()) as chunks, TreeWriter(stage) as tree:
        reader = TarReader(chunks, root=job.strip, limits=job.limits)
        for member in reader.members():
            if member.kind == DIRECTORY:
                tree.make_directory(member.path)
                directories.append(member.path)
            elif member.kind == LINK:
                entries.append(LinkEntry(path=member.path, link=member.link))
            else:
                sha256 = tree.write_file(member.path, member.mode, reader.content())
                stream.done += member.size
                entries.append(FileEntry(path=member.path, mode=member.mode, size=member.size, sha256=sha256))
    stream.finish()
    return LayerResult(entries=tuple(entries), directories=frozenset(directories) - {""}, bytes=stream.done)


def _verify(job: LayerJob, tick: Callable[[int], None]) -> None:
    """Compare the blob with its digest, before anything parses it."""
    hasher = job.digest.hasher()
    for chunk in _blob_chunks(job.blob, CHUNK):
        hasher.update(chunk)
        tick(0)
    if hasher.hexdigest() != job.digest.hex:
        raise _differs(Rule.DIGEST, f"its bytes have the digest `{job.digest.algorithm}:{hasher.hexdigest()}`", job)


def _blob_chunks(blob: BlobFile, size: int) -> Iterator[bytes]:
    """Yield the bytes of a blob in chunks of at most ``size``; raise `IntegrityError` when its file ends early."""
    left = blob.size
    with FileStream(blob) as stream:
        while left:
            part = stream.read(size)
            if not part:
                raise IntegrityError(
                    f"Cannot read `{blob.path}`: it ends {left} bytes early",
                    hint="fetch it again",
                    rule=str(Rule.BLOB_SIZE),
                )
            left -= len(part)
            yield part


class _Stream:
    """The uncompressed stream of a layer, digested and bounded while it passes."""

    def __init__(self, job: LayerJob, tick: Callable[[int], None]) -> None:
        self._job = job
        self._tick = tick
        self._hasher = job.diff_id.hasher()
        self._most = max(_RATIO_FLOOR_BYTES, job.limits.ratio * job.blob.size)
        self.done = 0

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield the stream in chunks of at most a MiB; ends only after the compressed stream ended properly."""
        decoder = open_decompressor(self._job.compression)
        total = 0
        for part in _blob_chunks(self._job.blob, _READ_BYTES):
            for chunk in decoder.feed(part):
                self._hasher.update(chunk)
                total += len(chunk)
                if total > self._most:
                    reason = f"its stream is more than {self._job.limits.ratio} times as long as its blob"
                    raise refusal(Rule.RATIO, reason, offset=total)
                self._tick(self.done)
                yield chunk
        decoder.finish()

    def finish(self) -> None:
        """Compare the digest of the whole stream with the diffID."""
        self._tick(self.done)
        if self._hasher.hexdigest() != self._job.diff_id.hex:
            found = f"{self._job.diff_id.algorithm}:{self._hasher.hexdigest()}"
            raise _differs(Rule.DIFF_ID, f"its uncompressed bytes have the digest `{found}`", self._job)


def _differs(rule: Rule, reason: str, job: LayerJob) -> IntegrityError:
    wanted = job.diff_id if rule is Rule.DIFF_ID else job.digest
    return IntegrityError(
        f"Cannot extract layer `{job.digest}`: {reason}, not `{wanted}`",
        hint="fetch it again; if that fails too, tell its publisher",
        rule=str(rule),
        member="",
        offset=None,
    )
