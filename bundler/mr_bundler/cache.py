"""What earlier builds made, found again by what it was made from; a damaged entry is as good as none.

Below the cache directory: ``parts/<key>``, ``layers/<key>`` and ``builds/<key>`` are records (the sha256 of the rest,
a newline, JSON), ``blobs/sha256/<hex>`` are compressed layers. Nothing is synced: after a power loss the digests tell
what is left. What is used is touched, so that its time tells what is not (`mr_bundler.cache_usage`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mr_core.decode import dump_json, parse_json
from mr_core.digest import Digest
from mr_core.durable import host_errors, make_directories
from mr_core.errors import BundleError
from mr_core.events import Cancel, Reporter, discard
from mr_core.file_manifest import FileEntry
from mr_core.flock import wait_lock

LOCK = ".lock"
"""Held shared by builds, exclusively by whoever prunes."""
_FORMAT = 2
_MOST_RECORD_BYTES = 256 << 20


def default_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``$MR_CACHE``, else ``mr-bundle`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := environ.get("MR_CACHE"):
        return Path(named)
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "mr-bundle"


def true_place(directory: Path) -> Path:
    """Return the one absolute path of a directory that may not exist yet, without ``..`` and links.

    A Python that is started through a path with ``..`` reports another prefix than that path.
    """
    return Path(os.path.realpath(directory))  # `Path.resolve` raises for a loop of links, which the next step reports


def touch_entry(place: Path) -> None:
    """Note that something in the cache was used."""
    with contextlib.suppress(OSError):  # a cache that may only be read is used all the same
        os.utime(place)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLayer:
    """A packed layer.

    Attributes:
        digest: Of the compressed blob.
        size: Of the compressed blob, in bytes.
        diff_id: Digest of the tar.
        bytes: Of the tar.
        bytecode: Files in it that were compiled, sorted by path.
    """

    digest: Digest
    size: int
    diff_id: Digest
    bytes: int
    bytecode: tuple[FileEntry, ...]


class BuildCache:
    """The cache in one directory; several builds may use it at once, for every file appears by one rename."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextlib.contextmanager
    def in_use(self, *, report: Reporter = discard, cancel: Cancel | None = None) -> Iterator[None]:
        """Keep the cache from being pruned; waits while it is."""
        make_directories(self._directory)
        lock = wait_lock(self._directory / LOCK, what="the cache", shared=True, report=report, cancel=cancel)
        with lock:
            yield

    def touch_blob(self, digest: Digest) -> None:
        """Note that a blob was used."""
        touch_entry(self.blob_path(digest))

    def blob_path(self, digest: Digest) -> Path:
        """Return where the blob lies or would lie."""
        return self._directory / "blobs" / digest.algorithm / digest.hex

    def load_layer(self, key: str) -> CachedLayer | None:
        """Return the layer made from ``key`` after reading its blob whole, or None."""
        record = self.load_record("layers", key)
        if record is None:
            return None
        try:
            layer = CachedLayer(
                digest=Digest.parse(record["digest"]),
                size=record["size"],
                diff_id=Digest.parse(record["diff_id"]),
                bytes=record["bytes"],
                bytecode=tuple(
                    FileEntry(path=path, mode=0o644, size=size, sha256=sha256)
                    for path, size, sha256 in record["bytecode"]
                ),
            )
            with self.blob_path(layer.digest).open("rb") as blob:
                intact = Digest.of_file(blob) == layer.digest and blob.tell() == layer.size
        except (OSError, KeyError, TypeError, ValueError, BundleError):
            return None
        if intact:
            self.touch_blob(layer.digest)
        return layer if intact else None

    def save_layer(self, key: str, layer: CachedLayer, blob: Path) -> None:
        """Keep a packed layer; ``blob`` lies on the same filesystem and is moved."""
        target = self.blob_path(layer.digest)
        make_directories(target.parent)
        with host_errors("write", target):
            blob.replace(target)
        record = {
            "digest": str(layer.digest),
            "size": layer.size,
            "diff_id": str(layer.diff_id),
            "bytes": layer.bytes,
            "bytecode": [[entry.path, entry.size, entry.sha256] for entry in layer.bytecode],
        }
        self.save_record("layers", key, record)

    def load_record(self, kind: str, key: str, *, touch: bool = True) -> dict[str, Any] | None:
        """Return a record, or None when it is absent or damaged; ``touch`` says whether that counts as use."""
        place = self._directory / kind / key
        try:
            raw = place.read_bytes()
        except OSError:
            return None
        if touch:
            touch_entry(place)
        digest, _, content = raw.partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            return None
        with contextlib.suppress(BundleError):
            value = parse_json(content, "cache record", limit=_MOST_RECORD_BYTES)
            if isinstance(value, dict) and value.get("format") == _FORMAT:
                return value
        return None

    def save_record(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep a record."""
        content = dump_json({**value, "format": _FORMAT})
        place = self._directory / kind / key
        make_directories(place.parent)
        temporary = place.with_name(f".{key}.{os.getpid()}")
        with host_errors("write", place):
            try:
                temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
                temporary.replace(place)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
