"""Artifact manifests that refer to another manifest, and the list of them, as in the OCI specifications 1.1.

A registry with the referrers API keeps the list itself. Everywhere else it is an image index under the fallback name
``<algorithm>-<hex>`` of the subject, which clients read and write: in registries without the API, in layouts, and in
memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mr_core.decode import dump_json, parse_json
from mr_core.digest import Digest
from mr_core.errors import InvalidInputError
from mr_core.manifest import ACCEPT, MAX_MANIFEST_BYTES, MEDIA_INDEX, MEDIA_MANIFEST, Descriptor, Index, parse_document

MEDIA_EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_CONFIG = b"{}"
MAX_REFERRERS = 256
_FALLBACK = re.compile(r"(?:sha256|sha512)-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """An artifact manifest as it stands in a list: ``listed`` points to it, ``subject`` is what it refers to."""

    listed: Descriptor
    subject: Digest
    raw: bytes


def fallback_name(subject: Digest) -> str:
    """Return the name under which the referrers of ``subject`` are listed where there is no referrers API.

    The specification's "referrers tag schema": at most 64 characters of the encoded digest are taken.
    """
    return f"{subject.algorithm}-{subject.hex[:64]}"


def is_fallback_name(name: str) -> bool:
    """Whether ``name`` is that of a list of referrers, and so names no bundle."""
    return _FALLBACK.fullmatch(name) is not None


def make_artifact(
    subject: Descriptor, *, artifact_type: str, content: Descriptor, annotations: Mapping[str, str]
) -> bytes:
    """Return the manifest of an artifact with one blob; equal arguments give equal bytes."""
    config = Descriptor(media_type=MEDIA_EMPTY, digest=Digest.of(EMPTY_CONFIG), size=len(EMPTY_CONFIG))
    bare = Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size)
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "artifactType": artifact_type,
        "config": config.to_json(),
        "layers": [content.to_json()],
        "subject": bare.to_json(),
    }
    if annotations:
        value["annotations"] = dict(annotations)
    return dump_json(value)


def parse_referrer(raw: bytes) -> Referrer:
    """Return what a list of referrers says about an artifact manifest (or index) whose digest has been verified.

    Raises:
        InvalidInputError: when it has no subject.
    """
    document = parse_document(raw)
    if document.subject is None:
        raise InvalidInputError(f"Cannot attach {document.digest}: it names no subject")
    kind = document.artifact_type or ("" if isinstance(document, Index) else document.config.media_type)
    listed = Descriptor(
        media_type=document.media_type,
        digest=document.digest,
        size=len(raw),
        annotations=dict(document.annotations),
        artifact_type=kind,
    )
    return Referrer(listed=listed, subject=document.subject.digest, raw=raw)


def checked_referrers(subject: Digest, documents: Sequence[bytes]) -> tuple[Referrer, ...]:
    """Return what to list for artifact manifests; raise `InvalidInputError` for one with another subject."""
    found = tuple(parse_referrer(raw) for raw in documents)
    for referrer in found:
        if referrer.subject != subject:
            raise InvalidInputError(
                f"Cannot attach {referrer.listed.digest} to {subject}: it is for {referrer.subject}"
            )
    return found


def parse_referrers(raw: bytes, where: str) -> tuple[Descriptor, ...]:
    """Return the entries of a list of referrers.

    Raises:
        InvalidInputError: when it is not an image index of at most 256 entries, naming ``where`` it is.
    """
    try:
        document = parse_document(raw, MEDIA_INDEX)
    except InvalidInputError as error:
        reason = error.message.removeprefix("Cannot read manifest: ")
        raise InvalidInputError(f"Cannot read referrers of {where}: {reason}") from error
    if not isinstance(document, Index):
        raise InvalidInputError(f"Cannot read referrers of {where}: their list is not an image index")
    return ordered(document.manifests, where)


def ordered(entries: Sequence[Descriptor], where: str) -> tuple[Descriptor, ...]:
    """Return entries of lists each once, by artifact type and digest, without what is no manifest."""
    found = {entry.digest: entry for entry in entries if entry.media_type in ACCEPT}
    if len(found) > MAX_REFERRERS:
        raise InvalidInputError(f"Cannot read referrers of {where}: more than {MAX_REFERRERS}")
    return tuple(sorted(found.values(), key=lambda entry: (entry.artifact_type, str(entry.digest))))


def with_referrers(raw: bytes | None, new: Sequence[Descriptor], *, replace: bool, where: str) -> bytes:
    """Return a list of referrers that has ``new`` too; what others listed stays as it was.

    Args:
        raw: The list there is, `None` for none.
        new: What to add.
        replace: Whether entries with the artifact type of a new one go.
        where: The subject, for messages.

    Raises:
        InvalidInputError: when the list there is cannot be read, or becomes too long.
    """
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": []}
    if raw is not None:
        parse_referrers(raw, where)
        value = parse_json(raw, f"referrers of {where}", limit=MAX_MANIFEST_BYTES)
    kinds = {entry.artifact_type for entry in new} if replace else set()
    gone = {str(entry.digest) for entry in new}
    kept = [item for item in value["manifests"] if item["digest"] not in gone and item.get("artifactType") not in kinds]
    items = [*kept, *(entry.to_json() for entry in new)]
    unique = {item["digest"]: item for item in items}
    value["manifests"] = sorted(unique.values(), key=lambda item: (item.get("artifactType") or "", item["digest"]))
    changed = dump_json(value)
    parse_referrers(changed, where)
    return changed
