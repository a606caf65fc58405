"""The audit as a gate of a build: what it found must be allowed by the recipe, and nothing may be in the way later."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from mr_bundler.audit.finding import Finding
from mr_bundler.audit.judge import AuditedTree, AuditReport, judge, judge_libraries, refuse_findings
from mr_bundler.audit.path_rules import fold
from mr_bundler.environment.compose import Composition
from mr_bundler.environment.parts import INTERPRETER, Part
from mr_bundler.environment.shim_files import LAUNCHER_PATH
from mr_bundler.recipe.recipe import Recipe
from mr_core.bundle_config import HostRequirements
from mr_core.events import Level, Notice, Phase, Reporter
from mr_core.platform import Target

_OWN_PLACES = (".mr", LAUNCHER_PATH)


def audit_environment(
    composition: Composition,
    parts: Mapping[str, Part],
    *,
    recipe: Recipe,
    target: Target,
    requires: HostRequirements,
    strict: bool,
    report: Reporter,
) -> AuditReport:
    """Judge an environment and return the report; a notice tells which allowances are stale.

    Args:
        composition: The environment.
        parts: What it was composed of, for the licences.
        recipe: Says what is allowed.
        target: What it is for.
        requires: The least host that the bundle will promise to run on.
        strict: Whether unknown licences fail.
        report: Gets the phase ``audit``.

    Raises:
        BuildError: when something is not allowed; ``fields`` hold the whole report.
    """
    with Phase(report, "audit", str(target)) as phase:
        tree = AuditedTree(
            entries=composition.entries,
            facts=composition.facts,
            leaks=composition.leaks,
            licences={
                owner: recipe.licences.get(owner) or part.metadata.licence
                for owner, part in parts.items()
                if part.metadata is not None
            },
            extra=[
                *composition.findings,
                *_judge_own_places(composition.entries),
                *judge_libraries(composition.owned.get(INTERPRETER, ())),
            ],
        )
        found = judge(tree, target=target, requires=requires, allow=recipe.audit, strict=strict)
        phase.detail = {"findings": len(found.findings), "allowed": len(found.allowed), "binaries": found.binaries}
        refuse_findings(found, f"the environment of `{recipe.backend}` for `{target}`")
    if found.unused:
        stale = "; ".join(f"{item.finding} in {', '.join(item.paths)}" for item in found.unused)
        report(Notice(code="allowance-unused", message=f"These allowances cover nothing: {stale}", level=Level.WARNING))
    return found


def _judge_own_places(paths: Collection[str]) -> Iterator[Finding]:
    """Yield findings for what stands in the way of the files that a bundle gets after its audit."""
    for path in paths:
        place = fold(path)
        if place == "bin" or (
            path != LAUNCHER_PATH and f"{place}/".startswith(tuple(f"{own}/" for own in _OWN_PLACES))
        ):
            yield Finding(kind="unsafe-path", path=path, detail="lies where the bundle's own files lie")
