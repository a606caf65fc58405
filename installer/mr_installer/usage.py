"""Who uses a release right now: holders of its lease, and processes that map, run or work in its files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mr_core.errors import BundleError
from mr_core.file_manifest import LEASE_PATH
from mr_core.flock import try_lock
from mr_installer.root import BackendDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that uses a release."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.command})" if self.command else str(self.pid)


@contextmanager
def hold_leases(directory: BackendDirectory, releases: Iterable[str]) -> Iterator[list[str]]:
    """Keep servers from starting in ``releases`` for the block; yield those in which one runs already.

    A lease that cannot be judged counts as taken. A release without one was never complete, and nothing runs from it.
    """
    with contextlib.ExitStack() as stack:
        taken = []
        for release in releases:
            try:
                lock = try_lock(directory.release(release) / LEASE_PATH, create=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except BundleError:
                lock = None
            if lock is None:
                taken.append(release)
            else:
                stack.enter_context(lock)
        yield taken


@contextmanager
def use_release(directory: BackendDirectory, release: str) -> Iterator[None]:
    """Hold the lease of ``release`` as a server does, so that nobody removes it during the block."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(BundleError, FileNotFoundError):  # reading goes on without a lease, as in the shim
            lock = try_lock(directory.release(release) / LEASE_PATH, shared=True, create=False)
            if lock is not None:
                stack.enter_context(lock)
        yield


def processes_using(directory: BackendDirectory) -> list[Process]:
    """Return the processes that run from, map files of, or work in the releases of a backend, but this one.

    Reads ``/proc`` on Linux; asks ``lsof`` on macOS. Processes of other users may be invisible to both, and where
    there is no ``/proc`` nothing is seen; leases cover the servers that the shim started.
    """
    prefix = os.path.realpath(directory.releases) + os.sep
    found = _from_proc(os.fsencode(prefix)) if sys.platform == "linux" else _from_lsof(prefix)
    return [process for process in found if process.pid != os.getpid()]


def _from_proc(prefix: bytes) -> list[Process]:
    found = []
    try:
        entries = [entry for entry in os.listdir(b"/proc") if entry.isdigit()]  # noqa: PTH208 - names as bytes
    except OSError:
        return []
    for entry in entries:
        place = b"/proc/" + entry
        with contextlib.suppress(OSError):  # it ended, or it is not ours to look at
            if _uses(place, prefix):
                found.append(Process(pid=int(entry), command=_command(place)))
    return sorted(found, key=lambda process: process.pid)


def _uses(place: bytes, prefix: bytes) -> bool:
    links = (os.readlink(place + name) + b"/" for name in (b"/exe", b"/cwd"))  # noqa: PTH115 - names may be no text
    return any(link.startswith(prefix) for link in links) or prefix in Path(os.fsdecode(place), "maps").read_bytes()


def _command(place: bytes) -> str:
    """Return the name of the program alone: arguments may hold secrets."""
    try:
        first = Path(os.fsdecode(place), "cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return ""
    return os.path.basename(first.decode("utf-8", "replace"))  # noqa: PTH119


def _from_lsof(prefix: str) -> list[Process]:
    try:
        listing = subprocess.run(
            ["/usr/sbin/lsof", "-nP", "-F", "pcn"], capture_output=True, timeout=30, check=False
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return []
    found: dict[int, str] = {}
    pid, command = 0, ""
    for line in listing.splitlines():
        kind, value = line[:1], line[1:]
        if kind == "p":
            pid = int(value)
        elif kind == "c":
            command = value
        elif kind == "n" and value.startswith(prefix):
            found[pid] = command
    return [Process(pid=pid, command=command) for pid, command in sorted(found.items())]
