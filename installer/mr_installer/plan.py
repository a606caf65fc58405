"""What an install would do, decided before anything is done: the object that ``--dry-run`` shows and apply consumes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mr_core.digest import Digest
from mr_core.errors import HostError
from mr_installer.activation import refuse_foreign
from mr_installer.bundle import Bundle
from mr_installer.releases import find_release
from mr_installer.root import BackendDirectory, release_id
from mr_installer.selection import Rejection

INODES_BESIDE_FILES = 64
"""Inodes the installer itself needs: state, links, lock files."""


class Action(Enum):
    """What has to be done until the wanted release is active."""

    NOTHING = "nothing"
    ACTIVATE = "activate"
    INSTALL = "install"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallPlan:
    """The steps to make one release active.

    Attributes:
        fetch_bytes: Compressed bytes that are not on this machine yet.
        disk_bytes: Bytes of the release's files.
        inodes: Files, links and directories to be created.
        free_bytes: What the filesystem of the root offers now.
        previous: The release that is active now, and stays until the new one has passed its probe.
        bundle: What to install; `None` when the release is on disk already.
    """

    backend: str
    version: str
    target: str
    release: str
    digest: Digest
    resolved: Digest
    source: str
    action: Action
    previous: str = ""
    fetch_bytes: int = 0
    disk_bytes: int = 0
    inodes: int = 0
    free_bytes: int = 0
    insecure: bool = False
    bundle: Bundle | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {
            "backend": self.backend,
            "version": self.version,
            "target": self.target,
            "release": self.release,
            "digest": str(self.digest),
            "source": self.source,
            "action": self.action.value,
            "previous": self.previous,
            "fetch_bytes": self.fetch_bytes,
            "disk_bytes": self.disk_bytes,
            "inodes": self.inodes,
            "free_bytes": self.free_bytes,
            "rejected": {r.target: [reason.code for reason in r.reasons] for r in self.rejected},
        }

    @property
    def rejected(self) -> tuple[Rejection, ...]:
        """Targets of the same version that this host cannot run."""
        return self.bundle.rejected if self.bundle is not None else ()


def plan_bundle(
    bundle: Bundle, directory: BackendDirectory, *, source: str, insecure: bool, fetch_bytes: int, probe: bool
) -> InstallPlan:
    """Return the plan for a resolved bundle; ``probe`` tells whether a release must have passed its own.

    Reads the disk, changes nothing.
    """
    config = bundle.config
    release = release_id(config.version, bundle.digest)
    active = directory.active()
    placed = find_release(directory, release, bundle.digest)
    action = Action.INSTALL
    if placed is not None:
        proven = placed.probed if probe else placed.accepted
        action = Action.NOTHING if proven and active == release else Action.ACTIVATE
    new = action is Action.INSTALL
    return InstallPlan(
        backend=config.backend,
        version=config.version,
        target=str(config.target),
        release=release,
        digest=bundle.digest,
        resolved=bundle.resolved,
        source=source,
        action=action,
        previous=active if active is not None and active != release else "",
        fetch_bytes=fetch_bytes if new else 0,
        disk_bytes=config.contents.bytes if new else 0,
        inodes=config.contents.count + config.contents.directories + INODES_BESIDE_FILES if new else 0,
        free_bytes=_free(directory.path)[0],
        insecure=insecure,
        bundle=bundle,
    )


def preflight(plan: InstallPlan, directory: BackendDirectory) -> None:
    """Refuse what cannot work before the first byte is fetched.

    Raises:
        HostError: too little space or too few inodes, a filesystem that forbids execution, or somebody else's tree.
    """
    refuse_foreign(directory)
    if plan.action is not Action.INSTALL:
        return
    free, inodes, noexec = _free(directory.path)
    largest = max((layer.descriptor.size for layer in plan.bundle.layers), default=0) if plan.bundle else 0
    need = plan.disk_bytes + min(plan.fetch_bytes, 4 * largest)
    if free < need:
        raise HostError(
            f"Cannot install {plan.backend} {plan.version}: {need} bytes are needed below `{directory.path}`, "
            f"{free} are free",
            hint="free some disk space, or choose another root with `--root`",
            needed_bytes=need,
            free_bytes=free,
        )
    if inodes is not None and inodes < plan.inodes:
        raise HostError(
            f"Cannot install {plan.backend} {plan.version}: {plan.inodes} inodes are needed, {inodes} are free",
            hint="remove many small files, or choose another root with `--root`",
        )
    if noexec:
        raise HostError(
            f"Cannot install {plan.backend} below `{directory.path}`: its filesystem is mounted `noexec`",
            hint="choose another root with `--root`",
        )


def _free(path: Path) -> tuple[int, int | None, bool]:
    """Return free bytes, free inodes (`None` where the filesystem does not count them), and whether it is noexec."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        stats = os.statvfs(place)
        free = shutil.disk_usage(place).free
    except OSError:
        return 1 << 62, None, False
    noexec = bool(stats.f_flag & getattr(os, "ST_NOEXEC", 0))
    return free, stats.f_favail if stats.f_files else None, noexec
