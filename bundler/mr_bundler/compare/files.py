"""Compare the files of two trees by their file manifests. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mr_core.file_manifest import Entry, FileEntry, LinkEntry

FileKind = Literal["added", "removed", "bytes", "mode", "link", "type"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One path that differs.

    Attributes:
        kind: ``added`` and ``removed`` as seen from the first tree; ``type`` for a file that became a link or the
            other way round; ``bytes`` also when the mode differs as well.
        old: What the first tree has there, in words; empty when it has nothing.
        new: What the second has.
    """

    path: str
    kind: FileKind
    old: str
    new: str


def compare_files(first: Mapping[str, Entry], second: Mapping[str, Entry]) -> tuple[FileChange, ...]:
    """Return every path that differs, sorted by the bytes of the path."""
    found = []
    for path in sorted(first.keys() | second.keys(), key=str.encode):
        old, new = first.get(path), second.get(path)
        if old != new:
            found.append(FileChange(path=path, kind=_kind(old, new), old=_words(old, new), new=_words(new, old)))
    return tuple(found)


def _kind(old: Entry | None, new: Entry | None) -> FileKind:
    match old, new:
        case None, _:
            return "added"
        case _, None:
            return "removed"
        case FileEntry(), FileEntry():
            return "mode" if (old.size, old.sha256) == (new.size, new.sha256) else "bytes"
        case LinkEntry(), LinkEntry():
            return "link"
        case _:
            return "type"


def _words(entry: Entry | None, other: Entry | None) -> str:
    """Say what ``entry`` is, with the mode only where it is what differs from ``other``."""
    match entry:
        case None:
            return ""
        case LinkEntry():
            return f"a link to {entry.link}"
        case FileEntry():
            mode = f", mode {entry.mode:o}" if isinstance(other, FileEntry) and other.mode != entry.mode else ""
            return f"{entry.size} bytes, sha256 {entry.sha256[:12]}…{mode}"
