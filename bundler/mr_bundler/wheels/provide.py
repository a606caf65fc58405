"""Wheels that no index serves: fetched from their address or built from a git commit, and kept in the cache."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.lock.lock import Lock, LockedWheel, refuse_pending
from mr_bundler.wheels.download import Received, received
from mr_bundler.wheels.git import Commit, build_commit
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import IntegrityError
from mr_core.events import BlobFinished, Cancel, Outcome, Phase, Reporter, SafeReporter, discard


@dataclass(frozen=True, slots=True, kw_only=True)
class Provided:
    """A wheel in the cache."""

    path: Path
    sha256: str
    size: int


def provide_wheels(
    lock: Lock,
    *,
    cache: Path,
    only: Collection[str] | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> dict[str, Path]:
    """Return a local file by name for each wheel of ``lock`` (or of ``only`` these names) that no index serves.

    Each has the sha256 of the lock: also a file that was in the cache is read whole before it is named.

    Raises:
        InvalidInputError: a sha256 is still pending.
        IntegrityError: an address serves other bytes than the lock says, or a commit builds to others.
        UnavailableError, NotFoundError: a file or commit cannot be had.
        BuildError: a commit does not build.
        HostError: the cache cannot be written, or git or uv is missing.
    """
    wheels = [wheel for wheel in lock.packages if (wheel.url or wheel.vcs) and (only is None or wheel.name in only)]
    refuse_pending(lock, wheels)
    report = SafeReporter(report)
    found = {}
    if wheels:
        with Phase(report, "given wheels", str(lock.target), total=len(wheels)) as phase:
            for done, wheel in enumerate(wheels, start=1):
                provided = acquire_wheel(
                    wheel, cache=cache, exclude_newer=lock.exclude_newer, report=report, cancel=cancel
                )
                found[wheel.name] = provided.path
                phase.progress(done)
    return found


def acquire_wheel(
    wheel: LockedWheel,
    *,
    cache: Path,
    exclude_newer: str,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Provided:
    """Return one wheel that has an address or a commit; whatever its bytes are when it has no sha256 yet.

    Raises as `provide_wheels` does.
    """
    root = cache / "wheels"
    if wheel.sha256 and (kept := cached_wheel(wheel.file, wheel.sha256, cache=cache)):
        report(BlobFinished(digest=_key(wheel), total=kept.size, outcome=Outcome.SKIPPED, label=wheel.file))
        return kept
    if wheel.vcs is None:
        with received(wheel.url, root, label=wheel.file, digest=_key(wheel), report=report, cancel=cancel) as file:
            provided = _commit(wheel, file, root, f"from `{wheel.url}`", "find out why before you lock again")
    else:
        commit = Commit(
            url=wheel.vcs.url,
            commit=wheel.vcs.commit,
            subdirectory=wheel.vcs.subdirectory,
            name=wheel.name,
            version=wheel.version,
            file=wheel.file,
        )
        with host_errors("write", root):
            root.mkdir(parents=True, exist_ok=True)
            directory = tempfile.TemporaryDirectory(dir=root, prefix=".ingest-", ignore_cleanup_errors=True)
        with directory as name:
            built = build_commit(commit, Path(name), exclude_newer=exclude_newer, report=report, cancel=cancel)
            with host_errors("read", built), built.open("rb") as stream:
                digest, size = hashlib.file_digest(stream, "sha256").hexdigest(), built.stat().st_size
            file = Received(path=built, sha256=digest, size=size)
            hint = (
                "the tools of this build, or the Python that runs them, differ from those that the lock was made with"
            )
            provided = _commit(wheel, file, root, f"built from {wheel.vcs.commit}", hint)
    report(BlobFinished(digest=_key(wheel), total=provided.size, label=wheel.file))
    return provided


def cached_wheel(file: str, sha256: str, *, cache: Path) -> Provided | None:
    """Return the wheel when the cache holds it undamaged; a damaged one is as good as none."""
    place = _place(cache / "wheels", sha256, file)
    try:
        with place.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                return None
            return Provided(path=place, sha256=sha256, size=stream.tell())
    except OSError:
        return None


def _key(wheel: LockedWheel) -> str:
    return f"sha256:{wheel.sha256}" if wheel.sha256 else wheel.file


def _place(root: Path, sha256: str, file: str) -> Path:
    return root / "sha256" / sha256 / file


def _commit(wheel: LockedWheel, file: Received, root: Path, origin: str, hint: str) -> Provided:
    """Move the file to its place in the cache, when it is the one that is wanted."""
    if wheel.sha256 and file.sha256 != wheel.sha256:
        raise IntegrityError(
            f"Cannot use `{wheel.file}` {origin}: its digest is sha256:{file.sha256}, "
            f"and {Digest('sha256', wheel.sha256)} is expected",
            hint=hint,
            distribution=wheel.name,
            expected=wheel.sha256,
            actual=file.sha256,
        )
    place = _place(root, file.sha256, wheel.file)
    with host_errors("write", place):
        place.parent.mkdir(parents=True, exist_ok=True)
        file.path.replace(place)
    return Provided(path=place, sha256=file.sha256, size=file.size)
