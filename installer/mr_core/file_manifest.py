"""The file manifest ``.mr/files.jsonl``: every file and link of a release, one canonical JSON object a line.

Fields: ``path`` (relative, ``/`` between components, NFC), then either ``mode`` (``644`` or ``755``, octal digits),
``size`` (bytes) and ``sha256`` (hex) for a regular file, or ``link`` (target text) for a symbolic link. Lines are
sorted by the bytes of ``path``; directories are implied. Not listed: ``.mr/files.jsonl`` itself and
``.mr/bundle.json`` (the bundle config holds the digest of the former and equals the image's label), and
``.mr/receipt.json`` and ``.mr/lease``, which the installer writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.errors import InvalidInputError

FILES_PATH = ".mr/files.jsonl"
BUNDLE_PATH = ".mr/bundle.json"
RECEIPT_PATH = ".mr/receipt.json"
LEASE_PATH = ".mr/lease"
UNLISTED = frozenset({FILES_PATH, BUNDLE_PATH, RECEIPT_PATH, LEASE_PATH})
"""Paths of a release that its file manifest does not list."""
_MOST_LINE_BYTES = 64 << 10  # a path of 4096 bytes, each of them escaped, is not half as long


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A regular file: mode 0o644 or 0o755, size in bytes, sha256 in hexadecimal."""

    path: str
    mode: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEntry:
    """A symbolic link and its relative target."""

    path: str
    link: str


Entry = FileEntry | LinkEntry


def dump_entries(entries: Iterable[Entry]) -> bytes:
    """Serialise entries, sorted by path; ends with a newline."""
    lines = []
    for entry in sorted(entries, key=lambda item: item.path.encode()):
        match entry:
            case FileEntry():
                lines.append(
                    dump_json(
                        {
                            "path": entry.path,
                            "mode": f"{entry.mode:o}",
                            "size": entry.size,
                            "sha256": entry.sha256,
                        }
                    )
                )
            case LinkEntry():
                lines.append(dump_json({"path": entry.path, "link": entry.link}))
    return b"".join(line + b"\n" for line in lines)


def parse_entries(data: bytes, *, most: int = 500_000) -> dict[str, Entry]:
    """Parse a file manifest whose digest has been verified; keys are the paths, in file order.

    One line at a time is taken out of ``data``, so the memory it takes is that of the entries.

    Raises:
        InvalidInputError: naming the line.
    """
    found: dict[str, Entry] = {}
    if data and not data.endswith(b"\n"):
        raise InvalidInputError("Cannot read file manifest: the last line is cut")
    for number, line in enumerate(_lines(data), start=1):
        if number > most:
            raise InvalidInputError(f"Cannot read file manifest: more than {most} entries")
        try:
            # Escapes are rare (control characters in names), and may hide a surrogate that no path can have.
            entry = _entry(parse_json(line, f"file manifest line {number}") if b"\\u" in line else _plain_json(line))
        except (ValueError, KeyError, TypeError, RecursionError):
            entry = _explain(line, number)
        if entry.path in found:
            raise InvalidInputError(f"Cannot read file manifest: line {number}: `{entry.path}` is listed twice")
        found[entry.path] = entry
    return found


def _lines(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.index(b"\n", start)
        if end - start > _MOST_LINE_BYTES:
            raise InvalidInputError(f"Cannot read file manifest: a line of {end - start} bytes")
        yield data[start:end]
        start = end + 1


def _plain_json(line: bytes) -> dict[str, object]:
    value: dict[str, object] = json.loads(line.decode())
    return value


def _entry(value: dict[str, object]) -> Entry:
    path = value["path"]
    link = value.get("link")
    if not isinstance(path, str) or not path:
        raise ValueError(path)
    if link is not None:
        if not isinstance(link, str) or len(value) != 2:
            raise ValueError(link)
        return LinkEntry(path=path, link=link)
    size, sha256 = value["size"], value["sha256"]
    mode = {"644": 0o644, "755": 0o755}[str(value["mode"])]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or len(value) != 4:
        raise ValueError(size)
    if not isinstance(sha256, str) or len(sha256) != 64:
        raise ValueError(sha256)
    return FileEntry(path=path, mode=mode, size=size, sha256=sha256)


def _explain(line: bytes, number: int) -> Entry:
    """Read one bad line again, slowly, for an error that names the field."""
    read = Decoder(parse_json(line, f"file manifest line {number}"), f"file manifest line {number}")
    read.text("path", pattern=r".+")
    if read.has("link"):
        read.text("link")
    else:
        read.text("mode", pattern=r"644|755")
        read.integer("size")
        read.text("sha256", pattern=r"[0-9a-f]{64}")
    read.refuse_unknown()
    read.finish()
    raise InvalidInputError(f"Cannot read file manifest: line {number} is not an entry")
