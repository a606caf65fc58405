"""Send blobs from one store to another, several at a time."""

from __future__ import annotations

import concurrent.futures
import random
import threading
from collections.abc import Mapping, Sequence

from mr_core.digest import Digest
from mr_core.errors import CancelledError, UnavailableError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Event, Outcome, Phase, Reporter
from mr_core.manifest import Descriptor
from mr_core.resuming import ResumingStream
from mr_core.retry import RetryPolicy
from mr_core.store import Source, Store

_POLL_SECONDS = 0.1


class BlobCounter:
    """Pass events on, and add the positions of all blobs up for the phase."""

    def __init__(self, phase: Phase, report: Reporter) -> None:
        self._phase = phase
        self._report = report
        self._lock = threading.Lock()
        self._positions: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        self._report(event)
        match event:
            case BlobProgress(digest=digest, offset=position) | BlobFinished(digest=digest, total=position):
                with self._lock:
                    self._positions[digest] = position
                    done = sum(self._positions.values())
                self._phase.progress(done)
            case _:
                pass


class BlobSender:
    """The way from one store to the other."""

    def __init__(
        self,
        source: Source,
        store: Store,
        *,
        mount_from: Sequence[str],
        policy: RetryPolicy,
        report: Reporter,
    ) -> None:
        self._source = source
        self._store = store
        self._mount_from = tuple(mount_from)
        self._policy = policy
        self._report = report
        self._stop = Cancel()  # ours, so that one failed blob stops the others

    def send_all(self, blobs: Sequence[Descriptor], jobs: int, cancel: Cancel) -> Mapping[Digest, Outcome]:
        """Send every blob, the largest first; return how each got there."""
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
        return {blob.digest: future.result() for future, blob in futures.items()}

    def _send(self, blob: Descriptor) -> Outcome:
        """Send one blob; a transfer that broke after its first byte begins again, everything before retries itself."""
        failures = 0
        while True:
            self._stop.check()
            with ResumingStream(self._source, blob, policy=self._policy, cancel=self._stop) as stream:
                try:
                    return self._store.put_blob(
                        blob, stream, mount_from=self._mount_from, report=self._report, cancel=self._stop
                    )
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
