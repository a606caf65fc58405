"""Fetch and extract the layers of a bundle into a stage directory, and prove the result against its file manifest.

Layers are fetched in parallel, largest first, and each is extracted as soon as it is complete, while others are still
on their way. A blob is dropped as soon as its layer is on disk, so peak extra disk is a few layers.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import IntegrityError
from mr_core.events import Cancel, Phase, Reporter, Unit
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, UNLISTED, Entry, FileEntry, LinkEntry, parse_entries
from mr_core.retry import RetryPolicy
from mr_core.store import BlobFile, Source
from mr_installer.blobs import BlobStore, HeldBlob
from mr_installer.bundle import Bundle, Layer
from mr_installer.extract import ExtractionPool, LayerJob, LayerResult, Limits, finish_tree

FETCHERS = 4
EXTRACTORS = 2
_POLL_SECONDS = 0.1
_PAPERS = 8
"""Entries of a layer that the bundle config does not count: its papers and the top directory."""


@dataclass(slots=True, kw_only=True)
class StageOptions:
    """How a bundle is staged.

    Attributes:
        fetchers: Parallel downloads.
        extractors: Worker processes; 0 extracts in this process.
        keep_blobs: Whether downloaded blobs stay afterwards.
        retry: How often a broken download is continued.
    """

    fetchers: int = FETCHERS
    extractors: int = EXTRACTORS
    keep_blobs: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def stage_bundle(
    bundle: Bundle,
    source: Source,
    stage: Path,
    blobs: BlobStore,
    *,
    options: StageOptions,
    report: Reporter,
    cancel: Cancel,
) -> None:
    """Fill ``stage`` with the bundle's tree.

    Raises:
        IntegrityError: bytes differ from their digest, a tar entry is refused, or the tree differs from its manifest.
        UnavailableError: the source stopped answering.
        HostError: this machine cannot store it.
        CancelledError: asked to stop.
    """
    with host_errors("create", stage):
        stage.mkdir(mode=0o755)
        stage.chmod(0o755)
    with Phase(report, "extract", total=bundle.config.contents.bytes, unit=Unit.BYTES) as phase:
        run = _Run(bundle, source, stage, blobs, options=options, report=report, phase=phase)
        results = run.all_layers(cancel)
        tree = finish_tree(stage, results, limits=declared_limits(bundle))
        phase.detail["files"] = len(tree)
    with Phase(report, "verify"):
        check_tree(bundle, stage, tree)


class _Run:
    """One staging run: a pool of fetching threads that feeds a pool of extracting processes."""

    def __init__(
        self,
        bundle: Bundle,
        source: Source,
        stage: Path,
        blobs: BlobStore,
        *,
        options: StageOptions,
        report: Reporter,
        phase: Phase,
    ) -> None:
        self._bundle = bundle
        self._source = source
        self._stage = stage
        self._blobs = blobs
        self._options = options
        self._report = report
        self._phase = phase
        self._stop = Cancel()

    def all_layers(self, cancel: Cancel) -> list[LayerResult]:
        """Return the result of every layer; on the first problem everything else is stopped, and it is raised."""
        order = sorted(enumerate(self._bundle.layers), key=lambda item: -item[1].descriptor.size)
        workers = min(self._options.extractors, len(order))
        results: list[LayerResult] = []
        held: dict[Future[LayerResult], HeldBlob | None] = {}
        with (
            ExtractionPool(
                self._stage, workers, progress=self._phase.progress, report=self._report, cancel=self._stop
            ) as pool,
            ThreadPoolExecutor(self._options.fetchers, thread_name_prefix="mr-fetch") as fetchers,
        ):
            fetching: dict[Future[HeldBlob], Layer] = {}
            try:
                for index, layer in order:
                    local = self._source.blob_file(layer.descriptor)
                    if local is not None:
                        held[pool.submit(self._job(layer, local, verified=False))] = None
                    else:
                        fetching[fetchers.submit(self._fetch, index, layer)] = layer
                while fetching or held:
                    cancel.check()
                    pending: list[Future[Any]] = [*fetching, *held]
                    done, _ = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for download in [future for future in fetching if future in done]:
                        layer = fetching.pop(download)
                        blob = download.result()
                        held[pool.submit(self._job(layer, blob.blob, verified=blob.verified))] = blob
                    for extraction in [future for future in held if future in done]:
                        self._finish(extraction, held.pop(extraction), results)
            except BaseException:
                self._stop.set()
                self._abandon(fetching, held)
                raise
        return results

    def _job(self, layer: Layer, blob: BlobFile, *, verified: bool) -> LayerJob:
        return LayerJob(
            blob=blob,
            digest=layer.descriptor.digest,
            diff_id=layer.diff_id,
            compression=layer.compression,
            verified=verified,
            limits=declared_limits(self._bundle),
        )

    def _fetch(self, index: int, layer: Layer) -> HeldBlob:
        label = f"layer {index + 1}/{len(self._bundle.layers)}"
        return self._blobs.fetch(self._source, layer.descriptor, label=label, report=self._report, cancel=self._stop)

    def _finish(self, future: Future[LayerResult], blob: HeldBlob | None, results: list[LayerResult]) -> None:
        try:
            results.append(future.result())
        except BaseException as error:
            if blob is not None:
                if isinstance(error, IntegrityError):
                    blob.drop()  # the next run must not trip over the same bytes
                else:
                    blob.release()
            raise
        if blob is not None:
            if self._options.keep_blobs:
                blob.release()
            else:
                blob.drop()

    def _abandon(
        self, fetching: dict[Future[HeldBlob], Layer], held: dict[Future[LayerResult], HeldBlob | None]
    ) -> None:
        """Wait for what still runs, and leave verified blobs for the next run."""
        for download in fetching:
            if not download.cancel() and download.exception() is None:
                download.result().release()
        for blob in held.values():
            if blob is not None:
                blob.release()


def declared_limits(bundle: Bundle) -> Limits:
    """Return what the bundle config declares: more entries or bytes than that are refused while they are read."""
    contents = bundle.config.contents
    return Limits(
        entries=contents.count + contents.directories + _PAPERS,
        bytes=contents.bytes + contents.size + len(bundle.label),
    )


def check_tree(bundle: Bundle, stage: Path, tree: dict[str, Entry]) -> None:
    """Compare what was extracted with the file manifest, which the bundle config names by digest.

    Raises:
        IntegrityError: naming the first path that differs.
    """
    contents = bundle.config.contents
    listing = tree.get(FILES_PATH)
    label = tree.get(BUNDLE_PATH)
    if not isinstance(listing, FileEntry) or (listing.sha256, listing.size) != (contents.digest.hex, contents.size):
        raise _differs(bundle, FILES_PATH, "the file manifest is not the one that the bundle config names")
    if not isinstance(label, FileEntry) or label.sha256 != Digest.of(bundle.label).hex:
        raise _differs(bundle, BUNDLE_PATH, "it is not the bundle config of the image")
    with host_errors("read", stage / FILES_PATH):
        listed = parse_entries((stage / FILES_PATH).read_bytes())
    if first := first_difference(listed, {path: entry for path, entry in tree.items() if path not in UNLISTED}):
        raise _differs(bundle, *first)
    if extra := sorted(UNLISTED & tree.keys() - {FILES_PATH, BUNDLE_PATH}):
        raise _differs(bundle, extra[0], "only an installer writes this file")


def first_difference(listed: dict[str, Entry], found: dict[str, Entry]) -> tuple[str, str] | None:
    """Return the first path, in order, whose entry differs, and how; `None` when both are equal. Pure."""
    if listed == found:
        return None
    for path in sorted(listed.keys() | found.keys()):
        match listed.get(path), found.get(path):
            case None, _:
                return path, "it is not in the file manifest"
            case _, None:
                return path, "it is missing"
            case FileEntry() as want, FileEntry() as have if want != have:
                return path, _file_difference(want, have)
            case LinkEntry(link=want_link), LinkEntry(link=have_link) if want_link != have_link:
                return path, f"it links to `{have_link}`, not `{want_link}`"
            case want_entry, have_entry if type(want_entry) is not type(have_entry):
                return path, "it is of another kind"
            case _:
                continue
    return None


def _file_difference(want: FileEntry, have: FileEntry) -> str:
    if want.size != have.size:
        return f"it has {have.size} bytes, not {want.size}"
    if want.mode != have.mode:
        return f"its mode is {have.mode:o}, not {want.mode:o}"
    return "its bytes differ"


def _differs(bundle: Bundle, path: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"Cannot install {bundle.config.backend} {bundle.config.version}: `{path}`: {reason}",
        hint="tell its publisher; nothing was installed",
        path=path,
    )
