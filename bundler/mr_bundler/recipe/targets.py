"""Targets of a recipe, each with everything that decides its lock: what all targets have, joined with its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mr_bundler.lock.wheel_tags import wheel_rank
from mr_bundler.recipe.fields import decode_requirements, merge_requirements, parse_time
from mr_bundler.recipe.sources import (
    GitSource,
    Given,
    StaticMetadata,
    WheelSource,
    decode_git,
    decode_index_pins,
    decode_metadata,
    decode_wheel,
)
from mr_bundler.recipe.steps import decode_target_names
from mr_bundler.recipe.versions import Versions
from mr_core.bundle_config import HostRequirements
from mr_core.decode import Decoder
from mr_core.platform import Platform, Target

NO_TARGET = Target(Platform("", ""), "")
"""Stands for a target that could not be read."""
T = TypeVar("T", bound=Given)
_GLIBC = r"2\.(1[7-9]|[2-9][0-9])"
_MACOS = r"1[1-9](\.[0-9]+)?|[2-9][0-9](\.[0-9]+)?"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeTarget:
    """One target, the least host it needs, and what decides its lock; every list is sorted.

    Attributes:
        requirements: What it installs, without markers; the wheels and git commits come on top.
        constraints: Limit which version is chosen if a distribution is needed.
        overrides: Replace what dependencies ask for; a marker that is never true removes a distribution.
        index: Pairs of a distribution and the name of the index that alone may serve it.
    """

    target: Target
    requires: HostRequirements
    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    index: tuple[tuple[str, str], ...] = ()
    wheels: tuple[WheelSource, ...] = ()
    git: tuple[GitSource, ...] = ()
    metadata: tuple[StaticMetadata, ...] = ()

    def sources(self) -> list[WheelSource | GitSource]:
        """Return what it installs that no index serves."""
        return [*self.wheels, *self.git]

    def names(self) -> set[str]:
        """Return the normalised names of everything it installs by itself: requirements, wheels and git commits."""
        return {source.name for source in self.sources()} | {
            canonicalize_name(Requirement(text).name) for text in self.requirements
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lists:
    """The lists that all targets and one target can both have."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    overrides: tuple[str, ...]
    index: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limited(Generic[T]):
    """A table of a list that may be limited to some targets."""

    item: T
    path: str
    targets: tuple[Target, ...]

    def applies(self, target: Target) -> bool:
        return not self.targets or target in self.targets


def decode_lock_inputs(root: Decoder, version_from: str) -> tuple[str, tuple[RecipeTarget, ...]]:
    """Read ``[versions]``, ``[lock]`` and ``[[targets]]``; return ``exclude-newer`` and the targets.

    ``version_from`` must be among what each target installs.
    """
    versions = Versions(root)
    lock = root.table("lock", required=True)
    common = _lists(root, lock, "lock", versions)
    plain = _plain_targets(root)
    known = tuple(target for _, target, _ in plain if target != NO_TARGET)
    wheels = _limited(root, lock, "wheels", known, lambda read, path: decode_wheel(root, read, path, versions))
    commits = _limited(root, lock, "git", known, lambda read, path: decode_git(root, read, path, versions))
    metadata = _limited(root, lock, "metadata", known, lambda read, path: decode_metadata(root, read, path, versions))
    found: dict[Target, RecipeTarget] = {}
    for position, (read, target, requires) in enumerate(plain):
        path = f"targets[{position}]"
        lists = _join(root, common, _lists(root, read, path, versions), path)
        item = RecipeTarget(
            target=target,
            requires=requires,
            requirements=lists.requirements,
            constraints=lists.constraints,
            overrides=lists.overrides,
            index=tuple(sorted(lists.index.items())),
            wheels=_of(wheels, target),
            git=_of(commits, target),
            metadata=_of(metadata, target),
        )
        if version_from and version_from not in item.names():
            read.problem(f"`{version_from}`, which gives the version, is not among its requirements", "requirements")
        if target in found:
            read.problem(f"`{target}` is listed twice", "target")
        _check_fit(root, [*wheels, *commits], item)
        _check_sources(root, path, item)
        read.refuse_unknown()
        found[target] = item
    versions.refuse_unused()
    exclude_newer = lock.parsed("exclude-newer", parse_time, "")
    lock.refuse_unknown()
    return exclude_newer, tuple(found.values())


def _lists(root: Decoder, read: Decoder, path: str, versions: Versions) -> _Lists:
    def texts(key: str) -> tuple[str, ...]:
        return tuple(decode_requirements(root, read, key, f"{path}.{key}", versions))

    return _Lists(
        requirements=texts("requirements"),
        constraints=texts("constraints"),
        overrides=texts("overrides"),
        index=decode_index_pins(root, read, f"{path}.index"),
    )


