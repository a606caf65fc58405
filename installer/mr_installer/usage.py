"""Who uses a release right now: holders of its lease, and processes that map or run its files."""

from __future__ import annotations

import os
import subprocess
import sys
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


def is_leased(release: Path) -> bool:
    """Whether a server that the shim started holds the lease of ``release``."""
    try:
        lock = try_lock(release / LEASE_PATH, create=False)
    except (FileNotFoundError, BundleError):
        return False
    if lock is None:
        return True
    lock.release()
    return False


def processes_using(directory: BackendDirectory) -> list[Process]:
    """Return the processes that run from, map files of, or work in the releases of a backend, but this one.

    Reads ``/proc`` on Linux; asks ``lsof`` on macOS. Processes of other users may be invisible to both; leases cover
    those that the shim started.
    """
    prefix = os.path.realpath(directory.releases) + os.sep
    found = _from_proc(prefix) if sys.platform == "linux" else _from_lsof(prefix)
    return [process for process in found if process.pid != os.getpid()]


def _from_proc(prefix: str) -> list[Process]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            uses = str((entry / "exe").readlink()).startswith(prefix) or prefix in (entry / "maps").read_text()
        except (OSError, UnicodeDecodeError):
            continue  # it ended, or it is not ours to look at
        if uses:
            found.append(Process(pid=int(entry.name), command=_command(entry)))
    return sorted(found, key=lambda process: process.pid)


def _command(entry: Path) -> str:
    """Return the name of the program alone: arguments may hold secrets."""
    try:
        first = (entry / "cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return ""
    return os.path.basename(first.decode("utf-8", "replace"))  # noqa: PTH119


def _from_lsof(prefix: str) -> list[Process]:
    try:
        listing = subprocess.run(
            ["/usr/sbin/lsof", "-nP", "-F", "pcn"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
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
