"""Unpack a bundle with the installer's strict reader, or read a few small files out of its last layer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.parallel import Check, run_tasks
from mr_core.bundle_config import IMAGE_ROOT, LABEL, BundleConfig, parse_bundle_config
from mr_core.compression import open_decompressor
from mr_core.decode import Decoder, parse_json
from mr_core.digest import CHUNK, Digest
from mr_core.durable import host_errors
from mr_core.errors import IntegrityError, InvalidInputError, UnsupportedError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Phase, Reporter, SafeReporter, Unit, discard
from mr_core.file_manifest import Entry
from mr_core.manifest import LAYER_COMPRESSION, Descriptor, Manifest
from mr_core.reader import VerifyingReader
from mr_core.resuming import ResumingStream
from mr_core.store import BlobFile, Source
from mr_installer.extract import ExtractionPool, LayerJob, LayerResult, Limits, finish_tree
from mr_installer.extract.tar_reader import TarReader

_MOST_CONFIG_BYTES = 16 << 20
_MOST_MEMBER_BYTES = 256 << 20
_FETCHERS = 4
_POLL_SECONDS = 0.1
_PAPERS = 8
"""Entries of a layer that the bundle config does not count: its papers and the top directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    descriptor: Descriptor
    diff_id: Digest
    compression: str
    limits: Limits


