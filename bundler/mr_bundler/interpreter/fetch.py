"""Fetch the archive of a pinned base interpreter into the cache, from a mirror or its public home."""

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
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit

from mr_bundler.python_pin import PythonPin
from mr_core.digest import CHUNK, Digest
from mr_core.errors import HostError, IntegrityError, NotFoundError, UnavailableError, redact
from mr_core.events import BlobFinished, BlobProgress, Cancel, Outcome, Reporter, SafeReporter, discard

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
_REMOTE = re.compile(r"https?://", re.IGNORECASE)


def fetch_archive(
    pin: PythonPin,
    cache: Path,
    *,
    mirror: str = "",
    archive: Path | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Path:
    """Return a file in ``cache`` whose sha256 is the pin's, fetching it when it is not there yet.

    ``mirror`` is what uv reads from ``UV_PYTHON_INSTALL_MIRROR``: an http(s) or file URL, or a plain directory, that
    holds ``<build>/<file>`` or ``<file>``; with a mirror the public home is not asked. ``archive`` is the archive
    itself, on this disk; nothing else is asked then.

    Raises:
        IntegrityError: when the bytes have another sha256.
        NotFoundError: when ``archive`` is not a file.
        UnavailableError: when no place has it; the text names the file and its sha256.
        HostError: when the cache cannot be written.
        CancelledError: when asked to stop.
    """
    place = cache / "archives" / pin.sha256
    emit = SafeReporter(report)
    if place.is_file():
        emit(
            BlobFinished(
                digest=f"sha256:{pin.sha256}", total=place.stat().st_size, outcome=Outcome.SKIPPED, label=pin.file
            )
        )
        return place
    if archive is not None and not archive.is_file():
        reason = "it is not a file" if archive.exists() else "there is no such file"
        raise NotFoundError(
            f"Cannot read `{archive}`, named with `--python-archive`: {reason}", hint=f"name the file `{pin.file}`"
        )
    reasons: list[str] = []
    for address in [str(archive)] if archive else _addresses(pin, mirror):
        try:
            with _open(address) as (stream, total):
                _ingest(stream, total, pin, place, address=address, emit=emit, cancel=cancel)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons.append(f"{redact(address)}: {_reason(error)}")
        else:
            return place
    raise UnavailableError(
        f"Cannot fetch the base interpreter `{pin.file}` (sha256 {pin.sha256}): {'; '.join(reasons)}",
        hint="pass that file with `--python-archive FILE`, or put it into the directory (or below the URL) that "
        "`UV_PYTHON_INSTALL_MIRROR` names",
        file=pin.file,
        sha256=pin.sha256,
        url=pin.url,
    )


def _addresses(pin: PythonPin, mirror: str) -> list[str]:
    if not mirror:
        return [pin.url]
    names = (f"{pin.build}/{pin.file}", pin.file)
    if _REMOTE.match(mirror):
        parts = urlsplit(mirror)
        base = parts._replace(path=parts.path.rstrip("/"))
        return [base._replace(path=f"{base.path}/{quote(name)}").geturl() for name in names]
    directory = Path(unquote(urlsplit(mirror).path) if mirror.lower().startswith("file:") else mirror)
    return [str(directory / name) for name in names]


@contextmanager
def _open(address: str) -> Iterator[tuple[BinaryIO | http.client.HTTPResponse, int]]:
    """Open a file or an http(s) address; the second value is its size in bytes, 0 when unknown."""
    if not _REMOTE.match(address):
        with Path(address).open("rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
        return
    # ProxyHandler is among the defaults: the usual proxy variables decide
    opener = urllib.request.build_opener(_PlainHandler(), _SecureHandler(ssl.create_default_context()))
    request = urllib.request.Request(address, headers={"User-Agent": "mr-bundle"})  # noqa: S310 - http(s), see above
    with opener.open(request, timeout=CONNECT_SECONDS) as response:
        yield response, int(response.headers.get("Content-Length") or 0)


def _ingest(
    stream: BinaryIO | http.client.HTTPResponse,
    total: int,
    pin: PythonPin,
    place: Path,
    *,
    address: str,
    emit: Reporter,
    cancel: Cancel | None,
) -> None:
    digest, hasher, size = f"sha256:{pin.sha256}", hashlib.sha256(), 0
    with _partial(place) as (out, name):
        while chunk := stream.read(CHUNK):
            if cancel is not None:
                cancel.check()
            hasher.update(chunk)
            size += len(chunk)
            _write(out, chunk, name)
            emit(BlobProgress(digest=digest, offset=size, total=max(total, size), label=pin.file))
        if total and size < total:
            raise http.client.IncompleteRead(b"", total - size)
        if hasher.hexdigest() != pin.sha256:
            raise IntegrityError(
                f"Cannot use the base interpreter from {address}: its digest is sha256:{hasher.hexdigest()}, "
                f"and the lock asks for {Digest('sha256', pin.sha256)}",
                hint="the archive was changed or damaged on its way: remove it there and fetch it from its public home",
                expected=pin.sha256,
                actual=hasher.hexdigest(),
            )
    emit(BlobFinished(digest=digest, total=size, label=pin.file))


@contextmanager
def _partial(place: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a new file beside ``place`` that takes its name when the block ends well, and goes when it does not."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        number, text = tempfile.mkstemp(dir=place.parent, prefix=".ingest-")
    except OSError as error:
        raise HostError(f"Cannot write the archive cache `{place.parent}`: {error.strerror}") from error
    name = Path(text)
    try:
        with os.fdopen(number, "wb") as out:
            yield out, name
        try:
            name.replace(place)
        except OSError as error:
            raise HostError(f"Cannot write the archive cache `{place.parent}`: {error.strerror}") from error
    except BaseException:
        with contextlib.suppress(OSError):
            name.unlink()
        raise


def _write(out: BinaryIO, chunk: bytes, name: Path) -> None:
    try:
        out.write(chunk)
    except OSError as error:
        raise HostError(f"Cannot write the archive cache `{name.parent}`: {error.strerror}") from error


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
