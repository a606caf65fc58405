"""Copy a bundle from one store to another: blobs, then manifests, then indexes, then the name.

So whoever resolves the name finds everything behind it, at any moment and after any failure. What is there already is
not sent again.
"""

from __future__ import annotations

import concurrent.futures
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mr_core.digest import Digest
from mr_core.errors import (
    CancelledError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from mr_core.events import (
    BlobFinished,
    BlobProgress,
    Cancel,
    Event,
    Outcome,
    Phase,
    Reporter,
    SafeReporter,
    Unit,
    discard,
)
from mr_core.manifest import REF_NAME, Descriptor, Index, Manifest, parse_document
from mr_core.resuming import ResumingStream
from mr_core.retry import RetryPolicy
from mr_core.store import Source, Store, refuse_move

_MAX_NESTING = 2
_MAX_DOCUMENTS = 512
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferResult:
    """What was copied; sizes in bytes."""

    digest: Digest
    media_type: str
    name: str
    documents: int
    blobs_pushed: int
    bytes_pushed: int
    blobs_skipped: int
    bytes_skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """Everything behind a name: documents with children before parents, and the blobs, each once."""

    documents: tuple[tuple[Descriptor, bytes], ...]
    blobs: tuple[Descriptor, ...]


def transfer(
    source: Source,
    name: str,
    store: Store,
    destination_name: str,
    *,
    overwrite: bool = False,
    jobs: int = 4,
    retry: RetryPolicy | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> TransferResult:
    """Copy what ``name`` means in ``source`` to ``destination_name`` in ``store``, byte for byte, and read it back.

    Args:
        source: Where it is.
        name: A name or digest there; empty for the only entry of a layout.
        store: Where it goes.
        destination_name: A tag or reference name there; empty keeps the name it has in a layout.
        overwrite: Whether an existing name that means something else may be moved.
        jobs: How many blobs are sent at a time.
        retry: How often a broken blob transfer is begun again.
        report: Gets the phases ``inspect``, ``blobs`` and ``publish``, and the progress of each blob.
        cancel: Stops at the next piece of data, or when a stalled connection times out.

    Raises:
        AccessDeniedError: when ``destination_name`` means something else already; nothing has been sent then.
        IntegrityError: when bytes of the source differ from their digest, or ``destination_name`` is another digest.
        UnavailableError: when either side fails for too long; running it again sends only what is missing.
    """
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    with Phase(report, "inspect", source.describe()):
        top = source.resolve(name)
        target = destination_name or top.annotations.get(REF_NAME, "")
        if not target:
            raise UsageError(f"Cannot copy {top.digest} to `{store.describe()}`: it has no name, and none was given")
        _check_digest(store, target, top.digest)
        content = _collect(source, top, cancel)
        _check_name(store, target, top.digest, overwrite=overwrite)
    with Phase(
        report, "blobs", store.describe(), total=sum(blob.size for blob in content.blobs), unit=Unit.BYTES
    ) as phase:
        sender = _Sender(source, store, retry or RetryPolicy(), _Counter(phase, report))
        skipped = sender.send_all(content.blobs, jobs, cancel)
        phase.detail["skipped"] = len(skipped)
    with Phase(report, "publish", f"{store.describe()}:{target}"):
        *children, (_, raw) = content.documents
        for child, child_raw in children:
            cancel.check()
            store.put_document(child_raw, child.media_type)
        cancel.check()
        annotations = {key: value for key, value in top.annotations.items() if key != REF_NAME}
        store.put_document(raw, top.media_type, name=target, overwrite=overwrite, annotations=annotations)
        _read_back(store, target, raw)
    pushed = [blob for blob in content.blobs if blob.digest not in skipped]
    return TransferResult(
        digest=top.digest,
        media_type=top.media_type,
        name=target,
        documents=len(content.documents),
        blobs_pushed=len(pushed),
        bytes_pushed=sum(blob.size for blob in pushed),
        blobs_skipped=len(skipped),
        bytes_skipped=sum(blob.size for blob in content.blobs if blob.digest in skipped),
    )


def _collect(source: Source, top: Descriptor, cancel: Cancel) -> _Content:
    """Read every document behind ``top``, verified, and list the blobs."""
    documents: dict[Digest, tuple[Descriptor, bytes]] = {}
    blobs: dict[Digest, Descriptor] = {}

    def visit(descriptor: Descriptor, depth: int) -> None:
        cancel.check()
        if descriptor.digest in documents:
            return
        raw = source.read_document(descriptor)
        match parse_document(raw, descriptor.media_type):
            case Index(manifests=children):
                if depth >= _MAX_NESTING:
                    raise InvalidInputError(f"Cannot copy {top.digest}: its indexes are nested too deeply")
                if len(documents) + len(children) > _MAX_DOCUMENTS:
                    raise InvalidInputError(f"Cannot copy {top.digest}: more than {_MAX_DOCUMENTS} manifests")
                for child in children:
                    visit(child, depth + 1)
            case Manifest(config=config, layers=layers):
                for blob in (config, *layers):
                    if blobs.setdefault(blob.digest, blob).size != blob.size:
                        raise InvalidInputError(f"Cannot copy {top.digest}: it gives {blob.digest} two sizes")
        documents[descriptor.digest] = (descriptor, raw)

    visit(top, 0)
    return _Content(documents=tuple(documents.values()), blobs=tuple(blobs.values()))


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


def _check_name(store: Store, name: str, digest: Digest, *, overwrite: bool) -> None:
    """Refuse to move a name before gigabytes are sent; `Store.put_document` checks again."""
    if overwrite:
        return
    try:
        present = store.resolve(name).digest
    except NotFoundError:
        return
    if present != digest:
        raise refuse_move(store.describe(), name, present, digest)


def _read_back(store: Store, name: str, raw: bytes) -> None:
    found = store.resolve(name)
    if found.digest != Digest.of(raw) or store.read_document(found) != raw:
        raise IntegrityError(
            f"Cannot confirm `{name}` in `{store.describe()}`: it gives {found.digest}, not what was written",
            hint="somebody else wrote the same name at the same time, or the store is damaged",
        )


class _Counter:
    """Pass events on, and add the positions of all blobs up for the phase."""

    def __init__(self, phase: Phase, report: Reporter) -> None:
        self._phase = phase
        self._report = report
        self._lock = threading.Lock()
        self._positions: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        self._report(event)
        match event:
            case BlobProgress(digest=digest, offset=position) | BlobFinished(digest=digest, total=position):
                with self._lock:
                    self._positions[digest] = position
                    done = sum(self._positions.values())
                self._phase.progress(done)
            case _:
                pass


class _Sender:
    """Send blobs from one store to the other, several at a time."""

    def __init__(self, source: Source, store: Store, policy: RetryPolicy, report: Reporter) -> None:
        self._source = source
        self._store = store
        self._policy = policy
        self._report = report
        self._stop = Cancel()  # ours, so that one failed blob stops the others

    def send_all(self, blobs: Sequence[Descriptor], jobs: int, cancel: Cancel) -> frozenset[Digest]:
        """Send every blob, the largest first; return the digests of those that were there already."""
        ordered = sorted(blobs, key=lambda blob: (-blob.size, str(blob.digest)))
        with concurrent.futures.ThreadPoolExecutor(max(1, jobs), thread_name_prefix="push") as pool:
            futures = {pool.submit(self._send, blob): blob for blob in ordered}
            try:
                pending = set(futures)
                while pending:
                    cancel.check()
                    done, pending = concurrent.futures.wait(
                        pending, timeout=_POLL_SECONDS, return_when=concurrent.futures.FIRST_EXCEPTION
                    )
                    _raise_first(done)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return frozenset(blob.digest for future, blob in futures.items() if future.result() is Outcome.SKIPPED)

    def _send(self, blob: Descriptor) -> Outcome:
        """Send one blob; a transfer that broke after its first byte begins again, everything before retries itself."""
        failures = 0
        while True:
            self._stop.check()
            with ResumingStream(self._source, blob, policy=self._policy, cancel=self._stop) as stream:
                try:
                    return self._store.put_blob(blob, stream, report=self._report, cancel=self._stop)
                except UnavailableError:
                    failures += 1
                    if stream.gave_up or stream.position == 0 or failures >= self._policy.attempts:
                        raise
            self._stop.sleep(self._policy.delay(failures, None, random.random()))  # noqa: S311 - jitter


def _raise_first(futures: set[concurrent.futures.Future[Outcome]]) -> None:
    errors = [error for future in futures if (error := future.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, CancelledError))  # a cause before its consequences
    if errors:
        raise errors[0]
