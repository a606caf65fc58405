"""The two JSON files of an OCI layout, read strictly: ``oci-layout`` and ``index.json``.

An index is changed on its parsed JSON, not on our own types, so that entries other tools wrote keep fields that this
project does not know (``platform.variant``, ``urls``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.digest import Digest
from mr_core.errors import BundleError, InvalidInputError, NotFoundError
from mr_core.manifest import MAX_MANIFEST_BYTES, MEDIA_INDEX, REF_NAME, Descriptor, parse_document
from mr_core.referrer_index import is_fallback_name

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
_REMAKE = "copy or build the layout again: another program wrote or cut this file"
LAYOUT_BYTES = dump_json({"imageLayoutVersion": "1.0.0"})
EMPTY_INDEX = dump_json({"manifests": [], "mediaType": MEDIA_INDEX, "schemaVersion": 2})


def check_layout_file(raw: bytes, where: str) -> None:
    """Refuse a layout of another version than 1."""
    what = f"`{LAYOUT_FILE}` of layout `{where}`"
    read = Decoder(parse_json(raw, what, limit=4096), what)
    read.text("imageLayoutVersion", pattern=r"1\.[0-9]+\.[0-9]+")
    read.finish()


def layout_entries(raw: bytes, where: str) -> tuple[Descriptor, ...]:
    """Return the entries of an ``index.json``.

    Raises:
        InvalidInputError: for anything that is not an image index of at most 4 MiB, naming the layout.
    """
    try:
        document = parse_document(raw, MEDIA_INDEX)
    except InvalidInputError as error:
        reason = error.message.removeprefix("Cannot read manifest: ")
        message = f"Cannot read `{INDEX_FILE}` of layout `{where}`: {reason}"
        raise InvalidInputError(message, hint=error.hint or _REMAKE, **error.fields) from error
    if not hasattr(document, "manifests"):
        raise InvalidInputError(
            f"Cannot read `{INDEX_FILE}` of layout `{where}`: it is not an image index", hint=_REMAKE
        )
    return document.manifests


def bundle_entries(entries: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """Return the entries without the lists of referrers, whose names are nobody's choice."""
    return tuple(entry for entry in entries if not is_fallback_name(entry.annotations.get(REF_NAME, "")))


def find_entry(entries: tuple[Descriptor, ...], name: str, where: str) -> Descriptor:
    """Return the entry called ``name``, or the only one when ``name`` is empty; lists of referrers do not count then.

    Raises:
        NotFoundError: when there is none; the hint lists the names there are.
        InvalidInputError: when several fit.
    """
    bundles = bundle_entries(entries)
    if not name:
        entries = bundles
    names = sorted({entry.annotations[REF_NAME] for entry in bundles if REF_NAME in entry.annotations})
    shown = ", ".join(f"`{known}`" for known in names[:12]) or "none"
    found = {entry.digest: entry for entry in entries if not name or entry.annotations.get(REF_NAME) == name}
    if not found:
        wanted = f"nothing is called `{name}`" if name else "the layout is empty"
        raise NotFoundError(f"Cannot find a bundle in `{where}`: {wanted}", hint=f"names there: {shown}", name=name)
    if len(found) > 1:
        reason = f"{len(found)} entries are called `{name}`" if name else f"it holds {len(found)} entries"
        raise InvalidInputError(f"Cannot choose a bundle in `{where}`: {reason}", hint=f"name one of: {shown}")
    return next(iter(found.values()))


def resolve_entry(
    entries: tuple[Descriptor, ...], name: str, where: str, *, read_loose: Callable[[Digest], bytes | None]
) -> Descriptor:
    """Return what ``name`` points to; a digest may also name a document that no entry lists.

    Args:
        entries: Of ``index.json``.
        name: A reference name, a digest, or empty for the only entry.
        where: The layout, for messages.
        read_loose: Returns a blob of at most 4 MiB, verified, or `None` when the layout does not hold it.
    """
    if ":" not in name:
        return find_entry(entries, name, where)
    try:
        digest = Digest.parse(name)
    except BundleError:
        return find_entry(entries, name, where)
    for entry in entries:
        if entry.digest == digest:
            return entry
    raw = read_loose(digest)
    if raw is None:
        raise NotFoundError(f"Cannot find {digest} in `{where}`: the layout does not hold it")
    return Descriptor(media_type=parse_document(raw).media_type, digest=digest, size=len(raw))


def without_name(raw: bytes, name: str) -> bytes:
    """Return an ``index.json`` in which nothing is called ``name``; everything else in it stays as it was."""
    value: dict[str, Any] = parse_json(raw, f"`{INDEX_FILE}`", limit=MAX_MANIFEST_BYTES)
    value["manifests"] = [item for item in value["manifests"] if _name(item) != name]
    return dump_json(value)


def with_entry(raw: bytes, entry: Descriptor, name: str, annotations: Mapping[str, str]) -> bytes:
    """Return an ``index.json`` in which ``name`` points to ``entry``; everything else in it stays as it was."""
    value: dict[str, Any] = parse_json(raw, f"`{INDEX_FILE}`", limit=MAX_MANIFEST_BYTES)
    new = Descriptor(
        media_type=entry.media_type,
        digest=entry.digest,
        size=entry.size,
        annotations={**annotations, REF_NAME: name},
        platform=entry.platform,
    )
    others = [item for item in value["manifests"] if _name(item) != name]
    value["manifests"] = sorted([*others, new.to_json()], key=_order)
    changed = dump_json(value)
    if len(changed) > MAX_MANIFEST_BYTES:
        raise InvalidInputError(f"Cannot add `{name}` to the layout: its `{INDEX_FILE}` would exceed 4 MiB")
    return changed


def _order(item: Any) -> tuple[str, str]:
    return _name(item) or "", json.dumps(item, sort_keys=True)


def _name(item: Any) -> str | None:
    found: str | None = (item.get("annotations") or {}).get(REF_NAME)
    return found
