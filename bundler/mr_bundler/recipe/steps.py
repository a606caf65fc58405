"""Prebuild steps and audit allowances: what a recipe says about the build itself, each in a list of tables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass

from mr_bundler.audit.finding import FINDINGS, Allowance
from mr_bundler.recipe.fields import decode_patterns, parse_license
from mr_core.bundle_config import NAME_PATTERN
from mr_core.decode import Decoder
from mr_core.errors import BundleError, InvalidInputError
from mr_core.platform import Target

_LINE = r"[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrebuildStep:
    """A native step of a build: it runs with the assembled tree, after the wheels and before slimming.

    Attributes:
        name: Unique in the recipe; what the step wrote belongs to ``(prebuild NAME)``.
        command: Program and arguments, run without a shell; ``{python}`` and ``{tree}`` in them are replaced.
        writes: Patterns as in `SlimRules`; a file outside them is an error.
        targets: Targets as text it is limited to; empty for all.
    """

    name: str
    command: tuple[str, ...]
    writes: tuple[str, ...]
    targets: tuple[str, ...] = ()


def decode_prebuild(root: Decoder, known: Collection[Target]) -> tuple[PrebuildStep, ...]:
    """Read ``[[prebuild]]``, in the recipe's order."""
    steps: dict[str, PrebuildStep] = {}
    for index, read in enumerate(root.tables("prebuild")):
        path = f"prebuild[{index}]"
        step = PrebuildStep(
            name=read.text("name", pattern=NAME_PATTERN),
            command=read.texts("command", required=True),
            writes=decode_patterns(root, read, "writes", f"{path}.writes", required=True),
            targets=tuple(map(str, decode_target_names(root, read, path, known))),
        )
        if read.has("command") and not (step.command and step.command[0].strip()):
            read.problem("names no program", "command")
        _need_one(read, "writes", len(step.writes), "pattern")
        if step.name in steps:
            read.problem(f"`{step.name}` is listed twice", "name")
        read.refuse_unknown()
        steps[step.name] = step
    return tuple(steps.values())


def decode_licences(root: Decoder) -> dict[str, str]:
    """Read ``[licences]``: the SPDX expression of distributions whose own metadata says none, by normalised name."""
    found = {}
    for name, read in root.table("licences").entries():
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            root.problem(f"licences.{name}: `{name}` is not the normalised name of a distribution")
        try:
            found[name] = parse_license(read.value, name)
        except InvalidInputError as error:
            root.problem(f"licences.{name}: {error.message}")
    return found


def decode_audit(root: Decoder, known: Collection[Target]) -> tuple[Allowance, ...]:
    """Read ``[[audit.allow]]``, in the recipe's order."""
    table = root.table("audit")
    found = []
    for index, read in enumerate(table.tables("allow")):
        path = f"audit.allow[{index}]"
        finding = read.text("finding")
        if finding and finding not in FINDINGS:
            read.problem(_unknown(finding), "finding")
        if finding == "unknown-licence":
            paths = read.texts("paths", required=True, pattern=r"[a-z0-9]+(-[a-z0-9]+)*")
        else:
            paths = decode_patterns(root, read, "paths", f"{path}.paths", required=True)
        _need_one(read, "paths", len(paths), "distribution" if finding == "unknown-licence" else "pattern")
        details = read.texts("details", pattern=_LINE)
        found.append(
            Allowance(
                finding=finding,
                paths=paths,
                details=details,
                targets=tuple(map(str, decode_target_names(root, read, path, known))),
                reason=read.text("reason", pattern=_LINE),
            )
        )
        read.refuse_unknown()
    table.refuse_unknown()
    return tuple(found)


def decode_target_names(root: Decoder, read: Decoder, path: str, known: Collection[Target]) -> tuple[Target, ...]:
    """Return the list ``targets`` of the table at ``path``; each must be a target of the recipe, and none twice."""
    found: dict[Target, None] = {}
    for index, text in enumerate(read.texts("targets")):
        place = f"{path}.targets[{index}]"
        try:
            target = Target.parse(text, "target")
        except BundleError as error:
            root.problem(f"{place}: {error.message}")
            continue
        if target not in known:
            root.problem(f"{place}: `{target}` is not a target of this recipe")
        if target in found:
            root.problem(f"{place}: `{target}` is listed twice")
        found[target] = None
    return tuple(found)


def _need_one(read: Decoder, key: str, count: int, noun: str) -> None:
    if not count and isinstance(read.value, dict) and read.value.get(key) == []:
        read.problem(f"at least one {noun} is needed", key)


def _unknown(finding: str) -> str:
    close = difflib.get_close_matches(finding, FINDINGS, n=1)
    advice = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(FINDINGS)}"
    return f"`{finding[:100]}` is not a finding; {advice}"
