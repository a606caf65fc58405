"""What is installed: releases on disk, which of them is active, and in which state a backend is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mr_core.bundle_config import BundleConfig, parse_bundle_config
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import BundleError, IntegrityError, NotFoundError
from mr_core.file_manifest import BUNDLE_PATH, RECEIPT_PATH
from mr_core.flock import try_lock
from mr_installer.receipt import Receipt, read_history, read_probe_record, read_receipt
from mr_installer.root import BackendDirectory


class State(Enum):
    """What a user wants to know about a backend first."""

    NOT_INSTALLED = "not-installed"
    INSTALLED = "installed"
    INSTALLING = "installing"
    BROKEN = "broken"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A placed release: complete, and never changed afterwards.

    Attributes:
        probed: Whether its probe passed here; false as well when its user chose to skip it.
        accepted: Whether it may be active: probed, or skipped by choice.
    """

    id: str
    receipt: Receipt
    probed: bool
    accepted: bool
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A backend as it is on disk now."""

    backend: str
    state: State
    active: Release | None
    releases: tuple[Release, ...]
    problem: str = ""


def read_release(directory: BackendDirectory, release: str) -> Release | None:
    """Return a placed release; `None` when it does not exist.

    Raises:
        InvalidInputError: when its receipt is damaged.
        NotFoundError: when it has no receipt: it was never sealed.
    """
    if release not in directory.release_ids():
        return None
    place = directory.release(release)
    receipt = read_receipt(place / RECEIPT_PATH)
    if receipt is None:
        raise NotFoundError(f"Cannot use release `{release}` of {directory.name}: it has no receipt")
    record = read_probe_record(directory.probed(release))
    return Release(
        id=release,
        receipt=receipt,
        probed=record is not None and not record.skipped,
        accepted=record is not None,
        active=directory.active() == release,
    )


def find_release(directory: BackendDirectory, release: str, digest: Digest) -> Release | None:
    """Return the placed release of exactly this bundle; `None` when it is not there, or not whole enough to use.

    Raises:
        IntegrityError: when another bundle has the same release id: its digest was made to begin alike.
    """
    try:
        found = read_release(directory, release)
    except BundleError:
        return None
    if found is not None and found.receipt.digest != digest:
        raise IntegrityError(
            f"Cannot install {digest}: another bundle, {found.receipt.digest}, is installed as `{release}`",
            hint=f"check where both come from; `mr-install uninstall {directory.name}` removes the installed one",
        )
    return found


def read_config(directory: BackendDirectory, release: str) -> BundleConfig:
    """Return the bundle config of a placed release."""
    path = directory.release(release) / BUNDLE_PATH
    with host_errors("read", path):
        content = path.read_bytes()
    return parse_bundle_config(content, f"bundle config `{path}`")


def read_status(directory: BackendDirectory) -> Status:
    """Return the state of a backend without waiting for whoever is changing it."""
    releases = []
    problem = ""
    for release in directory.release_ids():
        try:
            found = read_release(directory, release)
        except BundleError as error:
            problem = error.message
            continue
        if found is not None:
            releases.append(found)
    active = next((release for release in releases if release.active), None)
    return Status(
        backend=directory.name,
        state=_state(directory, active, problem),
        active=active,
        releases=tuple(releases),
        problem=problem,
    )


def _state(directory: BackendDirectory, active: Release | None, problem: str) -> State:
    if directory.is_foreign():
        return State.FOREIGN
    if _is_busy(directory):
        return State.INSTALLING
    if active is not None:
        return State.INSTALLED
    if directory.active() is not None or problem:
        return State.BROKEN
    return State.NOT_INSTALLED


def _is_busy(directory: BackendDirectory) -> bool:
    if not directory.journal.exists():
        return False
    try:
        lock = try_lock(directory.lock, shared=True, create=False)
    except (BundleError, FileNotFoundError):
        return False
    if lock is None:
        return True
    lock.release()
    return False


def require_active(directory: BackendDirectory) -> Release:
    """Return the active release.

    Raises:
        NotFoundError: when the backend is not installed.
    """
    active = directory.active()
    release = read_release(directory, active) if active is not None else None
    if release is None:
        raise NotFoundError(
            f"Cannot find backend `{directory.name}`: it is not installed below `{directory.path.parent}`",
            hint=f"install it: `mr-install {directory.name} --from SOURCE`",
        )
    return release


def previous_release(directory: BackendDirectory) -> Release | None:
    """Return the release that was active last before the current one and can still be activated."""
    active = directory.active()
    for release in reversed(read_history(directory.history)):
        if release != active:
            try:
                found = read_release(directory, release)
            except BundleError:
                continue
            if found is not None and found.accepted:
                return found
    return None
