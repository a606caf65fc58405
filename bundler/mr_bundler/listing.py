"""List what a layout, an archive or a registry name holds."""

from __future__ import annotations

from dataclasses import dataclass

from mr_core.archive import ArchiveSource
from mr_core.bundle_config import ANNOTATION_BYTES, ANNOTATION_TARGET
from mr_core.layout import LayoutStore
from mr_core.manifest import REF_NAME, Descriptor, Index, Manifest, parse_document
from mr_core.store import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedBundle:
    """One bundle: sizes in bytes, compressed and installed."""

    name: str
    target: str
    digest: str
    layers: int
    compressed_bytes: int
    installed_bytes: int


def list_bundles(source: Source, name: str) -> list[ListedBundle]:
    """Return the bundles behind ``name``; without a name, all bundles of a layout or archive."""
    if not name and isinstance(source, LayoutStore | ArchiveSource):
        tops = list(source.names())
    else:
        tops = [source.resolve(name)]
    found: list[ListedBundle] = []
    for top in tops:
        label = top.annotations.get(REF_NAME, name)
        document = parse_document(source.read_document(top), top.media_type)
        match document:
            case Index(manifests=entries):
                found += [_listed(source, label, entry) for entry in entries if entry.platform is not None]
            case Manifest():
                found.append(_describe(label, top, document))
    return found


def _listed(source: Source, name: str, entry: Descriptor) -> ListedBundle:
    document = parse_document(source.read_document(entry), entry.media_type)
    return _describe(name, entry, document) if isinstance(document, Manifest) else _nested(name, entry)


def _describe(name: str, entry: Descriptor, manifest: Manifest) -> ListedBundle:
    notes = {**manifest.annotations, **entry.annotations}
    size = notes.get(ANNOTATION_BYTES, "")
    return ListedBundle(
        name=name,
        target=notes.get(ANNOTATION_TARGET, str(entry.platform or "")),
        digest=str(entry.digest),
        layers=len(manifest.layers),
        compressed_bytes=sum(layer.size for layer in manifest.layers) + manifest.config.size,
        installed_bytes=int(size) if size.isdigit() else 0,
    )


def _nested(name: str, entry: Descriptor) -> ListedBundle:
    return ListedBundle(
        name=name, target="(index)", digest=str(entry.digest), layers=0, compressed_bytes=0, installed_bytes=0
    )
