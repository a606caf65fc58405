"""Look at every file of a directory: its kind and mode, its bytes, and what is notable about it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mr_bundler.audit.facts import FileFacts
from mr_bundler.audit.finding import Finding
from mr_bundler.audit.path_rules import mode_problem
from mr_bundler.environment.file_digests import examine_files
from mr_bundler.environment.leaks import Leak, Needle, judge_leaks
from mr_core.durable import host_errors
from mr_core.events import Cancel, Phase, Reporter
from mr_core.file_manifest import LEASE_PATH, RECEIPT_PATH, Entry, FileEntry, LinkEntry

_INSTALLERS = (LEASE_PATH, RECEIPT_PATH)
"""What an installer adds to a release: not part of a bundle."""


@dataclass(slots=True, kw_only=True)
class Examination:
    """What was seen in a directory.

    Attributes:
        entries: Files and links by path; the mode of a file has all its permission bits.
        facts: By path, for the files of which there is something to say.
        leaks: Needles that were found, by file.
        extra: Findings about what is no file and no link.
        bytes: Sum of the sizes of its files.
    """

    entries: Mapping[str, Entry]
    facts: Mapping[str, FileFacts]
    leaks: Sequence[Leak]
    extra: Sequence[Finding]
    bytes: int


@dataclass(slots=True)
class _Listing:
    modes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    extra: list[Finding] = field(default_factory=list)


def examine_directory(
    root: Path, needles: Sequence[Needle], *, jobs: int, report: Reporter, cancel: Cancel
) -> Examination:
    """Look at everything below ``root``; no link is followed.

    Raises:
        HostError: when something cannot be read.
        CancelledError: asked to stop.
    """
    listing = _Listing()
    with Phase(report, "list", str(root)) as phase, host_errors("read", root):
        _list(os.fspath(root), listing, cancel)
        phase.detail = {"files": len(listing.sizes), "links": len(listing.links)}
    total = sum(listing.sizes.values())
    with Phase(report, "read", total=len(listing.sizes)) as phase:
        texts = [needle.text for needle in needles]
        examined = examine_files(root, listing.sizes, texts, jobs=jobs, cancel=cancel, progress=phase.progress)
        phase.detail = {"files": len(examined), "bytes": total}
    entries: dict[str, Entry] = {
        path: FileEntry(path=path, mode=mode, size=examined[path].size, sha256=examined[path].sha256)
        for path, mode in listing.modes.items()
    }
    entries |= {path: LinkEntry(path=path, link=target) for path, target in listing.links.items()}
    found = {path: seen.needles for path, seen in examined.items() if seen.needles}
    return Examination(
        entries={path: entries[path] for path in sorted(entries, key=os.fsencode)},
        facts={path: seen.facts for path, seen in examined.items() if seen.facts is not None},
        leaks=judge_leaks(found, needles),
        extra=listing.extra,
        bytes=total,
    )


def _list(root: str, listing: _Listing, cancel: Cancel) -> None:
    left = [""]  # no recursion: a directory may be deeper than Python's stack
    while left:
        cancel.check()
        prefix = left.pop()
        with os.scandir(os.path.join(root, prefix)) as entries:  # noqa: PTH118 - a hot loop
            for entry in entries:
                _list_entry(entry, f"{prefix}{entry.name}", listing, left)


def _list_entry(entry: os.DirEntry[str], path: str, listing: _Listing, left: list[str]) -> None:
    status = entry.stat(follow_symlinks=False)
    kind = status.st_mode
    if stat.S_ISLNK(kind):
        listing.links[path] = os.readlink(entry.path)  # noqa: PTH115 - a hot loop
    elif stat.S_ISDIR(kind):
        if problem := mode_problem(stat.S_IMODE(kind)):
            listing.extra.append(Finding(kind="unsafe-mode", path=path, detail=f"{problem} directory"))
        left.append(f"{path}/")
    elif not stat.S_ISREG(kind):
        listing.extra.append(Finding(kind="unsafe-path", path=path, detail="is neither a file nor a link"))
    elif path not in _INSTALLERS:
        listing.modes[path] = stat.S_IMODE(kind)
        listing.sizes[path] = status.st_size
