"""Platforms and targets: what a bundle was built for.

A *platform* is an operating system and an architecture in OCI (Go) spelling; a *target* adds the
accelerator: ``linux/amd64+cpu``, ``darwin/arm64+metal``, ``linux/amd64+cuda13``.
"""

from __future__ import annotations

import platform as _host
import re
from dataclasses import dataclass

from mr_core.errors import InvalidInputError

OPERATING_SYSTEMS = ("linux", "darwin")
ARCHITECTURES = ("amd64", "arm64")
_ACCELERATOR = re.compile(r"[a-z][a-z0-9]{0,31}")
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system and an architecture, such as ``linux/amd64``."""

    os: str
    architecture: str

    @classmethod
    def host(cls) -> Platform:
        """Return this machine's platform, even when no bundle exists for it."""
        machine = _host.machine().lower()
        return cls(_host.system().lower(), _MACHINES.get(machine, machine))

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A platform plus an accelerator, such as ``linux/amd64+cpu``."""

    platform: Platform
    accelerator: str

    @classmethod
    def parse(cls, text: object, where: str = "target") -> Target:
        """Parse ``os/arch+accelerator``; raise `InvalidInputError` naming ``where`` for anything else."""
        if isinstance(text, str):
            system, slash, rest = text.partition("/")
            architecture, plus, accelerator = rest.partition("+")
            known = system in OPERATING_SYSTEMS and architecture in ARCHITECTURES
            if slash and plus and known and _ACCELERATOR.fullmatch(accelerator):
                return cls(Platform(system, architecture), accelerator)
        raise InvalidInputError(
            f"Cannot read {where}: {str(text)[:100]!r} is not a target",
            hint="a target looks like `linux/amd64+cpu`, `darwin/arm64+metal` or `linux/amd64+cuda13`",
        )

    @property
    def file_stem(self) -> str:
        """The target as part of a file name: ``linux-amd64+cpu``."""
        return str(self).replace("/", "-")

    def __str__(self) -> str:
        return f"{self.platform}+{self.accelerator}"
