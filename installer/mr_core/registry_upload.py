"""Upload one blob to a repository: mounted from a sibling when possible, else in one request, or in chunks when large.

A chunked upload lives in a session of the registry. After a broken chunk the registry is asked how far it got, and the
upload continues from there. The reference registry ends the session when a chunk is cut off; then a new one begins.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from mr_core.errors import AccessDeniedError, BundleError, IntegrityError, NotFoundError, UnavailableError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Outcome, Reporter
from mr_core.manifest import Descriptor
from mr_core.reader import VerifyingReader
from mr_core.registry_errors import status_failure
from mr_core.registry_session import RegistrySession, UploadBody, read_small
from mr_core.store import BlobStream

if TYPE_CHECKING:
    import requests

CHUNKED_FROM = 64 << 20
"""Blobs larger than this go up in chunks; what a break costs below that is less than asking."""
CHUNK_BYTES = 16 << 20
"""Held in memory for each upload, so that a broken chunk can be sent again."""
MOST_CHUNK_BYTES = 64 << 20
"""A registry that wants larger chunks than this gets the blob in one request."""
_SEND_BYTES = 64 << 10  # one send must end within the socket timeout, so slow lines need small pieces
_OCTETS = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_GONE = frozenset({400, 404, 410})  # the reference registry answers 400 when its own count of the bytes differs
_ENOUGH_BYTES = 1 << 20  # this much before a break means that the connection works, so earlier failures are forgiven


class BlobUpload:
    """The upload of one blob; used once."""

    def __init__(
        self,
        session: RegistrySession,
        repository: str,
        descriptor: Descriptor,
        source: BlobStream,
        *,
        report: Reporter,
        cancel: Cancel | None,
    ) -> None:
        self._session = session
        self._repository = repository
        self._descriptor = descriptor
        self._reader = VerifyingReader(source, descriptor.digest, descriptor.size)
        self._report = report
        self._cancel = cancel
        self._what = f"upload blob {descriptor.digest}"
        self._location = ""
        self._resumed = False
        self._unread: BundleError | None = None

    def run(self, mount_from: Sequence[str] = ()) -> Outcome:
        """Bring the blob into the repository, which does not have it yet.

        Raises:
            UnavailableError: when it broke and cannot go on; begin again with the source at its start.
            IntegrityError: when the source's bytes differ; nothing is stored then.
        """
        digest, size = str(self._descriptor.digest), self._descriptor.size
        started = self._begin(self._choose(mount_from))
        if started is None:
            self._report(BlobFinished(digest=digest, total=size, outcome=Outcome.MOUNTED))
            return Outcome.MOUNTED
        chunk = max(CHUNK_BYTES, _least_chunk(started))
        if size > CHUNKED_FROM and chunk <= MOST_CHUNK_BYTES:
            self._send_chunks(chunk)
            self._commit(None)
        elif size == 0:
            self._reader.finish()
            self._commit(None)
        else:
            self._commit(UploadBody(self._read_all(), size))
        self._report(BlobFinished(digest=digest, total=size, sent=True))
        return Outcome.DONE

    # --- the session

    def _choose(self, repositories: Sequence[str]) -> str:
        """Return the repository to mount from, the last one unseen; empty for none."""
        candidates = [name for name in dict.fromkeys(repositories) if name != self._repository]
        for name in candidates[:-1]:
            if self._is_there(name):
                return name
        return candidates[-1] if candidates else ""

    def _is_there(self, repository: str) -> bool:
        url = f"/v2/{quote(repository)}/blobs/{self._descriptor.digest}"
        try:
            with self._session.request("HEAD", url, what=self._what, accept=frozenset({200})) as response:
                return response.headers.get("Content-Length", "") == str(self._descriptor.size)
        except (NotFoundError, AccessDeniedError):
            return False

    def _begin(self, mount_from: str = "") -> requests.Response | None:
        """Open an upload session, whose address is kept; `None` when the registry has mounted the blob instead."""
        url = f"/v2/{quote(self._repository)}/blobs/uploads/"
        if mount_from:
            url += f"?{urlencode({'mount': str(self._descriptor.digest), 'from': mount_from})}"
        accept = frozenset({201, 202}) if mount_from else frozenset({202})
        try:
            response = self._session.request("POST", url, what=self._what, accept=accept, body=b"")
        except (AccessDeniedError, NotFoundError):
            if not mount_from:
                raise
            return self._begin()  # the other repository cannot be read, which is no reason to fail
        with response:
            read_small(response)
            if response.status_code == 201:
                return None
            self._location = self._session.resolve_location(response, self._what)
        return response

    def _commit(self, body: UploadBody | None) -> None:
        """End the session with the digest, after or with the bytes; a lost reply is made up for by looking."""
        parts = urlsplit(self._location)
        query = "&".join(part for part in (parts.query, urlencode({"digest": str(self._descriptor.digest)})) if part)
        try:
            self._session.request(
                "PUT",
                urlunsplit(parts._replace(query=query)),
                what=self._what,
                accept=frozenset({201, 204}),
                headers=_OCTETS,
                body=b"" if body is None else body,
                read_timeout=self._session.options.commit_timeout,
            ).close()
        except (NotFoundError, UnavailableError) as error:
            if error is self._unread:  # the source's own, not the registry's
                raise
            if self._reader.position < self._descriptor.size or not self._is_there(self._repository):
                raise _again(error) from error
        except IntegrityError as error:
            if self._resumed:  # our bytes have matched: the registry has put the chunks together wrongly
                raise _again(error) from error
            raise

    # --- the bytes

    def _read_all(self) -> Iterator[bytes]:
        while chunk := self._next():
            self._check()
            yield chunk
            self._progress(self._reader.position)

    def _next(self) -> bytes:
        try:
            return self._reader.read(_SEND_BYTES)
        except BundleError as error:
            self._unread = error
            raise

    def _send_chunks(self, size: int) -> None:
        buffer = memoryview(bytearray(min(size, self._descriptor.size)))
        start = 0
        while start < self._descriptor.size:
            length = 0
            while length < len(buffer) and (piece := self._reader.read(min(1 << 20, len(buffer) - length))):
                self._check()
                buffer[length : length + len(piece)] = piece
                length += len(piece)
            self._send_chunk(buffer[:length], start)
            start += length

    def _send_chunk(self, chunk: memoryview, start: int) -> None:
        """Send one chunk, in as many pieces as breaks make of it."""
        at, end = start, start + len(chunk)
        policy = self._session.options.retry
        failures = 0
        while at < end:
            try:
                at = self._patch(chunk[at - start :], at)
                failures = 0
            except UnavailableError:
                failures += 1
                if failures >= policy.attempts:
                    raise
                self._pause(policy.delay(failures, None, random.random()))  # noqa: S311 - jitter
                before, at = at, self._confirmed(start, end)
                if at - before >= _ENOUGH_BYTES:
                    failures = 0

    def _patch(self, chunk: memoryview, at: int) -> int:
        """Send bytes from position ``at`` on, and return the position that the registry confirms."""

        def pieces() -> Iterator[bytes]:
            for position in range(0, len(chunk), _SEND_BYTES):
                self._check()
                piece = bytes(chunk[position : position + _SEND_BYTES])
                yield piece
                self._progress(at + position + len(piece))

        with self._session.request(
            "PATCH",
            self._location,
            what=self._what,
            accept=frozenset({202, 416}) | _GONE,
            headers={**_OCTETS, "Content-Range": f"{at}-{at + len(chunk) - 1}"},
            body=UploadBody(pieces(), len(chunk)),
            read_timeout=self._session.options.commit_timeout,
        ) as response:
            said = read_small(response)
            if response.status_code != 202:
                raise _again(status_failure(self._what, self._session.host, response.status_code, said))
            self._location = self._session.resolve_location(response, self._what)
            stated = _received(response)
        if stated is not None and not at < stated <= at + len(chunk):
            raise UnavailableError(f"Cannot {self._what}: `{self._session.host}` lost count of its bytes")
        return at + len(chunk) if stated is None else stated

    def _confirmed(self, start: int, end: int) -> int:
        """Ask how far a broken upload got; when its session is gone, begin another one if no byte is lost by that.

        Raises:
            UnavailableError: when bytes are missing that are no longer in memory.
        """
        with self._session.request(
            "GET", self._location, what=self._what, accept=frozenset({200, 204}) | _GONE
        ) as response:
            read_small(response)
            stated = None if response.status_code in _GONE else _received(response)
            if stated is not None and response.headers.get("Location"):
                self._location = self._session.resolve_location(response, self._what)
        # A range of `0-0` is one byte to some registries and none to the reference registry: neither is worth keeping.
        if stated is not None and start <= stated <= end and stated > 1:
            self._resumed = True
            return stated
        if start > 0:
            raise UnavailableError(
                f"Cannot {self._what}: `{self._session.host}` gave the upload up after a break",
                hint="run it again: blobs that are there already are not sent again",
            )
        self._begin()
        return 0

    def _progress(self, position: int) -> None:
        digest, total = str(self._descriptor.digest), self._descriptor.size
        self._report(BlobProgress(digest=digest, offset=position, total=total))

    def _check(self) -> None:
        self._session.cancel.check()
        if self._cancel is not None:
            self._cancel.check()

    def _pause(self, seconds: float) -> None:
        self._check()
        (self._cancel or self._session.cancel).sleep(seconds)


def _again(error: BundleError) -> UnavailableError:
    """Return the error of an upload that has to begin again."""
    return UnavailableError(error.message, hint=error.hint or "try again", **error.fields)


def _received(response: requests.Response) -> int | None:
    """Return the position up to which a registry has the bytes, as its ``Range`` header states it."""
    match = _RANGE.fullmatch(response.headers.get("Range", "").strip())
    return None if match is None else int(match[1]) + 1


def _least_chunk(response: requests.Response) -> int:
    text = response.headers.get("OCI-Chunk-Min-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
