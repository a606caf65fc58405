"""Settle what a recipe gives by address or commit before uv resolves: its digest, and what uv reads in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from mr_bundler.lock.lock import LockedWheel, VcsPin
from mr_bundler.recipe.sources import GitSource, WheelSource
from mr_bundler.recipe.targets import RecipeTarget
from mr_bundler.wheels.provide import acquire_wheel
from mr_bundler.wheels.requirements import plain_requirements, read_requirements
from mr_core.errors import AccessDeniedError, UnavailableError
from mr_core.events import Cancel, Level, Notice, Reporter

Source: TypeAlias = WheelSource | GitSource
_UNKNOWN = "0" * 64
_ELSEWHERE = "https://git.invalid"
"""Stands in uv's requirements for a wheel that is not built yet; nothing is fetched, for its metadata are static."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A wheel that no index serves: its line of the lock, and how uv is asked for it."""

    wheel: LockedWheel
    requirement: str


def settle(
    targets: Sequence[RecipeTarget],
    old: Sequence[LockedWheel],
    *,
    cache: Path,
    exclude_newer: str,
    report: Reporter,
    cancel: Cancel | None,
) -> dict[Source, Settled]:
    """Return every wheel and commit that ``targets`` give.

    A file is fetched or built only for what is not known without it: its sha256, where neither the recipe nor ``old``
    (wheels of earlier locks) has it, or what it requires, where the recipe has no static metadata. A file that only its
    sha256 is missing of stays pending when it cannot be reached.

    Raises:
        UnavailableError: a file without static metadata cannot be reached.
        NotFoundError, IntegrityError, BuildError, HostError: as `mr_bundler.wheels.provide.acquire_wheel` does.
    """
    known = {_origin(wheel): wheel for wheel in old if not wheel.pending}
    wanted: dict[Source, bool] = {}
    for target in targets:
        stated = {(item.name, item.version) for item in target.metadata}
        for source in target.sources():
            wanted[source] = wanted.get(source, True) and (source.name, source.version) in stated
    found = {}
    for source, described in wanted.items():
        wheel = _line(source)
        before = known.get(_origin(wheel))
        if before is not None and before.file == wheel.file and wheel.sha256 in {"", before.sha256}:
            wheel = replace(wheel, sha256=before.sha256, size=before.size)
        if wheel.sha256 and described:
            found[source] = Settled(wheel=wheel, requirement=_requirement(wheel))
            continue
        try:
            file = acquire_wheel(wheel, cache=cache, exclude_newer=exclude_newer, report=report, cancel=cancel)
        except (UnavailableError, AccessDeniedError) as error:
            if not described:
                raise UnavailableError(
                    f"Cannot lock `{source.name}` {source.version}: {error.message}",
                    hint="lock where it can be reached, or say in [[lock.metadata]] what it requires",
                ) from error
            report(
                Notice(
                    code="wheel-pending",
                    message=f"the sha256 of `{source.name}` {source.version} stays pending: {error.message}",
                    level=Level.WARNING,
                )
            )
            found[source] = Settled(wheel=replace(wheel, pending=True), requirement=_requirement(wheel))
        else:
            wheel = replace(wheel, sha256=file.sha256, size=file.size)
            _compare(wheel, file.path, targets, report)
            found[source] = Settled(wheel=wheel, requirement=f"{wheel.name} @ {file.path.absolute().as_uri()}")
    return found


def _compare(wheel: LockedWheel, file: Path, targets: Sequence[RecipeTarget], report: Reporter) -> None:
    """Warn when the recipe says of a wheel that it requires something else than it does: the recipe's word is used."""
    stated = {item for target in targets for item in target.metadata if (item.name, item.version) == _key(wheel)}
    for item in sorted(stated, key=str):
        said, true = set(plain_requirements(item.requires_dist)), set(read_requirements(file))
        reasons = [
            *(f"it requires `{text}`" for text in sorted(true - said)),
            *(f"it does not require `{text}`" for text in sorted(said - true)),
        ]
        if reasons:
            text = (
                f"the recipe's metadata of `{wheel.name}` {wheel.version} differ from the wheel's: {'; '.join(reasons)}"
            )
            report(Notice(code="metadata-differ", message=text, level=Level.WARNING))


def _key(wheel: LockedWheel) -> tuple[str, str]:
    return wheel.name, wheel.version


def _line(source: Source) -> LockedWheel:
    wheel = LockedWheel(name=source.name, version=source.version, file=source.file, sha256=source.sha256)
    match source:
        case WheelSource():
            return replace(wheel, url=source.url)
        case GitSource():
            return replace(wheel, vcs=VcsPin(url=source.url, commit=source.commit, subdirectory=source.subdirectory))


def _origin(wheel: LockedWheel) -> tuple[str, VcsPin | None]:
    return wheel.url, wheel.vcs


def _requirement(wheel: LockedWheel) -> str:
    address = wheel.url or f"{_ELSEWHERE}/{wheel.file}"
    return f"{wheel.name} @ {address}#sha256={wheel.sha256 or _UNKNOWN}"
