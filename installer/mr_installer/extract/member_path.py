"""Check the path of a tar member, and take the layer's top directory off it."""

from __future__ import annotations

import re
import unicodedata

from mr_installer.extract.rules import Rule, refusal

MOST_DEPTH = 64
MOST_NAME_BYTES = 255
MOST_PATH_BYTES = 1024

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_DRIVE = re.compile(r"[A-Za-z]:")


def decode_text(raw: bytes, offset: int) -> str:
    """Return a path or a link target as text; raise `IntegrityError` unless it is UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        shown = raw.decode(errors="backslashreplace")
        raise refusal(Rule.PATH_ENCODING, "it is not UTF-8", member=shown, offset=offset) from error


def parse_path(raw: bytes, root: str, offset: int) -> str:
    """Return the path below ``root``; empty for the root itself.

    Args:
        raw: The member's path, without a directory's trailing slash.
        root: The one top directory of the layer.
        offset: Of the member's header, for errors.

    Raises:
        IntegrityError: naming the rule the path breaks.
    """
    text = decode_text(raw, offset)

    def refuse(rule: Rule, reason: str) -> Exception:
        return refusal(rule, reason, member=text, offset=offset)

    if _UNSAFE.search(text):
        raise refuse(Rule.PATH_CHARACTER, "its path holds a control character or a backslash")
    if text.startswith("/"):
        raise refuse(Rule.PATH_ABSOLUTE, "its path is absolute")
    top, slash, path = text.partition("/")
    for name in text.split("/"):
        if problem := _component_problem(name):
            raise refuse(*problem)
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        raise refuse(Rule.PATH_NORMAL_FORM, "its path is not in Unicode normal form C")
    if len(raw) - len(root) > MOST_PATH_BYTES + 1:
        raise refuse(Rule.PATH_LENGTH, f"its path is longer than {MOST_PATH_BYTES} bytes")
    if path.count("/") >= MOST_DEPTH:
        raise refuse(Rule.DEPTH, f"it is more than {MOST_DEPTH} levels deep")
    if top != root:
        raise refuse(Rule.OUTSIDE_ROOT, f"it is outside the layer's top directory `{root}`")
    return path if slash else ""


def _component_problem(name: str) -> tuple[Rule, str] | None:
    if name in {"", "."}:
        return Rule.PATH_COMPONENT, "its path has an empty component or a `.`"
    if name == "..":
        return Rule.PATH_PARENT, "its path holds `..`"
    if name[1:2] == ":" and _DRIVE.match(name):
        return Rule.PATH_DRIVE, "its path has a drive letter"
    if name.startswith(".wh."):
        return Rule.WHITEOUT, "whiteouts are not allowed, layers of a bundle are disjoint"
    if len(name) > MOST_NAME_BYTES // 4 and len(name.encode()) > MOST_NAME_BYTES:
        return Rule.NAME_LENGTH, f"a component is longer than {MOST_NAME_BYTES} bytes"
    return None


def fold(path: str) -> str:
    """Return a key that is equal for paths that some filesystem takes for the same one."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
