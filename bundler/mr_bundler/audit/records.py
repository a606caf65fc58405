"""Compare a tree with what it says of itself: the RECORD of every distribution, and a bundle's own file manifest."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from mr_bundler.audit.finding import Finding
from mr_bundler.environment.wheel_record import read_rows, record_digest
from mr_core.durable import host_errors
from mr_core.file_manifest import FILES_PATH, UNLISTED, Entry, FileEntry

_DIST_INFO = re.compile(r"(?:(?:.*/)?(?:site|dist)-packages/)?([^/]+)-[^/-]+\.dist-info")
_MOST_RECORD_BYTES = 64 << 20
NO_RECORD = "the distribution has no readable RECORD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an installed distribution says it consists of.

    Attributes:
        name: Normalised.
        place: Its ``.dist-info`` directory.
        files: Recorded digest (``sha256=…``, or empty) by path; both relative to the root of the tree, and paths that
            leave it begin with ``..``. None when there is no readable RECORD.
    """

    name: str
    place: str
    files: Mapping[str, str] | None


def read_records(root: Path, entries: Mapping[str, Entry]) -> tuple[Record, ...]:
    """Return the records of the distributions directly below any ``site-packages`` of a tree, sorted by place.

    What packages carry inside themselves (``setuptools/_vendor``) was never installed there, so it is not asked for.

    Raises:
        HostError: when one cannot be read.
    """
    places = {
        path.rpartition("/")[0] for path in entries if path.endswith((".dist-info/RECORD", ".dist-info/METADATA"))
    }
    found = []
    for place in sorted(places):
        match = _DIST_INFO.fullmatch(place)
        if match is not None:
            present = isinstance(entries.get(f"{place}/RECORD"), FileEntry)
            files = _read_record(root, place) if present else None
            found.append(Record(name=canonicalize_name(match[1]), place=place, files=files))
    return tuple(found)


def _read_record(root: Path, place: str) -> dict[str, str] | None:
    path = root / place / "RECORD"
    with host_errors("read", path), path.open("rb") as file:
        content = file.read(_MOST_RECORD_BYTES)
    try:
        return read_rows(content.decode(), posixpath.dirname(place))
    except (UnicodeDecodeError, csv.Error):
        return None


def judge_records(entries: Mapping[str, Entry], records: Sequence[Record]) -> Iterator[Finding]:
    """Yield findings of the kinds ``missing-record-file``, ``record-mismatch`` and ``conflicting-files``. Pure.

    Digests other than sha256 are not compared; bytecode that is gone is no finding, since Python writes it anew.
    """
    owners: dict[str, tuple[str, str]] = {}
    for record in records:
        if record.files is None:
            yield Finding(kind="missing-record-file", path=f"{record.place}/RECORD", detail=NO_RECORD)
            continue
        for path, digest in record.files.items():
            name, other = owners.setdefault(path, (record.name, digest))
            if name != record.name and (not digest or other != digest):
                yield Finding(kind="conflicting-files", path=path, detail=f"{name} and {record.name}")
            yield from _judge_row(path, digest, entries.get(path), record)


def _judge_row(path: str, digest: str, entry: Entry | None, record: Record) -> Iterator[Finding]:
    if entry is None:
        if not (path.endswith(".pyc") and posixpath.basename(posixpath.dirname(path)) == "__pycache__"):
            yield Finding(kind="missing-record-file", path=path, detail=record.name)
    elif (
        isinstance(entry, FileEntry)
        and digest.startswith("sha256=")
        and record_digest(entry.sha256) != digest.rstrip("=")
    ):
        yield Finding(kind="record-mismatch", path=path, detail=record.name)


def judge_manifest(entries: Mapping[str, Entry], listed: Mapping[str, Entry]) -> Iterator[Finding]:
    """Yield findings where a tree differs from the file manifest in it. Pure."""
    for path, entry in listed.items():
        if path not in entries:
            yield Finding(kind="missing-record-file", path=path, detail=FILES_PATH)
        elif entries[path] != entry:
            yield Finding(kind="record-mismatch", path=path, detail=FILES_PATH)
    for path in entries.keys() - listed.keys() - UNLISTED:
        yield Finding(kind="record-mismatch", path=path, detail=f"not in {FILES_PATH}")
