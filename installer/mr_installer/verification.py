"""Check an installed release: its sealed papers, or (deep) every byte of it against its file manifest."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import BundleError, IntegrityError
from mr_core.events import Cancel, Phase, Reporter, Unit
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, UNLISTED, Entry, FileEntry, LinkEntry, parse_entries
from mr_installer.releases import Release, read_config, require_active
from mr_installer.root import BackendDirectory
from mr_installer.usage import use_release

MAX_FINDINGS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference between a release and its file manifest."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A release that equals its file manifest; ``bytes`` is 0 when only the papers were read."""

    backend: str
    release: str
    files: int
    bytes: int
    deep: bool


def verify_release(directory: BackendDirectory, *, deep: bool, report: Reporter, cancel: Cancel) -> Verified:
    """Verify the active release.

    Raises:
        NotFoundError: when the backend is not installed.
        IntegrityError: listing the paths that differ.
    """
    release = require_active(directory)
    with use_release(directory, release.id):
        return _verify(directory, release, deep=deep, report=report, cancel=cancel)


def _verify(directory: BackendDirectory, release: Release, *, deep: bool, report: Reporter, cancel: Cancel) -> Verified:
    place = directory.release(release.id)
    try:
        config = read_config(directory, release.id)
        with (place / BUNDLE_PATH).open("rb") as file:
            if Digest.of_file(file) != release.receipt.config:
                raise _damaged(directory, release.id, [Finding(path=BUNDLE_PATH, reason="its bytes differ")])
        listing = (place / FILES_PATH).read_bytes()
    except IntegrityError:
        raise
    except (OSError, BundleError) as error:
        raise _damaged(directory, release.id, [Finding(path=BUNDLE_PATH, reason=str(error))]) from error
    if Digest.of(listing) != config.contents.digest:
        raise _damaged(directory, release.id, [Finding(path=FILES_PATH, reason="its bytes differ")])
    listed = parse_entries(listing)
    read = 0
    if deep:
        with Phase(report, "verify", release.id, total=config.contents.bytes, unit=Unit.BYTES) as phase:
            findings, read = _compare(place, listed, phase, cancel)
        if findings:
            raise _damaged(directory, release.id, findings)
    return Verified(backend=directory.name, release=release.id, files=len(listed), bytes=read, deep=deep)


def _compare(place: Path, listed: dict[str, Entry], phase: Phase, cancel: Cancel) -> tuple[list[Finding], int]:
    findings = [
        Finding(path=path, reason="it is not in the file manifest")
        for path in _walk(place)
        if path not in listed and path not in UNLISTED
    ]
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="mr-verify") as pool:
        # Chunks of entries, so that a hundred thousand small files cost few hand-overs between threads.
        entries = list(listed.values())
        chunks = [entries[start : start + 64] for start in range(0, len(entries), 64)]
        for found, size in pool.map(lambda chunk: _check_chunk(place, chunk, cancel), chunks):
            findings.extend(found)
            done += size
            phase.progress(done)
    return sorted(findings, key=lambda finding: finding.path), done


def _check_chunk(place: Path, entries: list[Entry], cancel: Cancel) -> tuple[list[Finding], int]:
    findings, size = [], 0
    for entry in entries:
        cancel.check()
        reason = _difference(place, entry)
        if reason:
            findings.append(Finding(path=entry.path, reason=reason))
        if isinstance(entry, FileEntry):
            size += entry.size
    return findings, size


def _difference(place: Path, entry: Entry) -> str:
    path = place / entry.path
    try:
        status = path.lstat()
        match entry:
            case LinkEntry():
                if not stat.S_ISLNK(status.st_mode):
                    return "it is not a symbolic link"
                return "" if os.readlink(path) == entry.link else "it links elsewhere"  # noqa: PTH115 - raw text
            case FileEntry():
                if not stat.S_ISREG(status.st_mode):
                    return "it is not a regular file"
                if stat.S_IMODE(status.st_mode) != entry.mode:
                    return f"its mode is {stat.S_IMODE(status.st_mode):o}, not {entry.mode:o}"
                if status.st_size != entry.size:
                    return f"it has {status.st_size} bytes, not {entry.size}"
                with path.open("rb", buffering=0) as file:
                    return "" if Digest.of_file(file).hex == entry.sha256 else "its bytes differ"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _walk(place: Path) -> Iterator[str]:
    with host_errors("read", place):
        prefix = len(str(place)) + 1
        for directory, names, files in os.walk(place):
            links = [name for name in names if os.path.islink(os.path.join(directory, name))]  # noqa: PTH114, PTH118
            for name in [*files, *links]:
                yield os.path.join(directory, name)[prefix:]  # noqa: PTH118


def _damaged(directory: BackendDirectory, release: str, findings: list[Finding]) -> IntegrityError:
    shown = "".join(f"\n  {finding.path}: {finding.reason}" for finding in findings[:MAX_FINDINGS])
    more = len(findings) - MAX_FINDINGS
    return IntegrityError(
        f"Cannot verify {directory.name} {release}: {len(findings)} difference(s):{shown}"
        + (f"\n  … and {more} more" if more > 0 else ""),
        hint=f"uninstall and install it again: `mr-install uninstall {directory.name}`",
        findings=[{"path": finding.path, "reason": finding.reason} for finding in findings[:MAX_FINDINGS]],
    )
