"""Make a release the active one: COMMIT (one rename of one symlink), and the steps behind it that can be redone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mr_core.durable import host_errors, make_directories, point_link, remove_tree, sync_directory, write_durably
from mr_core.errors import HostError
from mr_core.events import Cancel
from mr_core.flock import FileLock, try_lock, wait_lock
from mr_installer.receipt import Journal, append_history, read_journal
from mr_installer.releases import read_release
from mr_installer.root import PYTHON, BackendDirectory

LOCK_SECONDS = 3600.0


@contextmanager
def exclusive(
    directory: BackendDirectory, *, cancel: Cancel | None, timeout: float = LOCK_SECONDS
) -> Iterator[FileLock]:
    """Hold the backend's lock for a change; what a crashed run left behind is finished or discarded first.

    Raises:
        HostError: when somebody else still holds it after ``timeout`` seconds, or the place cannot be used.
    """
    refuse_odd_places(directory)
    make_directories(directory.state)
    with wait_lock(directory.lock, what=f"`{directory.name}`", timeout=timeout, cancel=cancel) as lock:
        recover(directory)
        yield lock


def finish_leftovers(directory: BackendDirectory) -> None:
    """Finish what a crash cut after COMMIT, unless somebody is at work there right now."""
    if directory.journal.exists():
        lock = try_lock(directory.lock)
        if lock is not None:
            with lock:
                recover(directory)


def refuse_odd_places(directory: BackendDirectory) -> None:
    """Raise `HostError` when a directory of ours is a link or a file: it would lead the transaction elsewhere."""
    for place in (directory.path, directory.bin, directory.releases, directory.state):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise HostError(
                f"Cannot use `{place}`: it must be a real directory, not a link or a file",
                hint="move it away, or choose another root with `--root`",
            )


def commit(directory: BackendDirectory, release: str) -> None:
    """Make ``release`` active. Everything before this call is invisible, everything after it can be redone."""
    make_directories(directory.bin)
    point_link(directory.python, f"../releases/{release}/bin/{PYTHON}")


def settle(directory: BackendDirectory, release: str) -> None:
    """Bring the entries and files that follow from the active release into line with it."""
    entries = {
        "python": "python3",
        PYTHON: "python3",
        "mr-serve": f"../releases/{release}/bin/mr-serve",
    }
    for name, target in entries.items():
        link = directory.bin / name
        if not link.is_symlink() or str(link.readlink()) != target:
            point_link(link, target)
    found = read_release(directory, release)
    version = found.receipt.version if found is not None else ""
    write_durably(directory.version_file, f"{version}\n".encode())
    append_history(directory.history, release)


def recover(directory: BackendDirectory) -> None:
    """Finish a transaction that a crash cut after COMMIT, and discard one that it cut before.

    Repeating it changes nothing. The caller holds the backend's lock.
    """
    journal = read_journal(directory.journal)
    if journal is not None:
        _finish(directory, journal)
    with host_errors("clean up", directory.state):
        for place in directory.state.iterdir():
            if place.name.startswith(("stage-", "trash-")) or place.name.endswith(".tmp"):
                remove_tree(place)
        if directory.bin.is_dir():
            for place in directory.bin.glob(".*.tmp"):
                place.unlink()
        close_journal(directory)


def _finish(directory: BackendDirectory, journal: Journal) -> None:
    active = directory.active()
    if journal.operation == "uninstall" and active is None:
        remove_contents(directory, journal.transaction)
    elif active is not None and active == journal.release:
        settle(directory, active)


def remove_contents(directory: BackendDirectory, transaction: str) -> None:
    """Remove everything of a backend that is not active any more, but its lock file: others may wait for it."""
    for release in directory.release_ids():
        discard(directory, directory.release(release), transaction)
    with host_errors("remove", directory.path):
        for place in (directory.bin, directory.releases, directory.version_file):
            remove_tree(place)
        for place in directory.state.iterdir():
            if place not in (directory.lock, directory.journal):
                remove_tree(place)


def close_journal(directory: BackendDirectory) -> None:
    """Remove the journal: the transaction has ended."""
    with contextlib.suppress(FileNotFoundError):
        directory.journal.unlink()
        sync_directory(directory.state)


def discard(directory: BackendDirectory, place: Path, transaction: str) -> None:
    """Remove a release or stage: rename it out of sight, then unlink."""
    trash = directory.state / f"trash-{transaction}"
    make_directories(trash)
    if place.exists() or place.is_symlink():
        with host_errors("remove", place):
            place.replace(trash / place.name)
            sync_directory(place.parent)
    remove_tree(trash)
