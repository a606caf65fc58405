"""Fetch one file from an http(s) address, or from this disk, into a directory: streamed, digested, resumed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import unquote, urlsplit

from mr_core.digest import CHUNK
from mr_core.errors import BundleError, HostError, NotFoundError, UnavailableError, redact
from mr_core.events import BlobProgress, Cancel, Reporter
from mr_core.retry import RETRY_STATUSES, RetryPolicy, TransientFailure, call_with_retries

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
_REMOTE = re.compile(r"https?://", re.IGNORECASE)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_POLICY = RetryPolicy(attempts=4, connect_attempts=1)
_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A file that has arrived: it goes when the block ends, unless it was renamed."""

    path: Path
    sha256: str
    size: int


@contextmanager
def received(
    address: str, directory: Path, *, label: str, digest: str, report: Reporter, cancel: Cancel | None
) -> Iterator[Received]:
    """Fetch ``address`` (http, https, file, or a plain path) into a new file in ``directory``, for the block.

    A transfer that breaks off goes on where it stopped, when the server can do that. An https address never leads to
    another scheme.

    Args:
        address: Where from.
        directory: Created when it does not exist.
        label: What progress is shown as.
        digest: Key of the progress events, such as ``sha256:…``.
        report: Gets progress.
        cancel: Stops between pieces.

    Raises:
        NotFoundError: there is no such file; ``fields["reason"]`` says only why, as it does for the next one.
        UnavailableError: it cannot be had now.
        HostError: the directory cannot be written.
        CancelledError: when asked to stop.
    """
    with _partial(directory) as (out, name):
        job = _Job(address=address, out=out, name=name, label=label, digest=digest, report=report, cancel=cancel)
        if _REMOTE.match(address):
            call_with_retries(job.fetch, _POLICY, cancel or Cancel())
        else:
            job.copy()
        try:
            out.close()
        except OSError as error:
            raise _unwritable(directory, error) from error
        yield Received(path=name, sha256=job.hasher.hexdigest(), size=job.size)


@dataclass(kw_only=True)
class _Job:
    """One file on its way; a second attempt goes on with the first one's bytes."""

    address: str
    out: BinaryIO
    name: Path
    label: str
    digest: str
    report: Reporter
    cancel: Cancel | None
    tag: str = ""
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    size: int = 0

    def copy(self) -> None:
        """Take a file of this disk."""
        local = self.address.lower().startswith("file:")
        try:
            with Path(unquote(urlsplit(self.address).path) if local else self.address).open("rb") as stream:
                self._take(stream, os.fstat(stream.fileno()).st_size)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise self._missing(error) from error
        except (OSError, ValueError) as error:
            raise self._unavailable(error) from error

    def fetch(self) -> None:
        """Take the rest of a remote file; raise `TransientFailure` when another attempt may help."""
        headers = {"User-Agent": "mr-bundle", "Accept-Encoding": "identity"}
        if self.size:
            headers |= {"Range": f"bytes={self.size}-", **({"If-Range": self.tag} if self.tag else {})}
        connecting = True
        try:
            request = urllib.request.Request(self.address, headers=headers)  # noqa: S310 - http(s), see `received`
            with _opener().open(request, timeout=CONNECT_SECONDS) as response:
                connecting = False
                self._receive(response)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _GONE:
                raise self._missing(error) from error
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.size:
                self._restart()
                raise TransientFailure(self._unavailable(error)) from error
            failure = self._unavailable(error)
            if error.code in RETRY_STATUSES:
                raise TransientFailure(failure) from error
            raise failure from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransientFailure(self._unavailable(error), connecting=connecting) from error

    def _receive(self, response: http.client.HTTPResponse) -> None:
        length = int(response.headers.get("Content-Length") or 0)
        placed = _RANGE.fullmatch(response.headers.get("Content-Range") or "")
        if response.status != http.HTTPStatus.PARTIAL_CONTENT or placed is None or int(placed[1]) != self.size:
            self._restart()
        self.tag = _strong(response.headers.get("ETag") or "")
        self._take(response, self.size + length if length else 0)

    def _restart(self) -> None:
        if self.size:
            self.out.seek(0)
            self.out.truncate()
            self.hasher, self.size = hashlib.sha256(), 0

    def _take(self, stream: IO[bytes] | http.client.HTTPResponse, total: int) -> None:
        while chunk := stream.read(CHUNK):
            if self.cancel is not None:
                self.cancel.check()
            try:
                self.out.write(chunk)
            except OSError as error:
                raise _unwritable(self.name.parent, error) from error
            self.hasher.update(chunk)
            self.size += len(chunk)
            self.report(
                BlobProgress(digest=self.digest, offset=self.size, total=max(total, self.size), label=self.label)
            )
        if total and self.size < total:
            raise http.client.IncompleteRead(b"", total - self.size)

    def _missing(self, error: Exception) -> BundleError:
        return NotFoundError(
            f"Cannot fetch `{redact(self.address)}`: {_reason(error)}",
            hint="correct the address",
            reason=_reason(error),
        )

    def _unavailable(self, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"Cannot fetch `{redact(self.address)}`: {_reason(error)}",
            hint="check the network and its proxy variables",
            reason=_reason(error),
        )


def _strong(tag: str) -> str:
    """Return an entity tag that may stand in ``If-Range``: not a weak one (RFC 9110, 13.1.5)."""
    return "" if tag.startswith("W/") else tag


@contextmanager
def _partial(directory: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a new file in ``directory`` that goes when the block ends, unless it has another name by then."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        number, text = tempfile.mkstemp(dir=directory, prefix=".ingest-")
    except OSError as error:
        raise _unwritable(directory, error) from error
    name = Path(text)
    try:
        with os.fdopen(number, "wb") as out:
            yield out, name
    finally:
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)


def _unwritable(directory: Path, error: OSError) -> HostError:
    return HostError(f"Cannot write the cache `{directory}`: {error.strerror}")


def _reason(error: Exception) -> str:
    match error:
        case urllib.error.HTTPError(code=code, reason=reason):
            return f"{code} {reason}"
        case urllib.error.URLError(reason=reason):
            return _reason(reason) if isinstance(reason, Exception) else str(reason)
        case http.client.IncompleteRead():
            return "it ended early"
        case OSError(strerror=str(text)):
            return text
        case _:
            return str(error) or type(error).__name__


def _opener() -> urllib.request.OpenerDirector:
    # ProxyHandler is among the defaults: the usual proxy variables decide
    return urllib.request.build_opener(_PlainHandler(), _SecureHandler(ssl.create_default_context()), _Redirects())


class _PlainConnection(http.client.HTTPConnection):
    """A connection that gives up connecting soon, and waits longer for bytes of a server that answered."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _SecureConnection(http.client.HTTPSConnection):
    """The same over TLS; the short limit covers the handshake."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PlainConnection, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._own_context = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req, context=self._own_context)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from https to anything else, and never to what is no http."""

    def redirect_request(  # noqa: PLR0917 - the base class calls it so
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            fp.close()
            raise urllib.error.URLError(f"it redirects to `{redact(newurl)}`, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]  # as in typeshed
