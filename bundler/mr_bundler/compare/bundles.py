"""Compare two published bundles: what they are made of, their files, and the layers a client still has to fetch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mr_bundler.compare.files import compare_files
from mr_bundler.compare.locks import Ingredient, LockDifference, compare_compositions, compose_config
from mr_bundler.lock.lock import Lock
from mr_bundler.published import PublishedBundle, PublishedLayer
from mr_core.digest import Digest
from mr_core.file_manifest import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """A bundle with what its last layer and its papers say.

    Attributes:
        lock: Recorded in the bundle; None in bundles of older tools.
        entries: Its file manifest.
        ingredients: What its SBOM knows of each distribution; empty without one.
    """

    bundle: PublishedBundle
    lock: Lock | None
    entries: Mapping[str, Entry]
    ingredients: Mapping[str, Ingredient]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSide:
    """A layer that only one bundle has, or that both share; ``size`` of its blob in bytes."""

    name: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """The layers of two bundles.

    Attributes:
        only_old: Layers that only the first has, in its order.
        only_new: Layers that only the second has, in its order.
        fetch_bytes: What a client that has the first fetches for the second: layers and image config.
        new_bytes: What a client that has nothing fetches for the second.
    """

    shared: tuple[LayerSide, ...]
    only_old: tuple[LayerSide, ...]
    only_new: tuple[LayerSide, ...]
    fetch_bytes: int
    new_bytes: int

    @property
    def fetch_share(self) -> float:
        """``fetch_bytes`` as a part of ``new_bytes``, between 0 and 1."""
        return self.fetch_bytes / self.new_bytes if self.new_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """How many files and links differ; bytecode counts too."""

    added: int
    removed: int
    changed: int
    same: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SizePair:
    """A size in bytes on both sides."""

    old: int
    new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleDifference:
    """What differs between two bundles; ``made_of`` is as between two locks.

    Attributes:
        identical: Whether they are one bundle: the same manifest digest.
        installed: Sum of the sizes of all files.
        compressed: Layers and image config.
        unsaid: Kinds of facts that at least one side does not tell, such as ``licences``.
    """

    old_digest: Digest
    new_digest: Digest
    made_of: LockDifference
    files: FileCounts
    installed: SizePair
    compressed: SizePair
    layers: LayerDifference
    unsaid: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether the two are one bundle."""
        return self.old_digest == self.new_digest


def compare_bundles(old: BundleFacts, new: BundleFacts) -> BundleDifference:
    """Return what differs, for people who decide on an upgrade."""
    changes = compare_files(old.entries, new.entries)
    kinds = [change.kind for change in changes]
    changed = sum(kind not in {"added", "removed"} for kind in kinds)
    unsaid = []
    if not (old.ingredients and new.ingredients):
        unsaid.append("licences and sizes of distributions: a bundle without an SBOM")
    return BundleDifference(
        old_digest=old.bundle.manifest.digest,
        new_digest=new.bundle.manifest.digest,
        made_of=compare_compositions(
            compose_config(old.bundle.config, old.lock, old.ingredients),
            compose_config(new.bundle.config, new.lock, new.ingredients),
        ),
        files=FileCounts(
            added=kinds.count("added"),
            removed=kinds.count("removed"),
            changed=changed,
            same=len(new.entries) - kinds.count("added") - changed,
        ),
        installed=SizePair(old=old.bundle.config.contents.bytes, new=new.bundle.config.contents.bytes),
        compressed=SizePair(old=old.bundle.compressed_bytes, new=new.bundle.compressed_bytes),
        layers=compare_layers(old.bundle, new.bundle),
        unsaid=tuple(unsaid),
    )


def compare_layers(old: PublishedBundle, new: PublishedBundle) -> LayerDifference:
    """Return which layers are shared: a client keeps blobs by their digest, so only equal blobs are not fetched."""
    before = {layer.digest: layer for layer in old.layers}
    after = {layer.digest: layer for layer in new.layers}
    only_new = tuple(_side(layer) for digest, layer in after.items() if digest not in before)
    same_config = old.manifest.config.digest == new.manifest.config.digest
    config = 0 if same_config else new.manifest.config.size
    return LayerDifference(
        shared=tuple(_side(layer) for digest, layer in after.items() if digest in before),
        only_old=tuple(_side(layer) for digest, layer in before.items() if digest not in after),
        only_new=only_new,
        fetch_bytes=sum(layer.size for layer in only_new) + config,
        new_bytes=sum(layer.size for layer in after.values()) + new.manifest.config.size,
    )


def _side(layer: PublishedLayer) -> LayerSide:
    return LayerSide(name=layer.name, digest=layer.digest, size=layer.size)
