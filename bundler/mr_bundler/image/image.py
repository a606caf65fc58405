"""Make the OCI documents of a bundle, and write it into a layout beside its other targets."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mr_bundler.image.layers import LayerPlan
from mr_bundler.parallel import Check, run_tasks
from mr_core.blob_file import FileStream
from mr_core.bundle_config import (
    ANNOTATION_ACCELERATOR,
    ANNOTATION_BACKEND,
    ANNOTATION_BYTES,
    ANNOTATION_COUNT,
    ANNOTATION_PYTHON,
    ANNOTATION_REQUIRES,
    ANNOTATION_TARGET,
    IMAGE_ROOT,
    LABEL,
    BundleConfig,
)
from mr_core.bundle_index import bundle_entry, bundle_index
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import BundleError, InvalidInputError, NotFoundError
from mr_core.events import Cancel, Reporter
from mr_core.layout import LayoutStore
from mr_core.manifest import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER_ZSTD,
    MEDIA_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    make_manifest,
    parse_document,
)
from mr_core.memory import BytesStream
from mr_core.referrer_index import fallback_name
from mr_core.store import BlobFile

_IMAGE = "org.opencontainers.image."


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayer:
    """A layer of the image: what is in it, its blob, and the digest and size of its tar."""

    plan: LayerPlan
    blob: BlobFile
    digest: Digest
    diff_id: Digest
    bytes: int
    cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The documents of one bundle; its layers are elsewhere."""

    config: bytes
    manifest: Manifest
    entry: Descriptor


def creation_time(environ: Mapping[str, str], default: str) -> str:
    """Return when the image counts as created: ``SOURCE_DATE_EPOCH`` when it is set, else ``default``.

    Raises:
        InvalidInputError: when the variable is not a number of seconds.
    """
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise InvalidInputError(
            f"Cannot read SOURCE_DATE_EPOCH: `{text[:40]}` is not a number of seconds since 1970",
            hint="set it to what `date +%s` prints, or leave it away",
        )
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_image(config: BundleConfig, layers: Sequence[PackedLayer], *, created: str) -> Image:
    """Return the documents of the bundle; equal arguments give equal bytes."""
    platform = config.target.platform
    described = {
        f"{_IMAGE}title": config.backend,
        f"{_IMAGE}version": config.version,
        f"{_IMAGE}created": created,
        f"{_IMAGE}licenses": config.license,
        f"{_IMAGE}url": config.homepage,
        f"{_IMAGE}description": config.summary,
    }
    described = {key: text for key, text in described.items() if text}
    image_config = dump_json(
        {
            "architecture": platform.architecture,
            "config": {
                "Entrypoint": [f"/{IMAGE_ROOT}/bin/mr-serve"],
                "Labels": {**described, LABEL: config.dump().decode()},
            },
            "created": created,
            "history": [_history(layer, created) for layer in layers],
            "os": platform.os,
            "rootfs": {"diff_ids": [str(layer.diff_id) for layer in layers], "type": "layers"},
        }
    )
    annotations = {
        **described,
        ANNOTATION_BACKEND: config.backend,
        ANNOTATION_TARGET: str(config.target),
        ANNOTATION_ACCELERATOR: config.target.accelerator,
        ANNOTATION_BYTES: str(config.contents.bytes),
        ANNOTATION_COUNT: str(config.contents.count),
        ANNOTATION_REQUIRES: dump_json(config.requires.to_json()).decode(),
        ANNOTATION_PYTHON: config.python_version,
    }
    manifest = make_manifest(
        Descriptor(media_type=MEDIA_CONFIG, digest=Digest.of(image_config), size=len(image_config)),
        tuple(_descriptor(layer) for layer in layers),
        annotations,
    )
    return Image(config=image_config, manifest=manifest, entry=bundle_entry(manifest))


def store_image(
    store: LayoutStore,
    image: Image,
    layers: Sequence[PackedLayer],
    *,
    jobs: int,
    report: Reporter,
    cancel: Cancel,
) -> None:
    """Write the blobs of a bundle and its manifest, which nothing names yet; damaged ones are written anew."""

    def put(layer: PackedLayer) -> None:
        remove_damaged(store, _descriptor(layer))
        with FileStream(layer.blob) as stream:
            store.put_blob(_descriptor(layer), stream, report=report, cancel=cancel)

    def task(layer: PackedLayer) -> Callable[[Check], None]:
        return lambda _: put(layer)

    run_tasks([task(layer) for layer in layers], jobs=jobs, cancel=cancel)
    remove_damaged(store, image.manifest.config)
    with BytesStream(image.config) as stream:
        store.put_blob(image.manifest.config, stream)
    store.put_document(image.manifest.raw, MEDIA_MANIFEST)


