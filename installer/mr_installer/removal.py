"""Uninstall a backend: refuse while it is in use, then remove everything but the lock file."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass

from mr_core.durable import host_errors, sync_directory
from mr_core.errors import HostError, NotFoundError
from mr_core.events import Cancel, Phase, Reporter
from mr_installer.activation import close_journal, exclusive, refuse_foreign, remove_contents
from mr_installer.receipt import Journal, write_journal
from mr_installer.root import BackendDirectory
from mr_installer.usage import hold_leases, processes_using


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninstalled:
    """What was removed."""

    backend: str
    releases: tuple[str, ...]


def uninstall(directory: BackendDirectory, *, force: bool, report: Reporter, cancel: Cancel) -> Uninstalled:
    """Remove every release of a backend and its entry points.

    Raises:
        NotFoundError: when nothing is installed.
        HostError: when it is in use and ``force`` is false, or when another program owns the directory.
    """
    refuse_foreign(directory)
    if not directory.release_ids() and directory.active() is None:
        raise NotFoundError(
            f"Cannot uninstall `{directory.name}`: it is not installed below `{directory.path.parent}`",
            hint="`mr-install list` shows what is installed",
        )
    with exclusive(directory, report=report, cancel=cancel), hold_leases(directory, directory.release_ids()) as leased:
        if not force:
            _refuse_when_used(directory, leased)
        releases = tuple(directory.release_ids())
        transaction = secrets.token_hex(4)
        write_journal(directory.journal, Journal(operation="uninstall", transaction=transaction))
        with Phase(report, "uninstall", directory.name):
            with host_errors("remove", directory.python), contextlib.suppress(FileNotFoundError):
                directory.python.unlink()
                sync_directory(directory.bin)
            remove_contents(directory, transaction)
            close_journal(directory)
    return Uninstalled(backend=directory.name, releases=releases)


def _refuse_when_used(directory: BackendDirectory, leased: list[str]) -> None:
    users = processes_using(directory)
    if users or leased:
        named = ", ".join(map(str, users)) or f"a server of {', '.join(leased)}"
        raise HostError(
            f"Cannot uninstall `{directory.name}`: it is in use by {named}",
            hint="stop the server first, or add `--force`",
            processes=[process.pid for process in users],
        )
