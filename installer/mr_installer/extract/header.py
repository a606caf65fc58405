"""Parse one 512-byte tar header, in the one form that the project's packer writes: POSIX ustar.

Field layout: IEEE Std 1003.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from mr_installer.extract.rules import Rule, refusal

BLOCK = 512
FILE, LINK, DIRECTORY, PAX = b"0", b"2", b"5", b"x"

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_OCTAL = re.compile(rb"([0-7]+)[\0 ]+")
_MAGIC = b"ustar\x0000"
_MODES = {FILE: (0o644, 0o755), LINK: (0o777,), DIRECTORY: (0o755,), PAX: (0, 0o644)}  # 0: by Python's tarfile
_REFUSED_TYPES = {
    b"1": (Rule.HARD_LINK, "hard links are not allowed"),
    b"3": (Rule.DEVICE, "character devices are not allowed"),
    b"4": (Rule.DEVICE, "block devices are not allowed"),
    b"6": (Rule.FIFO, "FIFOs are not allowed"),
    b"g": (Rule.PAX_GLOBAL, "PAX global headers are not allowed"),
    b"S": (Rule.SPARSE, "sparse files are not allowed"),
    b"L": (Rule.LONG_NAME, "GNU long names are not allowed"),
    b"K": (Rule.LONG_NAME, "GNU long link names are not allowed"),
}


class Header(NamedTuple):
    """The fields that matter; ``kind`` is `FILE`, `LINK`, `DIRECTORY` or `PAX`."""

    kind: bytes
    path: bytes
    mode: int
    size: int
    link: bytes


def parse_header(block: bytes, offset: int) -> Header:
    """Parse a header block that is not all zero.

    Args:
        block: Exactly 512 bytes.
        offset: Where it lies in the uncompressed stream, for errors.

    Raises:
        IntegrityError: naming the rule it breaks.
    """
    (
        name, mode_field, uid, gid, size_field, mtime, checksum, kind,
        link, magic, user, group, major, minor, prefix, rest,
    ) = _FIELDS.unpack(block)  # fmt: skip
    # The checksum counts its own field as eight spaces (8 * 32).
    if _number(checksum, "checksum", "", offset) != sum(block) - sum(checksum) + 256:
        raise refusal(Rule.CHECKSUM, "the header checksum is wrong", offset=offset)
    if magic != _MAGIC:
        raise refusal(Rule.FORMAT, "the header is not in POSIX ustar format", offset=offset)
    path = _text(name, "name", offset)
    if prefix[0]:
        path = _text(prefix, "prefix", offset) + b"/" + path
    shown = path.decode(errors="backslashreplace")
    if kind not in _MODES:
        rule, reason = _REFUSED_TYPES.get(kind, (Rule.UNKNOWN_TYPE, f"entries of type {kind!r} are not allowed"))
        raise refusal(rule, reason, member=shown, offset=offset)
    mode = _number(mode_field, "mode", shown, offset)
    if mode not in _MODES[kind]:
        if mode & 0o7000:
            raise refusal(Rule.SPECIAL_MODE, f"mode {mode:o} has special bits", member=shown, offset=offset)
        raise refusal(Rule.MODE, f"mode {mode:o} is not allowed here", member=shown, offset=offset)
    if _number(uid, "uid", shown, offset) or _number(gid, "gid", shown, offset) or user[0] or group[0]:
        raise refusal(Rule.OWNER, "it has an owner other than 0:0", member=shown, offset=offset)
    size = _number(size_field, "size", shown, offset)
    _number(mtime, "time", shown, offset)
    if any(user) or any(group) or any(rest) or major.strip(b"0\0 ") or minor.strip(b"0\0 "):
        raise refusal(Rule.FIELD_PADDING, "unused header fields are not empty", member=shown, offset=offset)
    if kind in {LINK, DIRECTORY} and size:
        raise refusal(Rule.SIZE, f"it has {size} bytes of content, which only files have", member=shown, offset=offset)
    target = _text(link, "link name", offset)
    if target and kind != LINK:
        raise refusal(Rule.LINK_FIELD, "it is not a link but has a link name", member=shown, offset=offset)
    return Header(kind, path, mode, size, target)


def _number(field: bytes, what: str, member: str, offset: int) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        if field[0] & 0x80:
            raise refusal(Rule.BASE_256, f"its {what} is in base 256", member=member, offset=offset)
        raise refusal(Rule.NUMBER, f"its {what} is not an octal number", member=member, offset=offset)
    return int(match[1], 8)


def _text(field: bytes, what: str, offset: int) -> bytes:
    """Return the bytes before the first NUL; after it, only NULs may follow."""
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise refusal(Rule.FIELD_PADDING, f"bytes follow the end of its {what}", offset=offset)
    return text
