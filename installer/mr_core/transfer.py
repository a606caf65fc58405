"""Copy a bundle from one store to another: blobs, then manifests and their papers, then the index, then the name.

So whoever resolves the name finds everything behind it, at any moment and after any failure. What is there already is
not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mr_core.bundle_config import ANNOTATION_TARGET
from mr_core.bundle_index import bundle_name
from mr_core.digest import Digest
from mr_core.errors import IntegrityError, UsageError
from mr_core.events import Cancel, Outcome, Phase, Reporter, SafeReporter, Unit, discard
from mr_core.manifest import REF_NAME, Descriptor, Index, parse_document
from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.retry import RetryPolicy
from mr_core.store import NO_ANNOTATIONS, Source, Store, check_move
from mr_core.transfer_blobs import BlobCounter, BlobSender
from mr_core.transfer_content import Content, collect


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferResult:
    """What was copied; sizes in bytes.

    Attributes:
        name: What it is called there, empty for what can be reached by its digest only.
        target: What the bundle is for, empty for an index.
        papers: How many artifacts that refer to it were copied or were there.
        blobs_mounted: Blobs that the registry took over from another repository, so that no byte was sent.
    """

    digest: Digest
    media_type: str
    name: str
    target: str = ""
    documents: int
    papers: int = 0
    blobs_pushed: int
    bytes_pushed: int
    blobs_mounted: int = 0
    bytes_mounted: int = 0
    blobs_skipped: int
    bytes_skipped: int


def transfer(
    source: Source,
    name: str,
    store: Store,
    destination_name: str,
    *,
    overwrite: bool = False,
    jobs: int = 4,
    retry: RetryPolicy | None = None,
    papers: bool = True,
    targets: Sequence[str] | None = None,
    mount_from: Sequence[str] = (),
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> TransferResult:
    """Copy what ``name`` means in ``source`` to ``destination_name`` in ``store``, byte for byte, and read it back.

    Args:
        source: Where it is.
        name: A name or digest there; empty for the only entry of a layout.
        store: Where it goes.
        destination_name: A tag or reference name there; empty keeps the name it has in a layout, or else
            makes it ``<backend>-<version>``.
        overwrite: Whether an existing name that means something else may be moved.
        jobs: How many blobs are sent at a time.
        retry: How often a broken blob transfer is begun again.
        papers: Whether what refers to the manifests and the index (SBOM, provenance, signatures) goes with them.
        targets: Copy only the bundles for these targets, under a new index; `None` for all.
        mount_from: Repositories of the destination's registry that may have some of the blobs. That of the source
            need not be named.
        report: Gets the phases ``inspect``, ``blobs`` and ``publish``, and the progress of each blob.
        cancel: Stops at the next piece of data, or when a stalled connection times out.

    Raises:
        AccessDeniedError: when ``destination_name`` means something else already; nothing has been sent then.
        IntegrityError: when bytes of the source differ from their digest, or ``destination_name`` is another digest.
        NotFoundError: when ``name``, something behind it, or one of ``targets`` is not there.
        UnavailableError: when either side fails for too long; running it again sends only what is missing.
    """
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    with Phase(report, "inspect", source.describe()):
        top = source.resolve(name)
        target = destination_name or top.annotations.get(REF_NAME, "") or _own_name(source, top)
        if not target:
            raise UsageError(
                f"Cannot copy {top.digest} to `{store.describe()}`: it has no name, and none was given",
                hint=f"name it: `{store.describe()}:NAME`",
            )
        if targets is None:
            _check_digest(store, target, top.digest)
        content = collect(source, top, targets=targets, papers=papers, cancel=cancel)
        _check_digest(store, target, content.top.digest)
    if not overwrite:
        with Phase(report, "inspect", store.describe()):
            check_move(store, target, content.top.digest)
    outcomes = _send_blobs(
        source, store, content, mount_from=mount_from, jobs=jobs, retry=retry, report=report, cancel=cancel
    )
    with Phase(report, "publish", f"{store.describe()}:{target}"):
        annotations = {key: value for key, value in top.annotations.items() if key != REF_NAME}
        _publish(store, content, target, overwrite=overwrite, annotations=annotations, cancel=cancel)
        _read_back(store, target, content.raw)
    return _result(content, target, outcomes)


def transfer_by_digest(
    source: Source,
    name: str,
    store: Store,
    *,
    targets: Sequence[str] | None = None,
    jobs: int = 4,
    retry: RetryPolicy | None = None,
    papers: bool = True,
    mount_from: Sequence[str] = (),
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> tuple[TransferResult, ...]:
    """Copy bundles and their papers, but no index and no name: they can be reached by their digests only.

    So jobs that each build a target can push it, and one job makes the index of all of them.

    Args:
        source: Where they are.
        name: An index or a manifest there.
        store: Where they go.
        targets: Which bundles of the index; `None` for all.
        jobs: See `transfer`, as for all others.
        retry: See there.
        papers: See there.
        mount_from: See there.
        report: See there.
        cancel: See there.

    Returns:
        One result for each bundle, in the order of the index.

    Raises:
        BundleError: as `transfer`.
    """
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    results = []
    with Phase(report, "inspect", source.describe()):
        tops = _bundles(source, source.resolve(name), targets)
        contents = [collect(source, top, targets=None, papers=papers, cancel=cancel) for top in tops]
    for content in contents:
        outcomes = _send_blobs(
            source, store, content, mount_from=mount_from, jobs=jobs, retry=retry, report=report, cancel=cancel
        )
        with Phase(report, "publish", f"{store.describe()}@{content.top.digest}"):
            _publish(store, content, "", overwrite=False, annotations=NO_ANNOTATIONS, cancel=cancel)
            _read_back(store, str(content.top.digest), content.raw)
        results.append(_result(content, "", outcomes))
    return tuple(results)


def _bundles(source: Source, top: Descriptor, targets: Sequence[str] | None) -> tuple[Descriptor, ...]:
    """Return the manifests of an index that are for ``targets``, or the manifest itself."""
    chosen = collect(source, top, targets=targets, papers=False, cancel=Cancel())
    document = parse_document(chosen.raw, chosen.top.media_type)
    return document.manifests if isinstance(document, Index) else (top,)


def _send_blobs(
    source: Source,
    store: Store,
    content: Content,
    *,
    mount_from: Sequence[str],
    jobs: int,
    retry: RetryPolicy | None,
    report: Reporter,
    cancel: Cancel,
) -> Mapping[Digest, Outcome]:
    total = sum(blob.size for blob in content.blobs)
    with Phase(report, "blobs", store.describe(), total=total, unit=Unit.BYTES) as phase:
        sender = BlobSender(
            source,
            store,
            mount_from=_siblings(source, store, mount_from),
            policy=retry or RetryPolicy(),
            report=BlobCounter(phase, report),
        )
        outcomes = sender.send_all(content.blobs, jobs, cancel)
        for outcome in (Outcome.SKIPPED, Outcome.MOUNTED):
            phase.detail[outcome.value] = sum(found is outcome for found in outcomes.values()) or None
    return outcomes


def _siblings(source: Source, store: Store, named: Sequence[str]) -> tuple[str, ...]:
    """Return the repositories that blobs can be mounted from; that of the source has them all."""
    if not isinstance(store, RegistryStore):
        if named:
            raise UsageError(
                f"Cannot mount blobs into `{store.describe()}`: only registries have repositories to mount from",
                hint="leave `--mount-from` away",
            )
        return ()
    here = store.reference
    siblings = []
    for name in named:
        other = Reference.parse(f"{here.registry}/{name.removeprefix('docker://').removeprefix(f'{here.registry}/')}")
        siblings.append(other.repository)
    if isinstance(source, RegistryStore) and source.reference.registry == here.registry:
        return (source.reference.repository,)
    return tuple(siblings)


def _publish(
    store: Store, content: Content, name: str, *, overwrite: bool, annotations: Mapping[str, str], cancel: Cancel
) -> None:
    """Write documents and papers, the name last; only ``content.top`` gets it, whatever papers hold."""
    papers = dict(content.papers)
    top = content.top
    of_top = papers.pop(top.digest, ())
    for document, raw in (*content.below, *content.below_papers):
        cancel.check()
        store.put_document(raw, document.media_type)
    for subject, documents in papers.items():
        cancel.check()
        store.put_referrers(subject, documents)
    cancel.check()
    if of_top or not name:
        store.put_document(content.raw, top.media_type)
    if of_top:
        store.put_referrers(top.digest, of_top)
    if name:
        cancel.check()
        store.put_document(content.raw, top.media_type, name=name, overwrite=overwrite, annotations=annotations)


def _own_name(source: Source, top: Descriptor) -> str:
    """Return the name that a build would give it."""
    return bundle_name(parse_document(source.read_document(top), top.media_type).annotations)


def _check_digest(store: Store, name: str, digest: Digest) -> None:
    """Refuse to write something under the digest of something else."""
    algorithm, colon, _ = name.partition(":")
    if colon and algorithm == digest.algorithm and name != str(digest):
        raise IntegrityError(
            f"Cannot write to `{store.describe()}`: the destination names {name}, and the source is {digest}",
            hint="name a tag, or the digest of what is copied",
            expected=name,
            actual=str(digest),
        )


def _read_back(store: Store, name: str, raw: bytes) -> None:
    found = store.resolve(name)
    if found.digest != Digest.of(raw) or store.read_document(found) != raw:
        raise IntegrityError(
            f"Cannot confirm `{name}` in `{store.describe()}`: it gives {found.digest}, not what was written",
            hint="somebody else wrote the same name at the same time, or the store is damaged",
        )


def _result(content: Content, name: str, outcomes: Mapping[Digest, Outcome]) -> TransferResult:
    by_outcome: dict[Outcome, list[int]] = {}
    for blob in content.blobs:
        by_outcome.setdefault(outcomes[blob.digest], []).append(blob.size)
    pushed = by_outcome.get(Outcome.DONE, [])
    mounted = by_outcome.get(Outcome.MOUNTED, [])
    skipped = by_outcome.get(Outcome.SKIPPED, [])
    top = content.top
    document = parse_document(content.raw, top.media_type)
    return TransferResult(
        digest=top.digest,
        media_type=top.media_type,
        name=name,
        target=document.annotations.get(ANNOTATION_TARGET, ""),
        documents=len(content.below) + 1,
        papers=sum(len(documents) for _, documents in content.papers),
        blobs_pushed=len(pushed),
        bytes_pushed=sum(pushed),
        blobs_mounted=len(mounted),
        bytes_mounted=sum(mounted),
        blobs_skipped=len(skipped),
        bytes_skipped=sum(skipped),
    )
