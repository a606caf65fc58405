"""Make tar archives byte by byte, the good ones and the hostile ones, and jobs that extract them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from mr_core.compression import open_compressor
from mr_core.digest import Digest
from mr_core.store import BlobFile
from mr_installer.extract import LayerJob, LayerResult, Limits
from mr_installer.extract.layer import extract_layer

BLOCK = 512
END = bytes(2 * BLOCK)
MTIME = 315619200


def octal(value: int, width: int) -> bytes:
    """A number as ustar writes it: zero-filled octal digits and a NUL."""
    return b"%0*o\0" % (width - 1, value)


def header(
    name: bytes | str, *, kind: bytes = b"0", size: int | bytes = 0, link: bytes | str = b"", **fields: bytes
) -> bytes:
    """One header block; ``fields`` replace raw fields, ``checksum`` included; ``size`` may be a raw field too."""
    name = name.encode() if isinstance(name, str) else name
    link = link.encode() if isinstance(link, str) else link
    mode = {b"5": 0o755, b"2": 0o777}.get(kind, 0o644)
    parts = {
        "name": (100, name),
        "mode": (8, octal(mode, 8)),
        "uid": (8, octal(0, 8)),
        "gid": (8, octal(0, 8)),
        "size": (12, size if isinstance(size, bytes) else octal(size, 12)),
        "mtime": (12, octal(MTIME, 12)),
        "checksum": (8, b" " * 8),
        "kind": (1, kind),
        "link": (100, link),
        "magic": (8, b"ustar\x0000"),
        "user": (32, b""),
        "group": (32, b""),
        "major": (8, b""),
        "minor": (8, b""),
        "prefix": (155, b""),
        "rest": (12, b""),
    }
    given = {key: value for key, value in fields.items() if key != "checksum"}
    unknown = given.keys() - parts.keys()
    assert not unknown, unknown
    block = b""
    for key, (width, default) in parts.items():
        value = given.get(key, default)
        assert len(value) <= width, (key, value)
        block += value.ljust(width, b"\0")
    checksum = fields.get("checksum", b"%06o\0 " % sum(block))
    return block[:148] + checksum + block[156:]


def padded(content: bytes) -> bytes:
    """Content, filled up to a whole block."""
    return content + bytes(-len(content) % BLOCK)


def record(key: bytes | str, value: bytes | str) -> bytes:
    """One PAX record, with the length that counts itself."""
    key = key.encode() if isinstance(key, str) else key
    value = value.encode() if isinstance(value, str) else value
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(records: bytes, *, kind: bytes = b"x") -> bytes:
    """A PAX header and its records."""
    return header("PaxHeader", kind=kind, size=len(records)) + padded(records)


def file(path: str, content: bytes = b"", *, mode: int = 0o644) -> bytes:
    """A regular file."""
    return member(path, b"0", mode=mode, size=len(content)) + padded(content)


def directory(path: str) -> bytes:
    """A directory entry, with its slash."""
    return member(path + "/", b"5", mode=0o755)


def link(path: str, target: str) -> bytes:
    """A symbolic link; PAX when the target is long."""
    if len(target.encode()) > 100:
        return pax(record("linkpath", target)) + member(path, b"2", mode=0o777)
    return member(path, b"2", mode=0o777, link=target)


def member(path: str, kind: bytes, *, mode: int, size: int = 0, link: str = "") -> bytes:
    """A header; with a ustar prefix or a PAX record when the path is long."""
    raw = path.encode()
    mode_field = octal(mode, 8)
    if len(raw) <= 100:
        return header(raw, kind=kind, size=size, link=link, mode=mode_field)
    cut = raw.rfind(b"/", 0, 156)
    if cut > 0 and 0 < len(raw) - cut - 1 <= 100:
        return header(raw[cut + 1 :], kind=kind, size=size, link=link, mode=mode_field, prefix=raw[:cut])
    short = header(raw[:90], kind=kind, size=size, link=link, mode=mode_field)
    return pax(record("path", raw)) + short


def archive(*members: bytes, end: bytes = END) -> bytes:
    """Members below ``backend/``, whose entry comes first, and the end of the archive."""
    return directory("backend") + b"".join(members) + end


def sample(count: int = 6, size: int = 700) -> bytes:
    """A valid layer with every kind of member, long paths included; the same bytes every time."""
    members = [directory("backend/bin"), file("backend/bin/tool", b"#!/bin/sh\n", mode=0o755)]
    members += [link("backend/bin/alias", "tool"), link("backend/bin/python", "../lib/interpreter")]
    members += [
        directory("backend/lib"),
        file("backend/lib/empty"),
        file("backend/lib/interpreter", b"\x7fELF", mode=0o755),
    ]
    place = "backend/lib"
    for level in range(4):
        place = f"{place}/{'d' * 60}{level}"
        members.append(directory(place))
    for number in range(count):
        content = hashlib.sha256(b"%d" % number).digest() * (number * size // 32)
        members.append(file(f"{place}/file{number}.bin", content))
    members.append(file("backend/lib/ünïcode", "grün".encode()))
    return archive(*members)


def compress(data: bytes, kind: str = "none") -> bytes:
    """A blob of the project's own compressor."""
    encoder = open_compressor(kind, size=len(data), level=3, threads=1)
    return encoder.compress(data) + encoder.finish()


def job(
    directory: Path,
    tar: bytes,
    kind: str = "none",
    *,
    blob: bytes | None = None,
    name: str = "layer",
    verified: bool = False,
    limits: Limits | None = None,
    strip: str = "backend",
) -> LayerJob:
    """Write ``tar`` (or the given ``blob`` instead of its compressed form) to a file, and return the job for it."""
    blob = compress(tar, kind) if blob is None else blob
    path = directory / f"{name}.blob"
    path.write_bytes(blob)
    return LayerJob(
        blob=BlobFile(path=path, offset=0, size=len(blob)),
        digest=Digest.of(blob),
        diff_id=Digest.of(tar),
        compression=kind,
        strip=strip,
        verified=verified,
        limits=limits or Limits(),
    )


def extract(job: LayerJob, stage: Path) -> LayerResult:
    """Extract in this process; ``stage`` is created when it is not there."""
    stage.mkdir(exist_ok=True)
    descriptor = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return extract_layer(job, descriptor, lambda _done: None)
    finally:
        os.close(descriptor)


def tree(root: Path) -> dict[str, tuple[str, int, str]]:
    """Everything below ``root``: kind, permission bits and content (or target) by relative path."""
    found = {}
    for place, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(place, name)
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                entry = ("link", 0o777, os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                entry = ("directory", mode, "")
            else:
                assert stat.S_ISREG(status.st_mode), path
                entry = ("file", mode, hashlib.sha256(path.read_bytes()).hexdigest())
            found[str(path.relative_to(root))] = entry
    return found


def paths(root: Path) -> Iterable[str]:
    """Every path below ``root``, relative."""
    return sorted(tree(root))
