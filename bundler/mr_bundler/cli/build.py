"""``mr-bundle build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_bundler.build import build_bundle
from mr_bundler.cli.recipe_arguments import RECIPE, TARGETS, host_target, parse_targets
from mr_bundler.lock import current_lock
from mr_bundler.recipe import load_recipe
from mr_bundler.result import BuildOptions, BuildResult
from mr_core.cli.arguments import PathText
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes, show_seconds

_SLOWEST = 5


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
@click.option("--cache", type=PathText(file_okay=False), help="Cache directory.  [default: $MR_CACHE]")
@click.option(
    "--python-from",
    envvar="MR_PYTHON_FROM",
    type=PathText(),
    help="Host CPython 3.12 prefix to use instead of python-build-standalone.",
)
@click.option(
    "--python-archive",
    type=PathText(dir_okay=False),
    help="The pinned python-build-standalone archive as a local file.",
)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), help="Parallel steps.  [default: number of cores]")
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
    jobs: int | None,
) -> None:
    """Build RECIPE for this host's target, or for each --target, into an OCI layout.

    The layout's index names the bundle BACKEND-VERSION. The same recipe, lock and interpreter give the same bytes
    everywhere.

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
    """Return what a build made, its sizes and its slowest steps."""
    cached = sum(layer.cached for layer in result.layers)
    lines = [
        f"{result.ref_name} for {result.target}" + (" is up to date" if result.skipped else ""),
        f"  digest     {result.digest}",
        f"  layout     oci:{layout}:{result.ref_name}",
        f"  installed  {show_bytes(result.installed_bytes)} in {result.file_count} files",
        f"  compressed {show_bytes(result.compressed_bytes)} in {len(result.layers)} layers ({cached} from the cache)",
    ]
    steps = sorted(result.steps, key=lambda step: -step.seconds)[:_SLOWEST]
    if steps and not result.skipped:
        shown = ", ".join(f"{step.name} {show_seconds(step.seconds)}" for step in steps)
        lines.append(f"  slowest    {shown}")
    return "\n".join(lines)
