"""Parse a PAX extended header: records of a decimal length, a space, key, ``=``, value and a newline."""

from __future__ import annotations

import re

from mr_installer.extract.rules import Rule, refusal

MOST_BYTES = 4096
"""Room for one path and one link target of 1,024 bytes each, and a size."""
KEYS = frozenset({"path", "linkpath", "size"})

_LENGTH = re.compile(rb"([1-9][0-9]{0,3}) ")
_SIZE = re.compile(rb"0|[1-9][0-9]{0,14}")


def parse_pax(data: bytes, offset: int) -> dict[str, bytes]:
    """Return the values by key; a ``size`` is known to be a decimal number.

    Raises:
        IntegrityError: a malformed, unknown or repeated record; ``offset`` is named.
    """
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        if length is None or end > len(data) or length.end() >= end or data[end - 1] != 0x0A:
            raise refusal(Rule.PAX_RECORD, "a PAX record is malformed", offset=offset)
        name, equals, value = data[length.end() : end - 1].partition(b"=")
        key = name.decode(errors="backslashreplace")
        if not equals or not key:
            raise refusal(Rule.PAX_RECORD, "a PAX record has no key", offset=offset)
        if key not in KEYS:
            raise _unknown(key, offset)
        if key in found:
            raise refusal(Rule.PAX_DUPLICATE, f"the PAX key `{key}` stands twice", offset=offset)
        if not value or b"\0" in value or (key == "size" and not _SIZE.fullmatch(value)):
            raise refusal(Rule.PAX_RECORD, f"the PAX key `{key}` has a malformed value", offset=offset)
        found[key] = value
        at = end
    if not found:
        raise refusal(Rule.PAX_RECORD, "a PAX header is empty", offset=offset)
    return found


def _unknown(key: str, offset: int) -> Exception:
    if "xattr." in key or key.startswith(("SCHILY.acl.", "LIBARCHIVE.")):
        return refusal(Rule.EXTENDED_ATTRIBUTE, "extended attributes are not allowed", member=key, offset=offset)
    if key.startswith("GNU.sparse."):
        return refusal(Rule.SPARSE, "sparse files are not allowed", member=key, offset=offset)
    return refusal(Rule.PAX_KEY, "this PAX key is not allowed", member=key, offset=offset)
