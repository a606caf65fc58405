"""Make a release the active one: COMMIT (one rename of one symlink), and the steps behind it that can be redone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mr_core.durable import host_errors, make_directories, point_link, remove_tree, sync_directory, write_durably
from mr_core.errors import BundleError, HostError
from mr_core.events import Cancel, Level, Notice, Reporter
from mr_core.flock import FileLock, try_lock, wait_lock
from mr_installer.receipt import append_history, read_journal
from mr_installer.releases import read_release
from mr_installer.root import BackendDirectory

LOCK_SECONDS = 3600.0

Checkpoint = Callable[[str], None]
"""Called with the name of each step before it begins; tests stop the process there."""


def no_checkpoint(_step: str) -> None:
    """Go on: the default."""


@contextmanager
def exclusive(
    directory: BackendDirectory, *, report: Reporter, cancel: Cancel | None, timeout: float = LOCK_SECONDS
) -> Iterator[FileLock]:
    """Hold the backend's lock for a change; what a crashed run left behind is finished or discarded first.

    Raises:
        HostError: when somebody else still holds it after ``timeout`` seconds, the place cannot be used, or another
            program owns it.
    """
    refuse_odd_places(directory)
    make_directories(directory.state)
    what = f"`{directory.name}`"
    with wait_lock(directory.lock, what=what, timeout=timeout, cancel=cancel, report=report) as lock:
        refuse_foreign(directory)
        recover(directory, report)
        yield lock


def refuse_odd_places(directory: BackendDirectory) -> None:
    """Raise `HostError` when a directory of ours is a link or a file: it would lead the transaction elsewhere."""
    for place in (directory.path, directory.bin, directory.releases, directory.state):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise HostError(
                f"Cannot use `{place}`: it must be a real directory, not a link or a file",
                hint="move it away, or choose another root with `--root`",
            )


def refuse_foreign(directory: BackendDirectory) -> None:
    """Raise `HostError` when something that is not ours lies in the backend's directory; it is never merged."""
    foreign = directory.foreign_entries()
    if foreign:
        raise HostError(
            f"Cannot change `{directory.path}`: another program put a backend there (`{foreign[0]}`)",
            hint="move that directory away, or choose another root with `--root`",
            entries=foreign[:20],
        )


def activate(
    directory: BackendDirectory, release: str, *, report: Reporter, checkpoint: Checkpoint = no_checkpoint
) -> None:
    """Make ``release`` active. Everything before this call is invisible, everything after its first step is redone.

    Raises:
        HostError: when the commit point could not be moved; what was active still is.
    """
    make_directories(directory.bin)
    point_link(directory.python, directory.entries(release)["python3"])
    try:
        checkpoint("settle")
        settle(directory, release)
        checkpoint("clean")
        close_journal(directory)
    except (BundleError, OSError) as error:
        # It is active: saying that the install failed would be wrong. The journal makes the next run finish it.
        text = f"{directory.name} {release} is active, but its entries could not be settled: {error}"
        report(Notice(code="unfinished", message=text, level=Level.WARNING))


def settle(directory: BackendDirectory, release: str) -> None:
    """Bring the entries and files that follow from the active release into line with it."""
    for name, target in directory.entries(release).items():
        link = directory.bin / name
        if not link.is_symlink() or str(link.readlink()) != target:
            point_link(link, target)
    write_durably(directory.version_file, f"{_version(directory, release)}\n".encode())
    append_history(directory.history, release)


def _version(directory: BackendDirectory, release: str) -> str:
    with contextlib.suppress(BundleError):
        found = read_release(directory, release)
        if found is not None:
            return found.receipt.version
    return release.rpartition("-")[0]


def finish_leftovers(directory: BackendDirectory, report: Reporter) -> None:
    """Finish what a crash cut after COMMIT and repair lost entries, unless somebody is at work there right now."""
    active = directory.active()
    if not directory.journal.exists() and (active is None or _is_settled(directory, active)):
        return
    lock = try_lock(directory.lock)
    if lock is not None:
        with lock:
            recover(directory, report)
            active = directory.active()
            if active is not None and not _is_settled(directory, active):
                settle(directory, active)


def _is_settled(directory: BackendDirectory, active: str) -> bool:
    try:
        links = {name: str((directory.bin / name).readlink()) for name in directory.entries(active)}
    except OSError:
        return False
    return links == directory.entries(active) and directory.version_file.is_file()


def recover(directory: BackendDirectory, report: Reporter) -> None:
    """Finish a transaction that a crash cut after COMMIT, and discard one that it cut before.

    Repeating it changes nothing. What cannot be removed is told and left: it must not block the backend for ever. The
    caller holds the backend's lock.
    """
    journal = read_journal(directory.journal)
    if journal is not None:
        active = directory.active()
        if journal.operation == "uninstall" and active is None:
            remove_contents(directory, journal.transaction)
        elif active is not None and active == journal.release:
            settle(directory, active)
    for place in _leftovers(directory):
        try:
            remove_tree(place)
        except BundleError as error:
            report(Notice(code="leftover", message=error.message, level=Level.WARNING))
    close_journal(directory)


def _leftovers(directory: BackendDirectory) -> list[Path]:
    found: list[Path] = []
    with host_errors("read", directory.state):
        for place in (directory.path, directory.bin, directory.state, directory.state / "probed", directory.logs):
            found += place.glob(".*.tmp")
        found += directory.state.glob("stage-*")
        found += directory.state.glob("trash-*")
    return sorted(found)


def remove_contents(directory: BackendDirectory, transaction: str) -> None:
    """Remove everything of a backend that is not active any more, but its lock file: others may wait for it."""
    for release in directory.release_ids():
        discard(directory, directory.release(release), transaction)
    with host_errors("remove", directory.path):
        for name in directory.entries(""):
            with contextlib.suppress(FileNotFoundError):
                (directory.bin / name).unlink()
        for place in (directory.bin, directory.releases):
            with contextlib.suppress(OSError):  # somebody's own file keeps it
                place.rmdir()
        remove_tree(directory.version_file)
        for place in directory.state.iterdir():
            if place not in (directory.lock, directory.journal):
                remove_tree(place)


def close_journal(directory: BackendDirectory) -> None:
    """Remove the journal: the transaction has ended."""
    with host_errors("remove", directory.journal), contextlib.suppress(FileNotFoundError):
        directory.journal.unlink()
        sync_directory(directory.state)


def discard(directory: BackendDirectory, place: Path, transaction: str) -> None:
    """Remove a release or stage: rename it out of sight, forget its probe, then unlink."""
    remove_tree(set_aside(directory, place, transaction))


def set_aside(directory: BackendDirectory, place: Path, transaction: str) -> Path:
    """Rename a release or stage out of sight and forget its probe; return the directory to be removed for good."""
    trash = directory.state / f"trash-{transaction}"
    make_directories(trash)
    with host_errors("remove", place):
        if place.exists() or place.is_symlink():
            place.replace(trash / place.name)
            sync_directory(place.parent)
        directory.probed(place.name).unlink(missing_ok=True)
    return trash