def _join(root: Decoder, common: _Lists, own: _Lists, path: str) -> _Lists:
    for name in sorted(set(common.index) & set(own.index)):
        if common.index[name] != own.index[name]:
            root.problem(f"{path}.index: `{name}` is pinned to another index for all targets")
    return _Lists(
        requirements=merge_requirements(root, common.requirements, own.requirements, f"{path}.requirements"),
        constraints=merge_requirements(root, common.constraints, own.constraints, f"{path}.constraints"),
        overrides=merge_requirements(root, common.overrides, own.overrides, f"{path}.overrides"),
        index={**common.index, **own.index},
    )


def _plain_targets(root: Decoder) -> list[tuple[Decoder, Target, HostRequirements]]:
    tables = root.tables("targets", required=True)
    if not tables and isinstance(root.value, dict) and root.value.get("targets") == []:
        root.problem("targets: at least one target is needed")
    found = []
    for read in tables:
        target = read.parsed("target", Target.parse, NO_TARGET)
        found.append((read, target, _decode_requires(read, target)))
    return found


def _decode_requires(read: Decoder, target: Target) -> HostRequirements:
    cuda_driver = read.text("cuda-driver", "", pattern=r"|[0-9]+(\.[0-9]+){0,3}")
    if cuda_driver and not target.accelerator.startswith("cuda"):
        read.problem(f"has no meaning for `{target}`", "cuda-driver")
    return HostRequirements(
        glibc=_floor(read, "glibc", _GLIBC, target, "linux"),
        macos=_floor(read, "macos", _MACOS, target, "darwin"),
        cuda_driver=cuda_driver,
        cpu_features=read.texts("cpu-features", pattern=r"[A-Za-z0-9._]+"),
    )


def _floor(read: Decoder, key: str, pattern: str, target: Target, system: str) -> str:
    """Return the least version of the C library or system: required where it means something, refused elsewhere."""
    if target.platform.os == system:
        return read.text(key, pattern=pattern)
    if read.text(key, "") and target != NO_TARGET:
        read.problem(f"has no meaning for `{target}`", key)
    return ""


def _limited(
    root: Decoder,
    lock: Decoder,
    key: str,
    known: Sequence[Target],
    decode: Callable[[Decoder, str], T],
) -> list[_Limited[T]]:
    found = []
    for index, read in enumerate(lock.tables(key)):
        path = f"lock.{key}[{index}]"
        item = decode(read, path)
        targets = decode_target_names(root, read, path, known)
        read.refuse_unknown()
        found.append(_Limited(item=item, path=path, targets=targets))
    return found


def _of(limited: Sequence[_Limited[T]], target: Target) -> tuple[T, ...]:
    """Return what applies to ``target``, sorted; without what could not be read."""
    items = (entry.item for entry in limited if entry.item.name and entry.item.version and entry.applies(target))
    return tuple(sorted(items, key=lambda item: (item.name, item.version)))


def _check_fit(
    root: Decoder, limited: Sequence[_Limited[WheelSource] | _Limited[GitSource]], item: RecipeTarget
) -> None:
    """Record a problem for each wheel that the target cannot install."""
    floor = item.requires.glibc or item.requires.macos
    if item.target == NO_TARGET or not floor:
        return
    for entry in limited:
        file = entry.item.file
        if file and entry.applies(item.target) and wheel_rank(file, item.target, item.requires) is None:
            key, system = ("url" if isinstance(entry.item, WheelSource) else "file"), item.target.platform.os
            root.problem(
                f"{entry.path}.{key}: `{file}` does not install on `{item.target}` with "
                f"{'glibc' if system == 'linux' else 'macOS'} {floor}; limit it with `targets`, or move the floor"
            )


def _check_sources(root: Decoder, path: str, item: RecipeTarget) -> None:
    """Record what contradicts itself in one target: two sources of a distribution, a version it does not have."""
    given: dict[str, str] = {}
    for source in item.sources():
        if source.name in given:
            root.problem(f"{path}: `{source.name}` is given twice in [[lock.wheels]] and [[lock.git]]")
        given[source.name] = source.version
    stated: set[tuple[str, str]] = set()
    for known in item.metadata:
        if (known.name, known.version) in stated:
            root.problem(f"{path}: the metadata of `{known.name}` {known.version} is given twice")
        stated.add((known.name, known.version))
        if known.name in given and known.version != given[known.name]:
            wheel = given[known.name]
            root.problem(f"{path}: there is metadata of `{known.name}` {known.version}, and a wheel of {wheel}")
    for text in (*item.requirements, *item.constraints):
        requirement = Requirement(text)
        version = given.get(requirement.name)
        if version and not requirement.specifier.contains(version, prereleases=True):
            root.problem(f"{path}: `{text}` does not allow the wheel that is given, {version}")
    for text in item.overrides:
        if Requirement(text).name in given:
            root.problem(f"{path}: `{text}` overrides a distribution that is given as a wheel")
    for name, _ in item.index:
        if name in given:
            root.problem(f"{path}.index: `{name}` is given as a wheel, so no index serves it")
