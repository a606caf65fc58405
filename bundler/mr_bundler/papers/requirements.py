"""Which distribution of a bundle needs which others: ``Requires-Dist`` judged for the target. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mr_bundler.papers.metadata import DistributionMetadata
from mr_core.platform import Target

_MACHINES = {
    ("linux", "amd64"): "x86_64",
    ("linux", "arm64"): "aarch64",
    ("darwin", "amd64"): "x86_64",
    ("darwin", "arm64"): "arm64",
}
_SYSTEMS = {"linux": "Linux", "darwin": "Darwin"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementGraph:
    """Who needs whom; names are normalised, sorted, and all of them are in the bundle.

    Attributes:
        roots: What the recipe asks for.
        needs: What each distribution asks for.
        absent: What each asks for and the bundle does not hold: overridden or excluded by the recipe.
    """

    roots: tuple[str, ...]
    needs: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, tuple[str, ...]]


def require(
    requirements: Iterable[str], distributions: Mapping[str, DistributionMetadata], target: Target, python: str
) -> RequirementGraph:
    """Follow ``requirements`` through the metadata of all distributions.

    Args:
        requirements: Of the recipe, for the target.
        distributions: By normalised name.
        target: Where the markers are judged; nothing of this machine counts.
        python: Exact version of the bundle's interpreter.
    """
    environment = _environment(target, python)
    asked = [wanted for text in requirements if (wanted := _parse(text)) is not None]
    parsed = {
        name: [wanted for text in metadata.requires if (wanted := _parse(text)) is not None]
        for name, metadata in distributions.items()
    }
    extras: dict[str, set[str]] = {name: set() for name in distributions}
    needs: dict[str, set[str]] = {name: set() for name in distributions}
    todo = set(distributions)
    for wanted in asked:
        extras.get(canonicalize_name(wanted.name), set()).update(wanted.extras)
    while todo:  # ends: extras only grow, and there are only those that some requirement names
        name = todo.pop()
        for wanted in parsed[name]:
            if not _applies(wanted, environment, extras[name]):
                continue
            other = canonicalize_name(wanted.name)
            needs[name].add(other)
            if other in extras and not extras[other].issuperset(wanted.extras):
                extras[other].update(wanted.extras)
                todo.add(other)
    return RequirementGraph(
        roots=tuple(sorted({canonicalize_name(wanted.name) for wanted in asked} & distributions.keys())),
        needs={name: tuple(sorted((others & distributions.keys()) - {name})) for name, others in needs.items()},
        absent={name: tuple(sorted(others - distributions.keys())) for name, others in needs.items()},
    )


def _parse(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _applies(wanted: Requirement, environment: Mapping[str, str], extras: Iterable[str]) -> bool:
    if wanted.marker is None:
        return True
    try:
        return any(wanted.marker.evaluate({**environment, "extra": extra}) for extra in ("", *sorted(extras)))
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False


def _environment(target: Target, python: str) -> dict[str, str]:
    """Return every variable a marker can ask for (PEP 508), so that none is taken from this machine."""
    system = target.platform.os
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": _MACHINES[system, target.platform.architecture],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": _SYSTEMS[system],
        "platform_version": "",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": system,
    }
