"""What is asked of the extraction of one layer, and what comes back; both as plain JSON values for a worker process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr_core.digest import Digest
from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from mr_core.store import BlobFile

MOST_ENTRIES = 500_000
MOST_BYTES = 1 << 40
MOST_RATIO = 250
"""Bytes out for each byte in; Python environments reach 5, and a file of zeros several thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Most that a layer, or a whole bundle in `finish_tree`, may hold.

    Attributes:
        entries: Files, links and directories.
        bytes: Sum of the sizes of its files.
        ratio: Uncompressed to compressed bytes of a layer; small layers are exempt.
    """

    entries: int = MOST_ENTRIES
    bytes: int = MOST_BYTES
    ratio: int = MOST_RATIO


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerJob:
    """One layer to extract.

    Attributes:
        blob: Where its compressed bytes lie.
        digest: Of those bytes.
        diff_id: Digest of the uncompressed tar stream.
        compression: ``zstd``, ``gzip`` or ``none``.
        strip: The one top directory of the layer, which becomes the stage itself.
        verified: Whether the bytes have been compared with ``digest`` already; if not, that comes first.
        limits: Taken from what the manifest declares, where it does.
    """

    blob: BlobFile
    digest: Digest
    diff_id: Digest
    compression: str
    strip: str = "backend"
    verified: bool
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "path": str(self.blob.path.absolute()),  # a worker may have another working directory
            "offset": self.blob.offset,
            "size": self.blob.size,
            "digest": str(self.digest),
            "diff_id": str(self.diff_id),
            "compression": self.compression,
            "strip": self.strip,
            "verified": self.verified,
            "limits": [self.limits.entries, self.limits.bytes, self.limits.ratio],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LayerJob:
        """Read what `to_json` of the same version wrote."""
        entries, most, ratio = value["limits"]
        return cls(
            blob=BlobFile(path=Path(value["path"]), offset=value["offset"], size=value["size"]),
            digest=Digest.parse(value["digest"]),
            diff_id=Digest.parse(value["diff_id"]),
            compression=value["compression"],
            strip=value["strip"],
            verified=value["verified"],
            limits=Limits(entries=entries, bytes=most, ratio=ratio),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerResult:
    """What a layer held: its files, which are on disk now, and its links, which are not yet.

    Attributes:
        entries: Files and links, paths below the layer's top directory, in the order of the archive.
        directories: Directories below the top one.
        bytes: Sum of the sizes of its files.
    """

    entries: tuple[Entry, ...]
    directories: frozenset[str]
    bytes: int


def pack_entries(entries: tuple[Entry, ...]) -> list[list[Any]]:
    """Return entries as short JSON lists that `unpack_entries` reads back."""
    return [
        [entry.path, entry.link] if isinstance(entry, LinkEntry) else [entry.path, entry.mode, entry.size, entry.sha256]
        for entry in entries
    ]


def unpack_entries(rows: list[list[Any]]) -> list[Entry]:
    """Return the entries of `pack_entries`."""
    return [
        LinkEntry(path=row[0], link=row[1])
        if len(row) == 2
        else FileEntry(path=row[0], mode=row[1], size=row[2], sha256=row[3])
        for row in rows
    ]
