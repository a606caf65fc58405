"""Install LLM inference backends: plan, fetch, extract, probe, commit, roll back.

Importing this package needs neither click, rich, docker nor uv, and costs next to nothing: each name is loaded when it
is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mr_core.errors import BundleError
    from mr_core.events import Cancel, Event, Reporter
    from mr_core.registry_options import RegistryOptions
    from mr_installer.installer import Installer
    from mr_installer.plan import Action, InstallPlan
    from mr_installer.probing import ProbeResult
    from mr_installer.releases import Release, State, Status
    from mr_installer.removal import Uninstalled
    from mr_installer.server import Server
    from mr_installer.staging import StageOptions
    from mr_installer.transaction import Installed
    from mr_installer.verification import Verified

__all__ = [
    "Action",
    "BundleError",
    "Cancel",
    "Event",
    "InstallPlan",
    "Installed",
    "Installer",
    "ProbeResult",
    "RegistryOptions",
    "Release",
    "Reporter",
    "Server",
    "StageOptions",
    "State",
    "Status",
    "Uninstalled",
    "Verified",
]

_HOMES = {
    "Action": "mr_installer.plan",
    "BundleError": "mr_core.errors",
    "Cancel": "mr_core.events",
    "Event": "mr_core.events",
    "InstallPlan": "mr_installer.plan",
    "Installed": "mr_installer.transaction",
    "Installer": "mr_installer.installer",
    "ProbeResult": "mr_installer.probing",
    "RegistryOptions": "mr_core.registry_options",
    "Release": "mr_installer.releases",
    "Reporter": "mr_core.events",
    "Server": "mr_installer.server",
    "StageOptions": "mr_installer.staging",
    "State": "mr_installer.releases",
    "Status": "mr_installer.releases",
    "Uninstalled": "mr_installer.removal",
    "Verified": "mr_installer.verification",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
