"""The rules a layer can break, and the error that says which one, where.

The rules are those of the project's own packer, turned around: what it never writes is refused, never skipped or
repaired. Compressed streams add the slugs ``compressed-data``, ``stream-truncated``, ``second-stream``,
``bytes-after-stream`` and ``window`` of `mr_core.compression`.
"""

from __future__ import annotations

from enum import StrEnum

from mr_core.errors import IntegrityError, printable

_HINT = "do not use this bundle; tell its publisher"


class Rule(StrEnum):
    """Stable slugs, found in ``fields['rule']`` of the error."""

    # bytes of the blob and of the stream
    BLOB_SIZE = "blob-size"
    DIGEST = "digest"
    DIFF_ID = "diff-id"
    RATIO = "ratio"
    LIMIT_BYTES = "limit-bytes"
    LIMIT_ENTRIES = "limit-entries"
    TRUNCATED = "truncated"
    END_BLOCKS = "end-blocks"
    BYTES_AFTER_END = "bytes-after-end"
    PADDING = "padding"
    # one header
    CHECKSUM = "checksum"
    FORMAT = "format"
    NUMBER = "number"
    BASE_256 = "base-256"
    FIELD_PADDING = "field-padding"
    MODE = "mode"
    SPECIAL_MODE = "special-mode"
    OWNER = "owner"
    SIZE = "size"
    LINK_FIELD = "link-field"
    HARD_LINK = "hard-link"
    DEVICE = "device"
    FIFO = "fifo"
    SPARSE = "sparse"
    LONG_NAME = "gnu-long-name"
    UNKNOWN_TYPE = "unknown-type"
    # PAX headers
    PAX_GLOBAL = "pax-global"
    PAX_OVERSIZE = "pax-oversize"
    PAX_RECORD = "pax-record"
    PAX_KEY = "pax-key"
    PAX_DUPLICATE = "pax-duplicate"
    PAX_ORDER = "pax-order"
    PAX_CONFLICT = "pax-conflict"
    EXTENDED_ATTRIBUTE = "extended-attribute"
    # paths
    PATH_ENCODING = "path-encoding"
    PATH_CHARACTER = "path-character"
    PATH_ABSOLUTE = "path-absolute"
    PATH_DRIVE = "path-drive"
    PATH_PARENT = "path-parent"
    PATH_COMPONENT = "path-component"
    PATH_SLASH = "path-slash"
    PATH_NORMAL_FORM = "path-normal-form"
    PATH_LENGTH = "path-length"
    NAME_LENGTH = "name-length"
    DEPTH = "depth"
    WHITEOUT = "whiteout"
    OUTSIDE_ROOT = "outside-root"
    # how members fit together, in one layer and across layers
    NO_PARENT = "no-parent"
    NOT_A_DIRECTORY = "not-a-directory"
    DUPLICATE = "duplicate"
    COLLISION = "collision"
    # targets of symbolic links
    LINK_EMPTY = "link-empty"
    LINK_CHARACTER = "link-character"
    LINK_COMPONENT = "link-component"
    LINK_ABSOLUTE = "link-absolute"
    LINK_ESCAPE = "link-escape"
    LINK_AMBIGUOUS = "link-ambiguous"
    LINK_LOOP = "link-loop"


def refusal(rule: Rule, reason: str, *, member: str = "", offset: int | None = None) -> IntegrityError:
    """Return the error for a broken rule.

    Args:
        rule: Which one.
        reason: The rest of the sentence ``Cannot extract <member>: …``.
        member: Path as the archive gives it; may hold anything, and is made printable.
        offset: Of the member's header in the uncompressed stream, in bytes; `None` when several layers are involved.
    """
    shown = printable(member)
    place = "" if offset is None else f" at byte {offset}"
    return IntegrityError(
        f"Cannot extract {f'`{shown}`' if shown else 'layer'}: {reason} (rule `{rule}`{place})",
        hint=_HINT,
        rule=str(rule),
        member=shown,
        offset=offset,
    )