def unpack_bundle(
    source: Source,
    manifest: Manifest,
    destination: Path,
    *,
    jobs: int | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> dict[str, Entry]:
    """Extract all layers below ``destination``, which is created, and return every file and link of the tree.

    Memory is constant. A layer that lies elsewhere is fetched beside ``destination`` first, a few at a time, and
    removed once it is extracted.

    Raises:
        IntegrityError: bytes differ from their digest, or a tar entry breaks a rule of the installer.
        InvalidInputError: it is no image of a bundle.
        UnavailableError: the source stopped answering.
        HostError: this machine cannot store it.
        CancelledError: asked to stop; what was extracted so far stays.
    """
    report, cancel = SafeReporter(report), cancel or Cancel()
    config, layers = _read_layers(source, manifest)
    jobs = jobs or os.cpu_count() or 1
    with host_errors("create", destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.mkdir()
    order = sorted(layers, key=lambda layer: -layer.descriptor.size)
    with host_errors("write below", destination.parent):
        scratch = Path(tempfile.mkdtemp(dir=destination.parent, prefix="mr-blobs-"))
    try:
        with (
            Phase(report, "unpack", total=config.contents.bytes, unit=Unit.BYTES) as phase,
            ExtractionPool(
                destination, min(jobs, len(order)), progress=phase.progress, report=report, cancel=cancel
            ) as pool,
        ):
            tasks = [_task(source, layer, pool, scratch / str(number), report) for number, layer in enumerate(order)]
            results = run_tasks(tasks, jobs=max(_FETCHERS, jobs), cancel=cancel)
            tree = finish_tree(destination, results, limits=_limits(config))
            phase.detail["files"] = len(tree)
        return tree
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_members(source: Source, manifest: Manifest, paths: Collection[str]) -> dict[str, bytes]:
    """Return the content of those of ``paths`` that are files of the last layer, where a bundle's own files lie.

    Nothing is written, and no other layer is read. The bytes are verified before any of them is returned.

    Raises:
        IntegrityError: bytes differ from their digest, or a tar entry breaks a rule of the installer.
        InvalidInputError: it is no image of a bundle, or a file has more than 256 MiB.
    """
    _, layers = _read_layers(source, manifest)
    if not layers:
        return {}
    layer = layers[-1]
    hasher = layer.diff_id.hasher()
    found: dict[str, bytes] = {}
    with ResumingStream(source, layer.descriptor) as stream:
        blob = VerifyingReader(stream, layer.descriptor.digest, layer.descriptor.size, what="layer")
        decoder = open_decompressor(layer.compression)

        def chunks() -> Iterator[bytes]:
            while part := blob.read(CHUNK):
                for chunk in decoder.feed(part):
                    hasher.update(chunk)
                    yield chunk
            decoder.finish()

        reader = TarReader(chunks(), root=IMAGE_ROOT, limits=layer.limits)
        for member in reader.members():
            if member.path not in paths:
                for _ in reader.content():
                    pass
                continue
            if member.size > _MOST_MEMBER_BYTES:
                raise InvalidInputError(f"Cannot read `{member.path}`: it has {member.size} bytes")
            found[member.path] = b"".join(reader.content())
        blob.finish()
    if hasher.hexdigest() != layer.diff_id.hex:
        raise IntegrityError(
            f"Cannot read layer `{layer.descriptor.digest}`: its uncompressed bytes have another digest than announced",
            hint="do not use this bundle; tell its publisher",
        )
    return found


def _read_layers(source: Source, manifest: Manifest) -> tuple[BundleConfig, tuple[_Layer, ...]]:
    what = f"image config {manifest.config.digest}"
    read = Decoder(
        parse_json(source.read_blob(manifest.config, limit=_MOST_CONFIG_BYTES), what, limit=_MOST_CONFIG_BYTES), what
    )
    label = read.table("config").table("Labels").text(LABEL, "", limit=4 << 20)
    diff_ids = read.table("rootfs").texts("diff_ids")
    if not label:
        read.problem(f"it has no label `{LABEL}`, so it is no bundle of this project")
    if len(diff_ids) != len(manifest.layers):
        read.problem(f"{len(diff_ids)} diff ids for {len(manifest.layers)} layers", "rootfs")
    read.finish(hint="name a bundle that `mr-bundle build` made")
    config = parse_bundle_config(label.encode("utf-8", "surrogatepass"))
    layers = []
    for number, (descriptor, text) in enumerate(zip(manifest.layers, diff_ids, strict=True)):
        compression = LAYER_COMPRESSION.get(descriptor.media_type)
        if compression is None:
            raise UnsupportedError(
                f"Cannot read layer {number + 1}: its media type `{descriptor.media_type[:100]}` is not known"
            )
        diff_id = Digest.parse(text, f"diff id {number + 1}")
        layers.append(_Layer(descriptor=descriptor, diff_id=diff_id, compression=compression, limits=_limits(config)))
    return config, tuple(layers)


def _limits(config: BundleConfig) -> Limits:
    """Return what the bundle config declares: more entries or bytes than that are refused while they are read."""
    contents = config.contents
    return Limits(
        entries=contents.count + contents.directories + _PAPERS,
        bytes=contents.bytes + contents.size + len(config.dump()) + (1 << 20),
    )


def _task(
    source: Source, layer: _Layer, pool: ExtractionPool, place: Path, report: Reporter
) -> Callable[[Check], LayerResult]:
    def run(check: Check) -> LayerResult:
        check()
        blob = source.blob_file(layer.descriptor)
        fetched = blob is None
        if blob is None:
            blob = _fetch(source, layer.descriptor, place, report, check)
        job = LayerJob(
            blob=blob,
            digest=layer.descriptor.digest,
            diff_id=layer.diff_id,
            compression=layer.compression,
            strip=IMAGE_ROOT,
            verified=fetched,
            limits=layer.limits,
        )
        try:
            return _wait(pool.submit(job), check)
        finally:
            if fetched:
                blob.path.unlink(missing_ok=True)

    return run


def _fetch(source: Source, descriptor: Descriptor, place: Path, report: Reporter, check: Check) -> BlobFile:
    with ResumingStream(source, descriptor) as stream, host_errors("write", place), place.open("xb") as file:
        reader = VerifyingReader(stream, descriptor.digest, descriptor.size, what="layer")
        while chunk := reader.read(CHUNK):
            check()
            file.write(chunk)
            report(BlobProgress(digest=str(descriptor.digest), offset=reader.position, total=descriptor.size))
        reader.finish()
    report(BlobFinished(digest=str(descriptor.digest), total=descriptor.size))
    return BlobFile(path=place, size=descriptor.size)


def _wait(future: Future[LayerResult], check: Check) -> LayerResult:
    while True:
        try:
            return future.result(timeout=_POLL_SECONDS)
        except TimeoutError:
            check()
