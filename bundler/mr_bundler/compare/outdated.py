"""Find what a newer index would change: resolve again as of a later time, and compare with the lock. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier

from mr_bundler.compare.locks import DistributionChange, compare_compositions, compose_lock
from mr_bundler.lock.lock import Lock, current_lock
from mr_bundler.lock.resolve import lock_recipe, read_pylock
from mr_bundler.recipe.recipe import Recipe
from mr_bundler.recipe.targets import RecipeTarget
from mr_bundler.wheels.uv import compile_pylock
from mr_core.errors import InvalidInputError
from mr_core.events import Cancel, Phase, Reporter, SafeReporter, discard
from mr_core.platform import Target

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_LIMITING = frozenset({"==", "===", "<", "<=", "~="})
"""Operators that keep newer versions away."""
_LEAST = frozenset({"==", "===", "~="})
"""Those of them that also say which version is the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """A requirement of the recipe that keeps a newer version away.

    Attributes:
        requirement: A requirement or constraint of the recipe, such as ``mlx-lm==0.32.2``.
        locked: Version in the lock.
        newest: Version that is chosen when no requirement of this target limits any; where that has no solution, the
            newest the index has.
    """

    name: str
    requirement: str
    locked: str
    newest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutdatedTarget:
    """What a newer index would change in one lock.

    Attributes:
        locked_as_of: ``exclude-newer`` of the lock.
        as_of: The time it was compared with.
        changes: What locking with that ``exclude-newer`` would change.
        held_back: Requirements that would have to be edited as well.
        conflict: Why the versions in `held_back` do not go together; empty when they do.
        given: Distributions that the recipe gives by address or git commit: newer ones are not looked for.
    """

    backend: str
    target: Target
    locked_as_of: str
    as_of: str
    changes: tuple[DistributionChange, ...]
    held_back: tuple[HeldBack, ...]
    conflict: str = ""
    given: tuple[str, ...] = ()

    @property
    def is_outdated(self) -> bool:
        """Whether something newer exists."""
        return bool(self.changes or self.held_back)


def parse_as_of(text: str) -> str:
    """Return a day (its beginning) or a point in time as ``YYYY-MM-DDTHH:MM:SSZ``; raise `InvalidInputError`."""
    try:
        moment = datetime.fromisoformat(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        pass
    raise InvalidInputError(
        f"Cannot read date `{text[:40]}`: it is neither a day nor a time with offset",
        hint="write it like `2026-11-20` or `2026-11-20T12:00:00Z`",
    )


def now() -> str:
    """Return the present time, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def find_outdated(
    recipe: Recipe,
    *,
    as_of: str,
    targets: Sequence[Target] | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> tuple[OutdatedTarget, ...]:
    """Return what the index at ``as_of`` would change in the locks of a recipe; all its targets, or the named ones.

    Raises:
        InvalidInputError: a lock is missing or stale, or the requirements have no solution any more.
        NotFoundError: the recipe does not have a named target.
        UnavailableError, AccessDeniedError: an index did not answer, or refused.
    """
    report = SafeReporter(report)
    wanted = tuple(recipe.targets) if targets is None else tuple(recipe.target(target) for target in targets)
    locks = {item.target: current_lock(recipe, item.target) for item in wanted}
    moved = replace(recipe, exclude_newer=as_of)
    named = [item.target for item in wanted]
    with Phase(report, "outdated", recipe.backend, total=2 * len(wanted)) as phase:
        renewed = {
            change.target: change.lock
            for change in lock_recipe(moved, targets=named, dry_run=True, report=report, cancel=cancel)
        }
        found = []
        for number, item in enumerate(wanted, start=1):
            phase.progress(len(wanted) + number)
            held, conflict = _held_back(moved, item, locks[item.target], report, cancel)
            found.append(
                OutdatedTarget(
                    backend=recipe.backend,
                    target=item.target,
                    locked_as_of=locks[item.target].exclude_newer,
                    as_of=as_of,
                    changes=compare_compositions(
                        compose_lock(locks[item.target]), compose_lock(renewed[item.target])
                    ).distributions,
                    held_back=held,
                    conflict=conflict,
                    given=tuple(sorted(source.name for source in (*item.wheels, *item.git))),
                )
            )
        phase.detail = {"outdated": sum(item.is_outdated for item in found)}
    return tuple(found)


def _held_back(
    recipe: Recipe, item: RecipeTarget, lock: Lock, report: Reporter, cancel: Cancel | None
) -> tuple[tuple[HeldBack, ...], str]:
    """Resolve without limits, and return the requirements that made a difference."""
    limiting = [text for text in (*item.requirements, *item.constraints) if relax(text) != text]
    if not limiting:
        return (), ""
    free = replace(
        item,
        requirements=tuple(sorted(relax(text) for text in item.requirements)),
        constraints=tuple(sorted(text for text in map(relax, item.constraints) if Requirement(text).specifier)),
    )
    others = tuple(free if other.target == item.target else other for other in recipe.targets)
    try:
        (change,) = lock_recipe(
            replace(recipe, targets=others), targets=[item.target], dry_run=True, report=report, cancel=cancel
        )
        newest = {wheel.name: wheel.version for wheel in change.lock.packages}
        conflict = ""
    except InvalidInputError as error:  # no solution together: what the index has of each
        newest = _newest(recipe, free, limiting, report, cancel)
        conflict = error.message
    locked = {wheel.name: wheel.version for wheel in lock.packages}
    return tuple(
        HeldBack(name=name, requirement=text, locked=locked[name], newest=newest[name])
        for text in limiting
        if (name := Requirement(text).name) in locked and newest.get(name, locked[name]) != locked[name]
    ), conflict


def _newest(
    recipe: Recipe, item: RecipeTarget, limiting: Sequence[str], report: Reporter, cancel: Cancel | None
) -> dict[str, str]:
    """Return the newest version of each distribution on its own, whatever the others need."""
    names = {Requirement(text).name for text in limiting}
    data = compile_pylock(
        sorted(relax(text) for text in limiting),
        target=item.target,
        requires=item.requires,
        python_version=recipe.python.version,
        exclude_newer=recipe.exclude_newer,
        index={name: index for name, index in item.index if name in names},
        dependencies=False,
        report=report,
        cancel=cancel,
    )
    return {wheel.name: wheel.version for wheel in read_pylock(data, item)}


def relax(text: str) -> str:
    """Return a requirement that admits every newer version: ``mlx-lm==0.32.2`` becomes ``mlx-lm>=0.32.2``.

    What has an address, and what does not limit, stays as it is.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return text
    kept: list[str] = []
    limits = False
    for specifier in requirement.specifier:
        limits |= specifier.operator in _LIMITING
        if specifier.operator in _LEAST:
            kept.append(f">={_least(specifier)}")
        elif specifier.operator not in _LIMITING:
            kept.append(str(specifier))
    if requirement.url or not limits:
        return text
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{','.join(sorted(kept))}"


def _least(specifier: Specifier) -> str:
    """Return the version without a trailing ``.*`` and without its local part, which ``>=`` does not take."""
    return specifier.version.removesuffix(".*").partition("+")[0]
