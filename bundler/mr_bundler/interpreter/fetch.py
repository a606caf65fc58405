"""Fetch the archive of a pinned base interpreter into the cache, from a mirror or its public home."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from mr_bundler.cache import touch_entry
from mr_bundler.lock.python_pin import PythonPin
from mr_bundler.wheels.download import Received, received
from mr_core.digest import Digest
from mr_core.errors import HostError, IntegrityError, NotFoundError, UnavailableError, redact
from mr_core.events import BlobFinished, Cancel, Outcome, Reporter, SafeReporter, discard

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
    if _holds(place, pin):
        touch_entry(place)
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
    digest = f"sha256:{pin.sha256}"
    for address in [str(archive)] if archive else _addresses(pin, mirror):
        try:
            with received(address, place.parent, label=pin.file, digest=digest, report=emit, cancel=cancel) as file:
                _commit(file, pin, place, address)
        except (NotFoundError, UnavailableError) as error:
            reasons.append(f"{redact(address)}: {error.fields['reason']}")
        else:
            emit(BlobFinished(digest=digest, total=place.stat().st_size, label=pin.file))
            return place
    raise UnavailableError(
        f"Cannot fetch the base interpreter `{pin.file}` (sha256 {pin.sha256}): {'; '.join(reasons)}",
        hint="pass that file with `--python-archive FILE`, or put it into the directory (or below the URL) that "
        "`UV_PYTHON_INSTALL_MIRROR` names",
        file=pin.file,
        sha256=pin.sha256,
        url=pin.url,
    )


def _holds(place: Path, pin: PythonPin) -> bool:
    """Whether the archive is in the cache; a damaged one is as good as none, and replaced by what is fetched."""
    try:
        with place.open("rb") as file:
            return Digest.of_file(file).hex == pin.sha256
    except OSError:
        return False


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


def _commit(file: Received, pin: PythonPin, place: Path, address: str) -> None:
    """Give the file its name in the cache; raise `IntegrityError` when it is not the one that is pinned."""
    if file.sha256 != pin.sha256:
        raise IntegrityError(
            f"Cannot use the base interpreter from {address}: its digest is sha256:{file.sha256}, "
            f"and the lock asks for {Digest('sha256', pin.sha256)}",
            hint="the archive was changed or damaged on its way: remove it there and fetch it from its public home",
            expected=pin.sha256,
            actual=file.sha256,
        )
    try:
        file.path.replace(place)
    except OSError as error:
        raise HostError(f"Cannot write the archive cache `{place.parent}`: {error.strerror}") from error
