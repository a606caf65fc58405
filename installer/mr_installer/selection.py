"""Choose the target this host can run; every other one is rejected with a stable reason code. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mr_core.bundle_config import HostRequirements
from mr_core.errors import UnsupportedError
from mr_core.manifest import Descriptor
from mr_core.platform import Target
from mr_installer.host import Host

_PREFERENCE = {"cpu": 1}
"""Accelerators by rising preference; every real accelerator comes before the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a target was rejected: a stable code, and the sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One entry of an index, as far as it can be judged before its manifest is read."""

    target: Target
    requires: HostRequirements
    descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An entry this host cannot run, with all reasons; its target is text, for it may be one we do not know."""

    target: str
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        return f"{self.target}: {'; '.join(reason.text for reason in self.reasons)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen candidate and the rejected ones."""

    chosen: Candidate
    rejected: tuple[Rejection, ...]


def select(
    candidates: list[Candidate],
    host: Host,
    *,
    what: str,
    wanted: Target | None = None,
    unknown: tuple[Rejection, ...] = (),
) -> Selection:
    """Choose among ``candidates``; ``wanted`` narrows the choice, but cannot make a host run what it cannot.

    ``unknown`` are entries that were rejected before they could be judged.

    Raises:
        UnsupportedError: when none fits, listing every target with every reason.
    """
    rejected = list(unknown)
    fitting: list[Candidate] = []
    for candidate in candidates:
        reasons = judge(candidate.target, candidate.requires, host)
        if wanted is not None and candidate.target != wanted:
            reasons = (Reason(code="not-wanted", text=f"`{wanted}` was asked for"),)
        if reasons:
            rejected.append(Rejection(target=str(candidate.target), reasons=reasons))
        else:
            fitting.append(candidate)
    if not fitting:
        lines = "".join(f"\n  {rejection}" for rejection in rejected) or " it holds no bundle"
        raise UnsupportedError(
            f"Cannot install {what} on {host.platform}: no target fits this host:{lines}",
            hint="choose another version or backend, or a host that meets one of these",
            rejected={r.target: [reason.code for reason in r.reasons] for r in rejected},
        )
    chosen = min(fitting, key=lambda item: (_PREFERENCE.get(item.target.accelerator, 0), str(item.target)))
    return Selection(chosen=chosen, rejected=tuple(rejected))


def judge(target: Target, requires: HostRequirements, host: Host) -> tuple[Reason, ...]:
    """Return every reason why ``host`` cannot run ``target``; none when it can."""
    if target.platform != host.platform:
        return (Reason(code="platform", text=f"this host is {host.platform}"),)
    reasons = []
    if requires.glibc and not host.glibc:
        reasons.append(Reason(code="glibc-missing", text=f"needs glibc {requires.glibc}, this host has another libc"))
    elif _older(host.glibc, requires.glibc):
        reasons.append(Reason(code="glibc", text=f"needs glibc {requires.glibc}, this host has {host.glibc}"))
    if _older(host.macos, requires.macos):
        reasons.append(Reason(code="macos", text=f"needs macOS {requires.macos}, this host has {host.macos}"))
    if target.accelerator.startswith("cuda"):
        if not host.cuda_driver:
            reasons.append(Reason(code="no-nvidia-driver", text="needs an NVIDIA driver, none is loaded"))
        elif _older(host.cuda_driver, requires.cuda_driver):
            text = f"needs NVIDIA driver {requires.cuda_driver}, this host has {host.cuda_driver}"
            reasons.append(Reason(code="nvidia-driver", text=text))
    lacking = sorted(set(requires.cpu_features) - host.cpu_features) if host.cpu_features else []
    if lacking:
        reasons.append(Reason(code="cpu-feature", text=f"needs CPU features {', '.join(lacking)}"))
    return tuple(reasons)


def _older(have: str, need: str) -> bool:
    """Whether ``have`` is a lower version than ``need``; an unknown or unasked version is never older."""
    return bool(have) and bool(need) and _numbers(have) < _numbers(need)


def _numbers(version: str) -> list[int]:
    """Return the parts of a version, without trailing zeros: 14.0 is 14.0.0."""
    parts = [int(part) if part.isdecimal() else 0 for part in version.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return parts
