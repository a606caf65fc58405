"""Read what describes a published bundle, wherever it lies: its manifest, image config and bundle config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mr_core.bundle_config import ANNOTATION_MADE_FROM, ANNOTATION_TARGET, LABEL, BundleConfig, parse_bundle_config
from mr_core.decode import Decoder, parse_json
from mr_core.digest import Digest
from mr_core.errors import InvalidInputError, NotFoundError, UsageError
from mr_core.manifest import Descriptor, Index, Manifest, parse_document
from mr_core.platform import Platform, Target
from mr_core.store import Source

_MOST_NESTING = 2
_LAYER_BY = "mr-bundle: "
"""How `mr_bundler.image.image` begins the ``created_by`` of a layer's history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLayer:
    """A layer as its image describes it; ``size`` is that of its blob in bytes.

    Attributes:
        name: What the packer called it: ``interpreter``, a distribution, ``group 3``, ``bundle``; else ``layer 4``.
        owners: Distributions in it, or ``(interpreter)`` and the like; empty when the image does not say.
        diff_id: Digest of its tar, whatever compressed it.
    """

    name: str
    owners: tuple[str, ...]
    digest: Digest
    diff_id: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBundle:
    """One bundle in a source, without the bytes of its layers.

    Attributes:
        place: The location it was read from, for messages.
        descriptor: Of its manifest.
        image: The image config as plain values.
        created: Time in the image config, ``YYYY-MM-DDTHH:MM:SSZ``; empty when it has none.
    """

    place: str
    descriptor: Descriptor
    manifest: Manifest
    image: Mapping[str, Any]
    config: BundleConfig
    created: str
    layers: tuple[PublishedLayer, ...]

    @property
    def compressed_bytes(self) -> int:
        """What a client without anything fetches: all layers and the image config."""
        return sum(layer.size for layer in self.layers) + self.manifest.config.size


def read_published(source: Source, name: str, *, place: str, target: Target | None = None) -> PublishedBundle:
    """Return the bundle that ``name`` means in ``source``.

    An index of several targets needs ``target``; without it, the only target, or the only one for this host, is meant.

    Raises:
        NotFoundError: there is nothing of that name, or not this target.
        UsageError: the index holds several targets, and it is not clear which one is meant.
        InvalidInputError: it is no bundle of this project.
        IntegrityError: a document differs from its digest.
    """
    entry = source.resolve(name)
    document = parse_document(source.read_document(entry), entry.media_type)
    for _ in range(_MOST_NESTING):
        if isinstance(document, Manifest):
            break
        entry = _choose(document, target, place)
        document = parse_document(source.read_document(entry), entry.media_type)
    if not isinstance(document, Manifest):
        raise InvalidInputError(f"Cannot read `{place}`: indexes are nested too deeply", hint="name one bundle in it")
    bundle = _describe(source, entry, document, place)
    if target is not None and bundle.config.target != target:
        raise NotFoundError(
            f"Cannot find target `{target}` in `{place}`: it is a bundle for `{bundle.config.target}`",
            hint="leave `--target` away, or name the index of all targets",
        )
    return bundle


def _choose(index: Index, target: Target | None, place: str) -> Descriptor:
    entries = {text: entry for entry in index.manifests if (text := entry.annotations.get(ANNOTATION_TARGET, ""))}
    named = ", ".join(f"`{text}`" for text in sorted(entries))
    if not entries:
        if len(index.manifests) == 1:
            return index.manifests[0]
        raise InvalidInputError(
            f"Cannot read `{place}`: its index names no target", hint="name one bundle by its digest"
        )
    if target is not None:
        if str(target) not in entries:
            raise NotFoundError(
                f"Cannot find target `{target}` in `{place}`: it has {named}",
                hint="choose one of these with `--target`",
            )
        return entries[str(target)]
    if len(entries) == 1:
        return next(iter(entries.values()))
    here = [entry for text, entry in entries.items() if text.startswith(f"{Platform.host()}+")]
    if len(here) != 1:
        raise UsageError(
            f"Cannot choose a bundle in `{place}`: it has {named}", hint="add `--target` with one of these"
        )
    return here[0]


def _describe(source: Source, entry: Descriptor, manifest: Manifest, place: str) -> PublishedBundle:
    if made_from := manifest.annotations.get(ANNOTATION_MADE_FROM):
        raise InvalidInputError(
            f"Cannot read `{place}`: it is the model runner's image of a bundle, not the bundle",
            hint=f"the bundle is {made_from[:100].rpartition(' ')[2]}",
        )
    what = f"image config of `{place}`"
    image = parse_json(source.read_blob(manifest.config), what, limit=16 << 20)
    read = Decoder(image, what)
    labels = read.table("config").table("Labels")
    if not labels.has(LABEL):
        raise InvalidInputError(
            f"Cannot read `{place}`: it is an image, but no bundle of this project: it has no label `{LABEL}`",
            hint="name a bundle that `mr-bundle build` made",
        )
    label = labels.text(LABEL, limit=4 << 20)
    diff_ids = read.table("rootfs").texts("diff_ids")
    if len(diff_ids) != len(manifest.layers):
        read.problem(f"{len(diff_ids)} diffIDs for {len(manifest.layers)} layers", "rootfs")
    created = read.text("created", "")
    history = [(step.text("created_by", ""), step.text("comment", "")) for step in read.tables("history")]
    read.finish(hint="tell the publisher of this bundle")
    if len(history) != len(manifest.layers):  # another tool's history may hold steps without a layer
        history = [("", "")] * len(manifest.layers)
    return PublishedBundle(
        place=place,
        descriptor=entry,
        manifest=manifest,
        image=image,
        config=parse_bundle_config(label.encode(), f"bundle config of `{place}`"),
        created=created,
        layers=tuple(
            PublishedLayer(
                name=by.removeprefix(_LAYER_BY) if by.startswith(_LAYER_BY) else f"layer {number}",
                owners=tuple(owner for owner in comment.split(", ") if owner),
                digest=layer.digest,
                diff_id=Digest.parse(diff_id, f"diffID {number} of `{place}`"),
                size=layer.size,
            )
            for number, (layer, diff_id, (by, comment)) in enumerate(
                zip(manifest.layers, diff_ids, history, strict=True), start=1
            )
        ),
    )
