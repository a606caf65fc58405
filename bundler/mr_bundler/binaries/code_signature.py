"""Check the code signature of a Mach-O file: the digest of every page against its code directories.

That is what arm64 macOS does with each page it maps; a process that touches a page whose digest differs is killed. Who
signed is not looked at: libraries in wheels are signed ad hoc, without a certificate. Written after ``cs_blobs.h`` and
``codedirectory.h`` of Apple's published sources; all numbers there are big-endian.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Callable
from typing import Any

from mr_bundler.binaries.binary import VALID
from mr_bundler.binaries.window import Window

_BLOB = struct.Struct(">II")
_SUPER_BLOB = struct.Struct(">III")
_DIRECTORY = struct.Struct(">IIIIIIIIIBBBBI")
_SUPER_MAGIC, _DIRECTORY_MAGIC = 0xFADE0CC0, 0xFADE0C02
_DIRECTORY_SLOTS = (0, 0x1000, 0x1001, 0x1002, 0x1003, 0x1004)  # the first, and the alternates
_SCATTER_VERSION, _LONG_LIMIT_VERSION = 0x20100, 0x20300
_MOST_BLOBS = 64
_PAGE_BITS = range(10, 25)
_CHUNK = 1 << 20
# CS_HASHTYPE_…: constructor, bytes stored
_DIGESTS: dict[int, tuple[Callable[..., Any], int]] = {
    1: (functools.partial(hashlib.sha1, usedforsecurity=False), 20),
    2: (hashlib.sha256, 32),
    3: (hashlib.sha256, 20),
    4: (hashlib.sha384, 48),
}


def check_signature(window: Window, offset: int, size: int) -> str:
    """Return `VALID`, or what is wrong with the signature of ``size`` bytes at ``offset`` of a thin file.

    Raises:
        ValueError: when the signature lies outside the file.
    """
    blob = window.part(offset, size)
    try:
        places = _directories(blob)
        for place in places:
            problem = _check_directory(window, blob, place, end=offset)
            if problem:
                return problem
    except (ValueError, struct.error):
        return "it is malformed"
    return VALID if places else "it has no code directory"


def _directories(blob: Window) -> list[int]:
    magic, size, count = _SUPER_BLOB.unpack(blob.take(0, _SUPER_BLOB.size))
    if magic != _SUPER_MAGIC or size > blob.size or count > _MOST_BLOBS:
        raise ValueError(magic)
    table = blob.take(_SUPER_BLOB.size, count * _BLOB.size)
    found = {kind: offset for kind, offset in _BLOB.iter_unpack(table) if kind in _DIRECTORY_SLOTS}
    return [found[kind] for kind in sorted(found)]


def _check_directory(window: Window, blob: Window, place: int, *, end: int) -> str:
    """Return what is wrong with the code directory at ``place``, empty text for nothing."""
    fields = _DIRECTORY.unpack(blob.take(place, _DIRECTORY.size))
    magic, size, version, _, digests_at, _, _, slots, limit, digest_size, kind, _, page_bits, _ = fields
    directory = blob.part(place, size)
    if magic != _DIRECTORY_MAGIC:
        raise ValueError(magic)
    if version >= _SCATTER_VERSION and any(directory.take(44, 4)):
        return "it is scattered, which nobody does any more"
    if version >= _LONG_LIMIT_VERSION:
        limit = int.from_bytes(directory.take(56, 8), "big") or limit
    if kind not in _DIGESTS or _DIGESTS[kind][1] != digest_size:
        return f"it uses digests of the unknown kind {kind}"
    if limit != end:
        return f"it covers {limit} bytes, not the {end} before it"
    if page_bits and page_bits not in _PAGE_BITS:
        raise ValueError(page_bits)
    page = 1 << page_bits if page_bits else max(1, limit)
    if slots != -(-limit // page):
        return f"it has digests for {slots} pages, not for {-(-limit // page)}"
    digests = directory.take(digests_at, slots * digest_size)
    wrong = _first_difference(window, limit, page, digests, kind)
    return "" if wrong is None else f"the page at {wrong:#x} differs from what was signed"


def _first_difference(window: Window, limit: int, page: int, digests: bytes, kind: int) -> int | None:
    """Return where the first page begins whose digest differs."""
    make, size = _DIGESTS[kind]
    if page > _CHUNK:
        for slot, start in enumerate(range(0, limit, page)):
            hasher = make()
            for at in range(start, min(start + page, limit), _CHUNK):
                hasher.update(window.take(at, min(_CHUNK, limit - at)))
            if hasher.digest()[:size] != digests[slot * size : (slot + 1) * size]:
                return start
        return None
    slot = 0
    for start in range(0, limit, _CHUNK):
        content = memoryview(window.take(start, min(_CHUNK, limit - start)))
        for at in range(0, len(content), page):
            if make(content[at : at + page]).digest()[:size] != digests[slot : slot + size]:
                return start + at
            slot += size
    return None
