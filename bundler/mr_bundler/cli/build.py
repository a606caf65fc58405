"""``mr-bundle build``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from mr_bundler.build import build_bundle
from mr_bundler.cli.recipe_arguments import (
    CACHE,
    JOBS,
    PYTHON_ARCHIVE,
    PYTHON_FROM,
    RECIPE,
    TARGETS,
    host_target,
    parse_targets,
)
from mr_bundler.lock.lock import current_lock
from mr_bundler.recipe.recipe import load_recipe
from mr_bundler.result import BuildOptions, BuildResult
from mr_core.cli.arguments import PathText
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes, show_seconds

_SLOWEST = 5
_RULES = 3


@click.command(short_help="Build a bundle into an OCI layout.")
@RECIPE
@TARGETS
@click.option(
    "--layout",
    type=PathText(file_okay=False),
    default=Path("dist/layout"),
    show_default=True,
    help="OCI layout directory to write to.",
)
@click.option("--no-cache", is_flag=True, help="Build and pack everything again.")
@CACHE
@PYTHON_FROM
@PYTHON_ARCHIVE
@click.option(
    "--require-pinned",
    is_flag=True,
    help="Fail where the pinned interpreter cannot be had, instead of taking a Python of this machine.",
)
@click.option("--strict", is_flag=True, help="Fail when a distribution or library has no licence that can be named.")
@JOBS
@output_options
def build(
    session: Session,
    recipe: Path,
    *,
    targets: tuple[str, ...],
    layout: Path,
    no_cache: bool,
    cache: Path | None,
    python_from: Path | None,
    python_archive: Path | None,
    require_pinned: bool,
    strict: bool,
    jobs: int | None,
) -> None:
    """Build RECIPE for this host's target, or for each --target, into an OCI layout.

    The layout's index names the bundle BACKEND-VERSION. The same recipe, lock and interpreter give the same bytes
    everywhere. What an earlier build made of the same wheels is used again; the audit fails the build on any finding
    that the recipe does not allow by name and reason.

    \b
      mr-bundle build recipes/mlx-lm
      mr-bundle build recipes/mlx-lm --target darwin/arm64+metal      (cross-built from wheels)
    """
    loaded = load_recipe(recipe)
    results = []
    for target in parse_targets(targets) or [host_target(loaded)]:
        options = BuildOptions(
            layout=layout,
            cache=cache,
            use_cache=not no_cache,
            python_from=python_from,
            python_archive=python_archive,
            require_pinned=require_pinned,
            strict=strict,
            jobs=jobs,
        )
        results.append(
            build_bundle(
                loaded,
                target,
                current_lock(loaded, target),
                options=options,
                report=session.report,
                cancel=session.cancel,
            )
        )
    value: Any = results[0] if len(results) == 1 else {"builds": results}
    session.result(value, lambda: "\n\n".join(show_build(result, layout) for result in results))


def show_build(result: BuildResult, layout: Path) -> str:
    """Return what a build made, its sizes, what was left out or allowed, and its slowest steps."""
    cached = sum(layer.cached for layer in result.layers)
    lines = [
        f"{result.ref_name} for {result.target}" + (" is up to date" if result.skipped else ""),
        f"  digest     {result.digest}",
        f"  layout     oci:{layout}:{result.ref_name}",
        f"  installed  {show_bytes(result.installed_bytes)} in {result.file_count} files",
        f"  compressed {show_bytes(result.compressed_bytes)} in {len(result.layers)} layers ({cached} from the cache)",
    ]
    if result.slim:
        lines.append(f"  slimmed    {show_bytes(sum(item.bytes for item in result.slim))}: {_show_rules(result)}")
    audit = result.audit
    floors = ", ".join(f"{name} {floor}" for name, floor in (("glibc", audit.glibc), ("macOS", audit.macos)) if floor)
    found = f"{audit.binaries} binaries" + (f" for {floors} and newer" if floors else "")
    lines.append(f"  audit      {found}, {len(audit.allowed)} findings allowed, {audit.listed} worth knowing")
    lines += [f"             allowed {count} x {kind}: {reason}" for (kind, reason), count in _allowed(result).items()]
    lines.append(f"  papers     {', '.join(paper.kind for paper in result.papers)}")
    steps = sorted(result.steps, key=lambda step: -step.seconds)[:_SLOWEST]
    if steps and not result.skipped:
        shown = ", ".join(f"{step.name} {show_seconds(step.seconds)}" for step in steps)
        lines.append(f"  slowest    {shown}")
    return "\n".join(lines)


def _show_rules(result: BuildResult) -> str:
    """Return the rules that save most; ``--json`` has them all."""
    shown = [f"{item.rule} {show_bytes(item.bytes)}" for item in result.slim[:_RULES]]
    left = result.slim[_RULES:]
    if left:
        rest = show_bytes(sum(item.bytes for item in left))
        shown.append(f"{len(left)} more {'rule' if len(left) == 1 else 'rules'} {rest}")
    return ", ".join(shown)


def _allowed(result: BuildResult) -> Counter[tuple[str, str]]:
    return Counter((finding.kind, finding.reason) for finding in result.audit.allowed)
