"""What outcomes look like to people."""

from __future__ import annotations

import shlex
from typing import assert_never

from mr_core.cli.units import show_bytes, show_seconds
from mr_core.errors import BundleError
from mr_installer.installer import Installer
from mr_installer.plan import Action, InstallPlan
from mr_installer.probing import ProbeResult
from mr_installer.releases import Release, Status, previous_release, read_config
from mr_installer.transaction import Installed


def show_installed(done: Installed) -> str:
    """Return the outcome of an install."""
    match done.action:
        case Action.NOTHING:
            first = f"{done.backend} {done.version} is installed already ({done.target}, {done.release})"
        case Action.ACTIVATE:
            first = f"{done.backend} {done.version} is active now ({done.target}, {done.release})"
        case Action.INSTALL:
            first = f"{done.backend} {done.version} is installed ({done.target}, {done.release})"
        case _:
            assert_never(done.action)
    return f"{first}\nstart it: {shlex.quote(str(done.launcher))} --model DIR --port N"


def show_plan(plan: InstallPlan) -> str:
    """Return the plan as aligned lines."""
    does = {
        Action.NOTHING: "nothing: it is active already",
        Action.ACTIVATE: "activate the release that is on disk",
        Action.INSTALL: "fetch, extract, probe, activate",
    }
    rows = [
        ("backend", f"{plan.backend} {plan.version}"),
        ("source", plan.source),
        ("digest", str(plan.digest)),
        ("target", plan.target),
        ("does", does[plan.action]),
    ]
    if plan.action is Action.INSTALL:
        rows.append(("fetch", show_bytes(plan.fetch_bytes)))
        rows.append(("on disk", f"{show_bytes(plan.disk_bytes)} in {plan.inodes} inodes"))
        rows.append(("free", show_bytes(plan.free_bytes)))
    if plan.previous:
        rows.append(("replaces", f"{plan.previous} (stays for rollback)"))
    rows.extend(("rejected", str(rejection)) for rejection in plan.rejected)
    return _rows(rows)


def show_list(installer: Installer, found: list[Status]) -> str:
    """Return a table of backends."""
    if not found:
        return f"no backend is installed below {installer.root.path}"
    lines = [f"{'BACKEND':<16} {'STATE':<14} {'VERSION':<16} {'TARGET':<20} SIZE"]
    for status in found:
        active = status.active
        version = active.receipt.version if active else "-"
        target = active.receipt.target if active else "-"
        size = _size(installer, status, active)
        lines.append(f"{status.backend:<16} {status.state.value:<14} {version:<16} {target:<20} {size}")
    return "\n".join(lines)


def _size(installer: Installer, status: Status, active: Release | None) -> str:
    if active is None:
        return "-"
    try:
        return show_bytes(read_config(installer.root.backend(status.backend), active.id).contents.bytes)
    except BundleError:
        return "?"


def show_status(installer: Installer, found: list[Status]) -> str:
    """Return the state of backends in full."""
    if not found:
        return f"no backend is installed below {installer.root.path}"
    return "\n\n".join(_status(installer, status) for status in found)


def _status(installer: Installer, status: Status) -> str:
    directory = installer.root.backend(status.backend)
    rows = [("backend", status.backend), ("state", status.state.value), ("path", str(directory.path))]
    if status.problem:
        rows.append(("problem", status.problem))
    if status.active is not None:
        receipt = status.active.receipt
        rows += [
            ("version", receipt.version),
            ("target", receipt.target),
            ("digest", str(receipt.digest)),
            ("source", receipt.source + (" (insecure)" if receipt.insecure else "")),
            ("installed", receipt.installed),
            ("launcher", str(directory.launcher)),
        ]
    back = previous_release(directory)
    for release in status.releases:
        if not release.active:
            remarks = [] if release.probed else ["not probed"]
            remarks += ["rollback activates it"] if back is not None and back.id == release.id else []
            rows.append(("also", release.id + (f" ({', '.join(remarks)})" if remarks else "")))
    return _rows(rows)


def show_probe(done: ProbeResult) -> str:
    """Return what a probe found."""
    rows = [(name, f"imported in {show_seconds(seconds)}") for name, seconds in done.modules.items()]
    rows += [(name, version) for name, version in done.versions.items()]
    return _rows(rows)


def _rows(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)
