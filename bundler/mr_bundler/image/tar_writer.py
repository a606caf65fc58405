"""Write layer tars: the one form that the installer's strict reader accepts.

POSIX ustar (IEEE Std 1003.1-2017, pax, "ustar Interchange Format"), with a PAX extended header only where a path or a
link target does not fit; everything that could differ between machines is constant.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from mr_bundler.audit.path_rules import directories_of
from mr_core.bundle_config import IMAGE_ROOT
from mr_core.durable import host_errors
from mr_core.errors import BuildError
from mr_core.file_manifest import Entry, FileEntry, LinkEntry

TAR_FORMAT = 1
"""Part of every key of packed layers: raise it whenever the same entries give other bytes."""
MTIME = 315619200
"""1980-01-02 00:00 UTC: constant, so that a distribution gives the same layer in every bundle."""
BLOCK = 512
_END = bytes(2 * BLOCK)
_PIECE = 1 << 20
_MOST_BYTES = 8**11 - 1  # eleven octal digits: 8 GiB
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_NUMBER = b"0000000\0"
_PAX_NAME = b"PaxHeader"


def tar_size(entries: Sequence[Entry]) -> int:
    """Return the bytes that `tar_pieces` yields for the same entries."""
    size = len(_END)
    for path in _directories(entries):
        size += len(_member(f"{path}/", b"5", 0o755))
    for entry in entries:
        size += len(_head(entry))
        if isinstance(entry, FileEntry):
            size += entry.size + -entry.size % BLOCK
    return size


def tar_pieces(root: Path, entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield the tar of ``entries`` below ``root`` in pieces of about 1 MiB.

    Members are sorted by the bytes of their paths; every directory they need comes first, `IMAGE_ROOT` first of all.

    Raises:
        BuildError: when a file is not what its entry says, or one is larger than 8 GiB.
        HostError: when a file cannot be read.
    """
    members: list[tuple[bytes, Entry | None]] = [(path.encode(), None) for path in _directories(entries)]
    members += [(f"{IMAGE_ROOT}/{entry.path}".encode(), entry) for entry in entries]
    members.sort(key=lambda member: member[0])
    piece = bytearray()
    for path, entry in members:
        if entry is None:
            piece += _member(f"{path.decode()}/", b"5", 0o755)
            continue
        piece += _head(entry)
        if isinstance(entry, FileEntry):
            for content in _content(root, entry):
                piece += content
                if len(piece) >= _PIECE:
                    yield bytes(piece)
                    piece.clear()
    piece += _END
    yield bytes(piece)


def _directories(entries: Sequence[Entry]) -> set[str]:
    return {IMAGE_ROOT, *(f"{IMAGE_ROOT}/{path}" for path in directories_of([entry.path for entry in entries]))}


def _content(root: Path, entry: FileEntry) -> Iterator[bytes]:
    place = os.path.join(root, entry.path)  # noqa: PTH118 - a hot loop
    left, digest = entry.size, hashlib.sha256()
    with host_errors("read", place), open(place, "rb", buffering=0) as file:  # noqa: PTH123 - a hot loop
        while content := file.read(min(_PIECE, left + 1)):
            left -= len(content)
            if left < 0:
                break
            digest.update(content)
            yield content
    if left or digest.hexdigest() != entry.sha256:
        raise BuildError(f"Cannot pack `{entry.path}`: it changed while the bundle was built")
    yield bytes(-entry.size % BLOCK)


def _head(entry: Entry) -> bytes:
    path = f"{IMAGE_ROOT}/{entry.path}"
    match entry:
        case FileEntry():
            return _member(path, b"0", entry.mode, size=entry.size)
        case LinkEntry():
            return _member(path, b"2", 0o777, link=entry.link)


def _member(path: str, kind: bytes, mode: int, *, size: int = 0, link: str = "") -> bytes:
    """Return the header of a member, after a PAX header when it needs one."""
    if size > _MOST_BYTES:
        raise BuildError(f"Cannot pack `{path}`: {size} bytes are more than the 8 GiB a layer's file may have")
    name, target = path.encode(), link.encode()
    records = b""
    split = _split(name)
    if split is None:
        records += _record(b"path", name)
        split = (b"", name[:100].rstrip(b"/"))
    if len(target) > 100:
        records += _record(b"linkpath", target)
        target = target[:100]
    header = _header(*split, kind=kind, mode=mode, size=size, link=target)
    if not records:
        return header
    return (
        _header(b"", _PAX_NAME, kind=b"x", mode=0o644, size=len(records), link=b"")
        + records
        + bytes(-len(records) % BLOCK)
        + header
    )


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return prefix and name as ustar wants them, or None when the path does not fit."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)  # the name gets at most 100 bytes, the slash is in neither
    if cut < 1 or cut > 155 or cut == len(name) - 1:
        return None
    return name[:cut], name[cut + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    """Return a PAX record; its length counts its own digits."""
    size = len(key) + len(value) + 3
    length = size + len(str(size))
    length = size + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _header(prefix: bytes, name: bytes, *, kind: bytes, mode: int, size: int, link: bytes) -> bytes:
    block = bytearray(
        _HEADER.pack(
            name, b"%07o" % mode, _NUMBER, _NUMBER, b"%011o" % size, b"%011o" % MTIME, b" " * 8, kind,
            link, b"ustar\0", b"00", b"", b"", _NUMBER, _NUMBER, prefix,
        )
    )  # fmt: skip
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
