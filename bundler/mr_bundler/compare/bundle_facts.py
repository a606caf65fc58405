"""Read what a comparison needs to know about a bundle: its file manifest, its recorded lock, its SBOM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packaging.utils import canonicalize_name

from mr_bundler.compare.bundles import BundleFacts
from mr_bundler.compare.locks import Ingredient
from mr_bundler.environment.shim_files import LOCK_PATH
from mr_bundler.lock.lock import parse_lock
from mr_bundler.papers.kinds import MEDIA_SBOM
from mr_bundler.published import PublishedBundle
from mr_bundler.unpack import read_members
from mr_core.decode import Decoder, parse_json
from mr_core.digest import Digest
from mr_core.errors import IntegrityError, InvalidInputError
from mr_core.file_manifest import FILES_PATH, Entry, FileEntry, parse_entries
from mr_core.referrers import MAX_PAPER_BYTES, read_referrer, referrers
from mr_core.store import Source

UNKNOWN = "UNKNOWN"
"""Stands for a licence that a distribution does not name exactly."""
_KIND = "mr-backends:kind"


def read_facts(source: Source, bundle: PublishedBundle) -> BundleFacts:
    """Return the facts; of its layers only the last one is read, which holds its own files.

    Raises:
        IntegrityError: the file manifest is not the one the bundle config names, or other bytes differ.
        InvalidInputError: a part of it is malformed.
    """
    members = read_members(source, bundle.manifest, (FILES_PATH, LOCK_PATH))
    manifest = members.get(FILES_PATH)
    if manifest is None:
        raise InvalidInputError(f"Cannot read `{bundle.place}`: it has no file manifest", hint="tell its publisher")
    if Digest.of(manifest) != bundle.config.contents.digest:
        raise IntegrityError(
            f"Cannot read `{bundle.place}`: its file manifest is not the one its config names",
            hint="do not use this bundle; tell its publisher",
        )
    lock = members.get(LOCK_PATH)
    entries = parse_entries(manifest)
    return BundleFacts(
        bundle=bundle,
        lock=parse_lock(lock, f"lock in `{bundle.place}`") if lock is not None else None,
        entries=entries,
        ingredients=_read_sbom(source, bundle, entries),
    )


def _read_sbom(source: Source, bundle: PublishedBundle, entries: Mapping[str, Entry]) -> dict[str, Ingredient]:
    """Return every distribution its SBOM names, with the size of its files; nothing without an SBOM."""
    papers = referrers(source, bundle.manifest.digest, artifact_type=MEDIA_SBOM)
    if not papers:
        return {}
    what = f"SBOM of `{bundle.place}`"
    value = parse_json(read_referrer(source, papers[0]), what, limit=MAX_PAPER_BYTES)
    read = Decoder(value, what)
    found: dict[str, Ingredient] = {}
    for component in read.tables("components"):
        properties = {item.text("name"): item.text("value", "") for item in component.tables("properties")}
        if properties.get(_KIND) != "distribution":
            continue
        sizes = [entry.size for path in _paths(component) if isinstance(entry := entries.get(path), FileEntry)]
        expressions = [licence.text("expression", "") for licence in component.tables("licenses")]
        found[canonicalize_name(component.text("name"))] = Ingredient(
            version=component.text("version"),
            bytes=sum(sizes),
            licence=next((text for text in expressions if text), UNKNOWN),
        )
    read.finish(hint="attach it anew, or remove it")
    return found


def _paths(component: Decoder) -> Iterator[str]:
    """Yield the files of a component and of the libraries vendored in it."""
    for item in component.table("evidence").tables("occurrences"):
        yield item.text("location")
    for inner in component.tables("components"):
        yield from _paths(inner)
