"""What the headers of a registry's responses say, read without trusting them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mr_core.digest import Digest
from mr_core.errors import BundleError
from mr_core.manifest import ACCEPT, MAX_MANIFEST_BYTES, Descriptor

_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def stated_document(headers: Mapping[str, str]) -> Descriptor | None:
    """Return the descriptor that a HEAD of a manifest states, or `None` when it does not state all of it."""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip()
    size = headers.get("Content-Length", "")
    if media_type not in ACCEPT or not size.isascii() or not size.isdigit() or len(size) > 10:
        return None
    if not 0 < int(size) <= MAX_MANIFEST_BYTES:
        return None
    try:
        digest = Digest.parse(headers.get("Docker-Content-Digest", ""))
    except BundleError:
        return None
    return Descriptor(media_type=media_type, digest=digest, size=int(size))


def is_exact_range(headers: Mapping[str, str], offset: int, size: int) -> bool:
    """Whether a 206 gives exactly the bytes from ``offset`` to the end of ``size`` bytes (RFC 9110, 14.4)."""
    match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return False
    first, last, total = match.groups()
    return int(first) == offset and int(last) == size - 1 and total in {"*", str(size)}
