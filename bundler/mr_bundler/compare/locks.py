"""Compare what two locks, or a lock and a bundle, are made of: distributions, Python, floors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packaging.version import InvalidVersion, Version

from mr_bundler.lock.lock import Lock
from mr_core.bundle_config import BundleConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """A field that differs; empty text means that this side does not have it."""

    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredient:
    """A distribution as one side knows it.

    Attributes:
        file: Its wheel's name, or empty.
        sha256: Of its wheel, or empty where the side does not say.
        bytes: Size of its wheel for a lock, of its installed files for a bundle; None when that is not known.
        licence: SPDX expression or ``UNKNOWN``; empty where the side does not say.
    """

    version: str
    file: str = ""
    sha256: str = ""
    bytes: int | None = None
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """What one side of a comparison is made of.

    Attributes:
        fields: Facts by name; a name that only one side has is not compared when the kinds of the sides differ.
        distributions: By normalised name.
    """

    kind: str
    fields: Mapping[str, str]
    distributions: Mapping[str, Ingredient]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionChange:
    """A distribution that differs: another version, or another file of the same version.

    Attributes:
        old: Version on the first side; empty when it is new.
        new: Version on the second side; empty when it is gone.
        old_bytes: As `Ingredient.bytes`.
        new_bytes: As `Ingredient.bytes`.
        direction: ``added``, ``removed``, ``newer``, ``older``, or ``file`` for another file of the same version.
        old_file: Wheel on the first side, when only the file differs.
        new_file: Wheel on the second side, when only the file differs.
    """

    name: str
    old: str
    new: str
    old_bytes: int | None = None
    new_bytes: int | None = None
    direction: str
    old_file: str = ""
    new_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockDifference:
    """What differs between two compositions."""

    fields: tuple[FieldChange, ...] = ()
    distributions: tuple[DistributionChange, ...] = ()
    licences: tuple[FieldChange, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether both sides are made of the same."""
        return not (self.fields or self.distributions or self.licences)


def compose_lock(lock: Lock) -> Composition:
    """Return what a lock says."""
    return Composition(
        kind="lock",
        fields={
            "backend": lock.backend,
            "version": lock.version,
            "target": str(lock.target),
            "python": lock.python.version,
            "python-build": lock.python.build,
            **flatten("requires", lock.requires.to_json()),
            "exclude-newer": lock.exclude_newer,
        },
        distributions={
            item.name: Ingredient(version=item.version, file=item.file, sha256=item.sha256, bytes=item.size)
            for item in lock.packages
        },
    )


def compose_config(config: BundleConfig, lock: Lock | None, known: Mapping[str, Ingredient]) -> Composition:
    """Return what a bundle config says, with its recorded lock, and what its papers know about its distributions."""
    wheels = {item.name: item for item in lock.packages} if lock is not None else {}
    return Composition(
        kind="bundle",
        fields={
            "backend": config.backend,
            "version": config.version,
            "target": str(config.target),
            "summary": config.summary,
            "homepage": config.homepage,
            "license": config.license,
            "python": config.python_version,
            "python-source": config.python_source,
            "builder": config.builder,
            **({"exclude-newer": lock.exclude_newer} if lock is not None else {}),
            **flatten("requires", config.requires.to_json()),
            **flatten("probe", config.probe.to_json()),
            **flatten("launch", config.launch.to_json()),
            **flatten("api", config.api),
        },
        distributions={
            name: replace(
                known.get(name, Ingredient(version=version)),
                version=version,
                file=wheels[name].file if name in wheels else "",
                sha256=wheels[name].sha256 if name in wheels else "",
            )
            for name, version in config.distributions.items()
        },
    )


def compare_compositions(first: Composition, second: Composition) -> LockDifference:
    """Return what differs; of a lock and a bundle, only what both say is compared."""
    alike = first.kind == second.kind
    names = first.fields.keys() | second.fields.keys() if alike else first.fields.keys() & second.fields.keys()
    order = {name: number for number, name in enumerate((*first.fields, *second.fields))}
    fields = [
        FieldChange(name=name, old=first.fields.get(name, ""), new=second.fields.get(name, ""))
        for name in sorted(names, key=lambda name: order[name])
        if first.fields.get(name, "") != second.fields.get(name, "")
    ]
    both = sorted(first.distributions.keys() | second.distributions.keys())
    changes = [_change(name, first.distributions.get(name), second.distributions.get(name)) for name in both]
    if not alike:  # a wheel and its installed files have sizes that mean different things
        changes = [change and replace(change, old_bytes=None, new_bytes=None) for change in changes]
    licences = [_licence(name, first.distributions.get(name), second.distributions.get(name)) for name in both]
    return LockDifference(
        fields=tuple(fields),
        distributions=tuple(change for change in changes if change is not None),
        licences=tuple(change for change in licences if change is not None),
    )


def _change(name: str, old: Ingredient | None, new: Ingredient | None) -> DistributionChange | None:
    if old is None or new is None:
        return DistributionChange(
            name=name,
            old=old.version if old else "",
            new=new.version if new else "",
            old_bytes=old.bytes if old else None,
            new_bytes=new.bytes if new else None,
            direction="removed" if new is None else "added",
        )
    same_file = old.sha256 == new.sha256 or not (old.sha256 and new.sha256)
    if old.version == new.version and same_file:
        return None
    return DistributionChange(
        name=name,
        old=old.version,
        new=new.version,
        old_bytes=old.bytes,
        new_bytes=new.bytes,
        direction="file" if old.version == new.version else _direction(old.version, new.version),
        old_file=old.file if old.version == new.version else "",
        new_file=new.file if old.version == new.version else "",
    )


def _direction(old: str, new: str) -> str:
    try:
        return "newer" if Version(new) > Version(old) else "older"
    except InvalidVersion:
        return "newer"


def _licence(name: str, old: Ingredient | None, new: Ingredient | None) -> FieldChange | None:
    """Return a licence that differs, where both sides name one or a distribution came or went."""
    before, after = old.licence if old else "", new.licence if new else ""
    unsaid = (old is not None and not before) or (new is not None and not after)
    return None if before == after or unsaid else FieldChange(name=name, old=before, new=after)


def flatten(prefix: str, value: Any) -> dict[str, str]:
    """Return the leaves of plain values by their dotted path: ``launch.options.model``."""
    if isinstance(value, dict):
        start = f"{prefix}." if prefix else ""
        return {path: text for key in sorted(value) for path, text in flatten(f"{start}{key}", value[key]).items()}
    if isinstance(value, list):
        return {prefix: ", ".join(str(item) for item in value)}
    return {prefix: str(value)}
