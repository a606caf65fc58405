"""What the cache directory holds, and what of it nobody has used for long.

An entry is used when a build touches it, see `mr_bundler.cache`. Everything can be removed: builds make it again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.cache import LOCK, BuildCache
from mr_core.durable import host_errors, remove_tree
from mr_core.errors import BundleError
from mr_core.events import Cancel, Phase, Reporter, discard
from mr_core.flock import try_lock, wait_lock

KINDS = {
    "archives": "archives of pinned interpreters, as fetched",
    "interpreters": "interpreters, unpacked and made relocatable",
    "wheels": "wheels that no index serves",
    "parts": "what is known of wheels and interpreters that were installed before",
    "layers": "packed layers",
    "builds": "whole builds, by what went into them",
    "tmp": "trees of builds that run, or were killed",
}
"""Every kind of entry and what it is; the names are stable."""

_UNFINISHED = ".ingest-"
_UNFINISHED_SECONDS = 86_400.0  # nothing is written for a day


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One thing that is kept or removed as a whole.

    Attributes:
        kind: A key of `KINDS`.
        paths: Files and directories.
        bytes: Sum of the sizes of its files.
        used: When it was used last, in seconds since 1970.
    """

    kind: str
    paths: tuple[Path, ...]
    bytes: int
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KindUsage:
    """All entries of one kind; ``oldest`` is when the one was used that nobody used for longest, 0 without any."""

    kind: str
    entries: int
    bytes: int
    oldest: float


def read_cache(directory: Path) -> tuple[CacheEntry, ...]:
    """Return everything in the cache, by kind and then by time, the oldest first; nothing when there is no cache.

    Raises:
        HostError: when it cannot be read.
    """
    with host_errors("read", directory):
        found = [
            *(_entry("archives", place) for place in _children(directory / "archives")),
            *(_entry("interpreters", place) for place in _children(directory / "interpreters")),
            *(_entry("wheels", place) for place in _wheels(directory / "wheels")),
            *(_entry("parts", place) for place in _children(directory / "parts")),
            *_layers(directory),
            *(_entry("builds", place) for place in _children(directory / "builds")),
            *(_entry("tmp", place) for place in _children(directory / "tmp")),
        ]
    order = list(KINDS)
    return tuple(sorted(found, key=lambda entry: (order.index(entry.kind), entry.used, entry.paths)))


def sum_usage(entries: Sequence[CacheEntry]) -> tuple[KindUsage, ...]:
    """Return the sums of every kind, also of those that nothing is there of."""
    kinds = {kind: [entry for entry in entries if entry.kind == kind] for kind in KINDS}
    return tuple(
        KindUsage(
            kind=kind,
            entries=len(members),
            bytes=sum(entry.bytes for entry in members),
            oldest=min((entry.used for entry in members), default=0.0),
        )
        for kind, members in kinds.items()
    )


def prune_cache(
    directory: Path, *, before: float, dry_run: bool = False, report: Reporter = discard, cancel: Cancel | None = None
) -> tuple[CacheEntry, ...]:
    """Remove what was used last ``before`` a time in seconds since 1970, and return it.

    A running build keeps the cache as a whole. What other commands use stays too, whatever its age: scratch directories
    that are locked, and for a day what is being written under a name of its own.

    Args:
        directory: The cache.
        before: Entries used later stay.
        dry_run: Whether to only return what would go.
        report: Gets the phase ``prune``.
        cancel: Stops between two entries.

    Raises:
        HostError: while a build runs, or when something cannot be removed.
        CancelledError: when asked to stop.
    """
    if not directory.is_dir():
        return ()
    lock = contextlib.nullcontext() if dry_run else wait_lock(directory / LOCK, what="the cache", timeout=0.0)
    with lock, Phase(report, "prune", str(directory)) as phase:
        chosen = tuple(entry for entry in read_cache(directory) if entry.used < before and not _is_busy(entry))
        for entry in () if dry_run else chosen:
            if cancel is not None:
                cancel.check()
            for place in entry.paths:
                remove_tree(place)
        phase.detail = {"entries": len(chosen), "bytes": sum(entry.bytes for entry in chosen)}
    return chosen


def _is_busy(entry: CacheEntry) -> bool:
    """Whether somebody may be working in it who does not hold the lock of the cache."""
    place = entry.paths[0]
    if place.name.startswith(_UNFINISHED):
        return time.time() - entry.used < _UNFINISHED_SECONDS
    if entry.kind != "tmp" or not place.is_dir():
        return False
    try:
        lock = try_lock(place / ".lock", create=False)
    except FileNotFoundError:  # not begun, and who begins copes with its loss
        return False
    except BundleError:
        return True
    if lock is None:
        return True
    lock.release()
    return False


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _wheels(directory: Path) -> list[Path]:
    """Return what is kept of wheels: a directory for each sha256, and what was left half written."""
    kept = [place for place in _children(directory) if place.name != "sha256"]
    return [*_children(directory / "sha256"), *kept]


def _layers(directory: Path) -> Iterator[CacheEntry]:
    """Yield packed layers: the records with their blobs, and blobs that no record knows any more."""
    cache = BuildCache(directory)
    blobs = {place.name: place for place in _children(directory / "blobs" / "sha256")}
    known: dict[str, list[Path]] = {name: [] for name in blobs}
    for place in _children(directory / "layers"):
        record = cache.load_record("layers", place.name, touch=False) or {}
        name = str(record.get("digest", "")).partition(":")[2]
        if name in known:
            known[name].append(place)
        else:
            yield _entry("layers", place)
    for name, records in known.items():
        yield _entry("layers", blobs[name], *records)


def _entry(kind: str, *paths: Path) -> CacheEntry:
    size, used = 0, 0.0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a build may be working here
            status = path.lstat()
            used = max(used, status.st_mtime)
            size += _tree_bytes(path) if stat.S_ISDIR(status.st_mode) else status.st_size
    if kind == "wheels":  # the directory is not touched, the wheel in it is
        used = max([used, *(place.lstat().st_mtime for place in _files(paths[0]))])
    return CacheEntry(kind=kind, paths=paths, bytes=size, used=used)


def _files(place: Path) -> list[Path]:
    return [child for child in _children(place) if child.is_file()] if place.is_dir() else []


def _tree_bytes(place: Path) -> int:
    size = 0
    for top, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(f"{top}/{name}").st_size
    return size
