"""Write the image that Docker's model runner installs as it is today: gzip layers, one top directory ``<backend>/``.

What that program's extractor demands (it is written in Go, on ``archive/tar``), and how it is met:

- an index on top, with ``platform`` on every entry, and one entry for each platform: several accelerators of one
  platform are refused unless ``targets`` chooses, since the program would take whichever comes first;
- gzip layers; it extracts them one after the other into one directory, and makes directories as by ``mkdir -p``, so the
  bundle's layers stay apart, and a new version of the image shares those of distributions that did not change;
- links are made without making their parents, and a link that exists is an error: every layer brings the directories of
  its members first, and no file or link stands in two layers;
- hard links, devices, FIFOs, PAX global headers, whiteouts, and links that are absolute or leave the tree: never there.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mr_bundler.export.reroot import RerootedLayer, check_tree, reroot_layer
from mr_bundler.parallel import Check, run_tasks
from mr_bundler.published import PublishedBundle, read_published
from mr_core.blob_file import FileStream
from mr_core.bundle_config import ANNOTATION_MADE_FROM, ANNOTATION_TARGET, IMAGE_ROOT, BundleConfig
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.durable import host_errors, make_directories, remove_tree
from mr_core.errors import AccessDeniedError, InvalidInputError, NotFoundError, UsageError
from mr_core.events import Cancel, Notice, Phase, Reporter, SafeReporter, Unit, discard
from mr_core.manifest import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    make_index,
    make_manifest,
    parse_document,
)
from mr_core.memory import BytesStream, MemoryStore
from mr_core.platform import Platform
from mr_core.reference import tag_text
from mr_core.store import BlobFile, BlobStream, Source, Store
from mr_core.transfer import TransferResult, transfer

_FORMAT = 1
_ROOT = re.compile(rf"(?<![^=:]){re.escape('/' + IMAGE_ROOT)}(?=[/:]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerImage:
    """The image that was written; ``sent`` is `None` when it was there already."""

    index: Descriptor
    sent: TransferResult | None = None


def model_runner_tag(config: BundleConfig) -> str:
    """Return the tag ``<backend>-<version>``; characters of a version that no tag may have become ``-``."""
    return tag_text(f"{config.backend}-{config.version}")


def check_model_runner(
    source: Source,
    name: str,
    store: Store,
    tag: str = "",
    *,
    targets: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Refuse what `write_model_runner` would refuse before it reads a layer, with the same arguments and errors."""
    bundles = _bundles(source, name, targets)
    if not overwrite:
        _present(store, tag or model_runner_tag(bundles[0].config), bundles)