def is_intact(store: LayoutStore, blob: Descriptor) -> bool:
    """Whether the blob lies in the layout with the bytes it should have: it is read whole."""
    try:
        with store.open_blob(blob) as stream:
            return Digest.of_file(stream) == blob.digest
    except BundleError:
        return False


def remove_damaged(store: LayoutStore, blob: Descriptor) -> None:
    """Remove a blob that has its size but not its bytes: a layout takes such a one for present."""
    if store.has_blob(blob) and not is_intact(store, blob):
        damaged = store.blob_file(blob).path
        with host_errors("remove", damaged):
            damaged.unlink(missing_ok=True)


def name_image(store: LayoutStore, image: Image, config: BundleConfig) -> Descriptor:
    """Write the index of the bundle's version, with its other targets, under its name; return the index.

    The papers of a bundle that this one replaces are not listed any more, unless something else names it.

    Raises:
        InvalidInputError: when the name belongs to something that is not an index.
    """
    name = reference_name(config.backend, config.version)
    with store.exclusive():
        before = index_entries(store, name)
        others = [entry for entry in before if entry.annotations.get(ANNOTATION_TARGET) != str(config.target)]
        index = bundle_index([*others, image.entry])
        named = store.put_document(index.raw, MEDIA_INDEX, name=name, overwrite=True)
        for entry in before:
            if not _is_named(store, entry.digest):
                store.remove_name(fallback_name(entry.digest))
        return named


def forget_papers(store: LayoutStore, image: Image) -> None:
    """Take papers of an image that was not named after all out of the layout's index."""
    with contextlib.suppress(BundleError):  # the cause counts
        if not _is_named(store, image.manifest.digest):
            store.remove_name(fallback_name(image.manifest.digest))


def _is_named(store: LayoutStore, digest: Digest) -> bool:
    """Whether an entry of the layout's index, or of an index it names, is the manifest ``digest``."""
    for top in store.names():
        if top.digest == digest:
            return True
        if top.media_type == MEDIA_INDEX:
            document = parse_document(store.read_document(top), top.media_type)
            if isinstance(document, Index) and any(entry.digest == digest for entry in document.manifests):
                return True
    return False


def reference_name(backend: str, version: str) -> str:
    """Return the name of a bundle version in a layout's index."""
    return f"{backend}-{version}"


def find_target(store: LayoutStore, name: str, target: str) -> Descriptor | None:
    """Return the entry of ``target`` in the index called ``name``, when there is one and all its blobs lie there."""
    try:
        entry = next(
            entry for entry in index_entries(store, name) if entry.annotations.get(ANNOTATION_TARGET) == target
        )
        document = parse_document(store.read_document(entry), entry.media_type)
    except (StopIteration, NotFoundError, InvalidInputError):
        return None
    if not isinstance(document, Manifest):
        return None
    return entry if all(store.has_blob(blob) for blob in (document.config, *document.layers)) else None


def index_entries(store: LayoutStore, name: str) -> tuple[Descriptor, ...]:
    """Return the entries of the index called ``name``, none when nothing is called so.

    Raises:
        InvalidInputError: when the name belongs to something that is not an index.
    """
    try:
        top = store.resolve(name)
    except NotFoundError:
        return ()
    document = parse_document(store.read_document(top), top.media_type)
    if not isinstance(document, Index):
        raise InvalidInputError(
            f"Cannot write `{name}` to `{store.describe()}`: this name belongs to a single image",
            hint="choose another layout directory",
        )
    return document.manifests


def _descriptor(layer: PackedLayer) -> Descriptor:
    return Descriptor(media_type=MEDIA_LAYER_ZSTD, digest=layer.digest, size=layer.blob.size)


def _history(layer: PackedLayer, created: str) -> dict[str, str]:
    return {"created": created, "created_by": f"mr-bundle: {layer.plan.name}", "comment": ", ".join(layer.plan.owners)}
