"""Small images with the annotations of a bundle, for several targets under one index, with papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mr_core.bundle_config import ANNOTATION_ACCELERATOR, ANNOTATION_BACKEND, ANNOTATION_BYTES, ANNOTATION_TARGET
from mr_core.bundle_index import TITLE, VERSION, bundle_entry, bundle_index
from mr_core.digest import Digest
from mr_core.manifest import MEDIA_INDEX, MEDIA_MANIFEST, Descriptor, Manifest, make_manifest, parse_document
from mr_core.memory import BytesStream
from mr_core.referrers import attach, referrers
from mr_core.store import Source, Store
from support.small_image import SmallImage, small_image

CPU, METAL, ARM = "linux/amd64+cpu", "darwin/arm64+metal", "linux/arm64+cpu"
SBOM, NOTE, SIGNATURE = "application/vnd.cyclonedx+json", "application/vnd.example.note", "application/vnd.example.sig"


def small_bundle(
    target: str = CPU, *, backend: str = "tiny", version: str = "1.0", filler: int = 0, text: str = ""
) -> SmallImage:
    """Return a bundle whose layers depend on target, version and ``text``."""
    image = small_image(f"{target} {version} {text}", filler=filler)
    (config, _), *layers = image.blobs
    annotations = {
        TITLE: backend,
        VERSION: version,
        ANNOTATION_BACKEND: backend,
        ANNOTATION_TARGET: target,
        ANNOTATION_ACCELERATOR: target.partition("+")[2],
        ANNOTATION_BYTES: "12",
    }
    manifest = make_manifest(config, tuple(layer for layer, _ in layers), annotations)
    return dataclasses.replace(image, manifest=manifest.raw, index=bundle_index([bundle_entry(manifest)]).raw)


def write_bundles(store: Store, name: str, bundles: Sequence[SmallImage], *, papers: bool = True) -> Descriptor:
    """Write bundles under one index, as a build of all targets does: manifests get a signed SBOM, the index a note."""
    for bundle in bundles:
        for blob, content in bundle.blobs:
            store.put_blob(blob, BytesStream(content))
        store.put_document(bundle.manifest, MEDIA_MANIFEST)
    index = bundle_index([bundle_entry(_manifest(bundle)) for bundle in bundles])
    top = store.put_document(index.raw, MEDIA_INDEX, name=name)
    if papers:
        for bundle in bundles:
            bill = attach_text(store, bundle.manifest_descriptor, SBOM, "{}")
            attach_text(store, bill, SIGNATURE, "signed")
            attach_text(store, bundle.manifest_descriptor, NOTE, "built here")
        attach_text(store, top, NOTE, "all targets")
    return top


def attach_text(store: Store, subject: Descriptor, kind: str, text: str) -> Descriptor:
    return attach(store, subject, artifact_type=kind, media_type="text/plain", content=text.encode())


def walk(source: Source, name: str) -> dict[str, str]:
    """Read everything behind a name, papers included, and return the kind of each digest; fail when it is not whole."""
    found: dict[str, str] = {}

    def visit(entry: Descriptor) -> None:
        document = parse_document(source.read_document(entry), entry.media_type)
        found[str(entry.digest)] = document.artifact_type or document.media_type
        if isinstance(document, Manifest):
            for blob in (document.config, *document.layers):
                content = source.read_blob(blob)
                assert Digest.of(content) == blob.digest
                found[str(blob.digest)] = "blob"
        else:
            for child in document.manifests:
                visit(child)
        for paper in referrers(source, entry.digest):
            visit(paper)

    visit(source.resolve(name))
    return found


def _manifest(bundle: SmallImage) -> Manifest:
    document = parse_document(bundle.manifest)
    assert isinstance(document, Manifest)
    return document