def write_model_runner(
    source: Source,
    name: str,
    store: Store,
    tag: str = "",
    *,
    scratch: Path,
    targets: Sequence[str] | None = None,
    jobs: int = 2,
    overwrite: bool = False,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> RunnerImage:
    """Rewrite a bundle for Docker's model runner, write it to ``store``, and return its index and what was sent.

    Nothing is done when ``tag`` is there already, made from the same bundles, unless ``overwrite`` is set.

    Args:
        source: Where the bundle is.
        name: An index of targets, or one bundle.
        store: Where the image goes: blobs, then manifests, then the index, then the tag.
        tag: What it is called there; `model_runner_tag` when empty.
        scratch: Directory for the rewritten layers while they are sent; about the size of the compressed bundle.
        targets: Which bundles of the index; there may be one for each platform.
        jobs: Layers that are rewritten or sent at a time.
        overwrite: Whether a tag that means something else may be moved.
        report: Gets the phases ``rewrite``, ``blobs`` and ``publish``.
        cancel: Stops at the next piece of data.

    Raises:
        UsageError: several bundles are for one platform.
        AccessDeniedError: ``tag`` means something else.
        IntegrityError: a layer breaks a rule, or differs from its digest.
    """
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    bundles = _bundles(source, name, targets)
    tag = tag or model_runner_tag(bundles[0].config)
    present = None if overwrite else _present(store, tag, bundles)
    if present is not None:
        report(Notice(code="model-runner-present", message=f"`{tag}` in {store.describe()} is made from this bundle"))
        return RunnerImage(index=present)
    make_directories(scratch)
    with host_errors("write to", scratch):
        place = Path(tempfile.mkdtemp(dir=scratch, prefix="model-runner-"))
    try:
        image = _Rewritten()
        entries = [
            _entry(image, bundle, layers)
            for bundle, layers in zip(
                bundles, _rewrite(source, bundles, place, jobs=jobs, report=report, cancel=cancel), strict=True
            )
        ]
        index = make_index(tuple(entries), _index_annotations(bundles[0]))
        image.put_document(index.raw, MEDIA_INDEX, name=tag)
        sent = transfer(
            image, tag, store, tag, overwrite=overwrite, jobs=jobs, papers=False, report=report, cancel=cancel
        )
        return RunnerImage(
            index=Descriptor(media_type=MEDIA_INDEX, digest=index.digest, size=len(index.raw)), sent=sent
        )
    finally:
        remove_tree(place)


class _Rewritten(MemoryStore):
    """The rewritten image: documents in memory, layers in scratch files."""

    def __init__(self) -> None:
        super().__init__("the rewritten image")
        self._files: dict[Digest, BlobFile] = {}

    def add_layer(self, layer: RerootedLayer) -> None:
        """Let the blob be read from its file."""
        self._files[layer.descriptor.digest] = layer.blob

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """Open a blob at ``offset``."""
        blob = self._files.get(descriptor.digest)
        return super().open_blob(descriptor, offset) if blob is None else FileStream(blob, offset)

    def blob_file(self, descriptor: Descriptor) -> BlobFile | None:
        """Return where a layer lies."""
        return self._files.get(descriptor.digest)


def _bundles(source: Source, name: str, targets: Sequence[str] | None) -> list[PublishedBundle]:
    """Return the bundles of the image, in the order of their platforms, one for each."""
    top = source.resolve(name)
    document = parse_document(source.read_document(top), top.media_type)
    wanted = set(targets or ())
    if isinstance(document, Index):
        entries = {text: entry for entry in document.manifests if (text := entry.annotations.get(ANNOTATION_TARGET))}
        chosen = [str(entry.digest) for text, entry in sorted(entries.items()) if not wanted or text in wanted]
    else:
        chosen = [name]
    bundles = [read_published(source, item, place=source.describe()) for item in chosen]
    named = {str(bundle.config.target): bundle for bundle in bundles}
    if missing := sorted(wanted - named.keys()):
        listed = ", ".join(f"`{text}`" for text in sorted(named)) or "none of them"
        raise NotFoundError(
            f"Cannot find target `{missing[0]}` in `{source.describe()}`", hint=f"of those wanted it has {listed}"
        )
    if not bundles:
        raise InvalidInputError(
            f"Cannot rewrite `{source.describe()}`: its index holds no bundle", hint="name what `mr-bundle build` made"
        )
    platforms: dict[Platform, PublishedBundle] = {}
    for bundle in bundles:
        target = bundle.config.target
        other = platforms.setdefault(target.platform, bundle).config.target
        if other != target:
            raise UsageError(
                f"Cannot rewrite `{source.describe()}` for Docker's model runner: `{other}` and `{target}` are for one "
                "platform, and it cannot tell accelerators apart",
                hint="choose one of them with `--target`",
            )
    return [platforms[platform] for platform in sorted(platforms)]


def _made_from(bundle: PublishedBundle) -> str:
    return f"{_FORMAT} {bundle.manifest.digest}"


def _present(store: Store, tag: str, bundles: Sequence[PublishedBundle]) -> Descriptor | None:
    """Return what ``tag`` means when that is this image already; refuse a tag that means anything else."""
    try:
        top = store.resolve(tag)
    except NotFoundError:
        return None
    document = parse_document(store.read_document(top), top.media_type)
    found = [entry.annotations.get(ANNOTATION_MADE_FROM) for entry in getattr(document, "manifests", ())]
    if found == [_made_from(bundle) for bundle in bundles]:
        return top
    raise AccessDeniedError(
        f"Cannot write `{tag}` to `{store.describe()}`: it is there already, and was not made from this bundle",
        hint="choose another name, or say `--overwrite` to move this one",
        name=tag,
        present=str(top.digest),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """A layer to rewrite, its new top directory, and the most bytes its files may have."""

    layer: Descriptor
    diff_id: Digest
    root: str
    most_bytes: int


def _rewrite(
    source: Source, bundles: Sequence[PublishedBundle], place: Path, *, jobs: int, report: Reporter, cancel: Cancel
) -> list[list[RerootedLayer]]:
    """Return the rewritten layers of every bundle; a layer that several of them have is rewritten once."""
    work: dict[tuple[Digest, str], _Work] = {}
    for bundle in bundles:
        contents = bundle.config.contents
        most = (
            contents.bytes + contents.size + (4 << 20)
        )  # the file manifest lists neither itself nor the bundle config
        for layer, published in zip(bundle.manifest.layers, bundle.layers, strict=True):
            root = bundle.config.backend
            work[layer.digest, root] = _Work(layer, published.diff_id, root, most)
    total = sum(item.layer.size for item in work.values())
    lock = threading.Lock()
    done = 0
    with Phase(report, "rewrite", bundles[0].config.backend, total=total, unit=Unit.BYTES) as phase:

        def advance(size: int) -> None:
            nonlocal done
            with lock:
                done += size
                phase.progress(done)

        def task(item: _Work) -> Callable[[Check], RerootedLayer]:
            def run(check: Check) -> RerootedLayer:
                def step(size: int) -> None:
                    check()
                    advance(size)

                return reroot_layer(
                    source, item.layer, item.diff_id,
                    root=item.root, scratch=place, most_bytes=item.most_bytes, cancel=cancel, advance=step,
                )  # fmt: skip

            return run

        ordered = sorted(work.items(), key=lambda pair: -pair[1].layer.size)
        made = run_tasks([task(item) for _, item in ordered], jobs=jobs, cancel=cancel)
        rewritten = {key: layer for (key, _), layer in zip(ordered, made, strict=True)}
        layers = [
            [rewritten[layer.digest, bundle.config.backend] for layer in bundle.manifest.layers] for bundle in bundles
        ]
        for tree in layers:
            check_tree(tree)
        phase.detail = {"layers": len(made)}
    return layers


def _entry(image: _Rewritten, bundle: PublishedBundle, layers: Sequence[RerootedLayer]) -> Descriptor:
    """Put a rewritten bundle into ``image`` and return its entry in the index."""
    for layer in layers:
        image.add_layer(layer)
    config = _image_config(bundle, layers)
    blob = Descriptor(media_type=MEDIA_CONFIG, digest=Digest.of(config), size=len(config))
    with BytesStream(config) as stream:
        image.put_blob(blob, stream)
    annotations = {**bundle.manifest.annotations, ANNOTATION_MADE_FROM: _made_from(bundle)}
    manifest: Manifest = make_manifest(blob, tuple(layer.descriptor for layer in layers), annotations)
    image.put_document(manifest.raw, MEDIA_MANIFEST)
    return Descriptor(
        media_type=MEDIA_MANIFEST,
        digest=manifest.digest,
        size=len(manifest.raw),
        annotations=annotations,
        platform=bundle.config.target.platform,
    )


def _image_config(bundle: PublishedBundle, layers: Sequence[RerootedLayer]) -> bytes:
    """Return the bundle's image config with new diffIDs, and with paths of the new top directory; labels stay."""
    image: dict[str, Any] = dict(bundle.image)
    settings = {
        key: value if key == "Labels" else _moved(value, bundle.config.backend)
        for key, value in image.get("config", {}).items()
    }
    image["config"] = settings
    image["rootfs"] = {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}
    return dump_json(image)


def _moved(value: Any, root: str) -> Any:
    """Replace the old top directory in texts: whole paths, and paths after ``=`` or ``:`` as in variables."""
    match value:
        case str():
            return _ROOT.sub(f"/{root}", value)
        case list():
            return [_moved(item, root) for item in value]
        case _:
            return value


def _index_annotations(bundle: PublishedBundle) -> dict[str, str]:
    image = "org.opencontainers.image."
    return {f"{image}title": bundle.config.backend, f"{image}version": bundle.config.version}
