"""``mr-bundle outdated``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_bundler.cli.recipe_arguments import RECIPES, TARGETS, parse_targets
from mr_bundler.compare.locks import DistributionChange
from mr_bundler.compare.outdated import OutdatedTarget, find_outdated, now, parse_as_of
from mr_bundler.recipe.recipe import load_recipe
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.errors import BundleError

DIFFERENT = 3
"""Exit status of ``--check`` when something would change, as that of ``mr-bundle lock --check``."""


def _parse_date(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str:
    if text is None:
        return now()
    try:
        return parse_as_of(text)
    except BundleError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}") from error


@click.command(short_help="Show what a newer index would change.")
@RECIPES
@TARGETS
@click.option("--as-of", metavar="DATE", callback=_parse_date, help="The index as it was then.  [default: now]")
@click.option("--check", "only_check", is_flag=True, help="Exit with status 3 if anything is outdated.")
@output_options
def outdated(
    session: Session, recipes: tuple[Path, ...], *, targets: tuple[str, ...], as_of: str, only_check: bool
) -> None:
    """Resolve each RECIPE again with everything the index has now, and compare that with its locks.

    Writes nothing. Shown are the distributions that would change with a later `exclude-newer`, and the requirements of
    the recipe that keep a newer version away. Newer builds of Python are not looked for.

    \b
      mr-bundle outdated recipes/*/
      mr-bundle outdated recipes/mlx-lm --as-of 2026-12-01 --check
    """
    found: list[OutdatedTarget] = []
    wanted = parse_targets(targets)
    for directory in recipes:
        recipe = load_recipe(directory)
        found += find_outdated(recipe, as_of=as_of, targets=wanted, report=session.report, cancel=session.cancel)
    rows = [_row(item) for item in found]
    value = {"outdated": any(item.is_outdated for item in found), "python": "not checked", "targets": rows}
    session.result(value, lambda: "\n".join(show_outdated(item) for item in found))
    if only_check and value["outdated"]:
        raise click.exceptions.Exit(DIFFERENT)


def _row(item: OutdatedTarget) -> dict[str, Any]:
    return {
        "backend": item.backend,
        "target": item.target,
        "outdated": item.is_outdated,
        "locked_as_of": item.locked_as_of,
        "as_of": item.as_of,
        "changes": item.changes,
        "held_back": item.held_back,
        "conflict": item.conflict,
        "not_checked": ["python", *item.given],
    }


def show_outdated(item: OutdatedTarget) -> str:
    """Return what would change in one lock."""
    lines = [f"{item.backend} for {item.target}: locked as of {item.locked_as_of}, compared with {item.as_of}"]
    lines += [f"  {show_change(change)}" for change in item.changes]
    lines += [
        f"  ! {held.name} {held.locked}: `{held.requirement}` holds back {held.newest}" for held in item.held_back
    ]
    if item.conflict:
        lines.append(f"  these newest versions do not go together: {item.conflict}")
    if not item.is_outdated:
        lines.append("  up to date")
    elif item.changes:
        lines.append(f"  to upgrade: set `exclude-newer = {item.as_of}` and run `mr-bundle lock`")
    given = [f"{name} (given by address)" for name in item.given]
    lines.append(f"  not checked: {', '.join(['python', *given])}")
    return "\n".join(lines)


def show_change(change: DistributionChange) -> str:
    """Return one line for a distribution that differs."""
    match change.direction:
        case "added":
            return f"+ {change.name} {change.new}"
        case "removed":
            return f"- {change.name} {change.old}"
        case "file":
            return (
                f"~ {change.name} {change.new}: {change.old_file or 'other file'} -> {change.new_file or 'other file'}"
            )
        case "older":
            return f"~ {change.name} {change.old} -> {change.new} (older)"
        case _:
            return f"~ {change.name} {change.old} -> {change.new}"
