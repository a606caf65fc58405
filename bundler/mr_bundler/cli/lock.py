"""``mr-bundle lock`` and ``mr-bundle export-lock``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_bundler.cli.recipe_arguments import RECIPE, RECIPES, TARGETS, parse_targets
from mr_bundler.lock import current_lock, export_requirements
from mr_bundler.lock_resolve import LockChange, lock_recipe
from mr_bundler.recipe import load_recipe
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.errors import InvalidInputError
from mr_core.platform import Target


@click.command(short_help="Write the locks of recipes.")
@RECIPES
@TARGETS
@click.option("--dry-run", is_flag=True, help="Show what would change, write nothing.")
@click.option(
    "--check", "only_check", is_flag=True, help="As --dry-run, and fail with status 3 if anything would change."
)
@output_options
def lock(
    session: Session, recipes: tuple[Path, ...], *, targets: tuple[str, ...], dry_run: bool, only_check: bool
) -> None:
    """Resolve the requirements of every target of each RECIPE through uv, on any machine, and write its locks.

    A lock names each distribution's exact file and sha256, and no index address: uv's own configuration decides which
    index or mirror is asked.
    """
    changes: list[LockChange] = []
    for directory in recipes:
        recipe = load_recipe(directory)
        changes += lock_recipe(
            recipe,
            targets=parse_targets(targets),
            dry_run=dry_run or only_check,
            report=session.report,
            cancel=session.cancel,
        )
    if only_check and any(change.written for change in changes):
        stale = ", ".join(f"`{change.path}`" for change in changes if change.written)
        raise InvalidInputError(f"Cannot accept {stale}: locking again changes it", hint="run `mr-bundle lock`")
    rows = [
        {
            "target": str(change.target),
            "path": str(change.path),
            "written": change.written and not (dry_run or only_check),
            "packages": len(change.lock.packages),
            "added": [f"{wheel.name} {wheel.version}" for wheel in change.added],
            "removed": [f"{wheel.name} {wheel.version}" for wheel in change.removed],
            "changed": [f"{new.name} {old.version} -> {new.version}" for old, new in change.changed],
        }
        for change in changes
    ]
    session.result({"locks": rows}, lambda: show_changes(rows))


@click.command(name="export-lock", short_help="Print a lock as requirements.txt.")
@RECIPE
@click.option("--target", required=True, metavar="OS/ARCH+ACCELERATOR", help="Whose lock.")
@output_options
def export_lock(session: Session, recipe: Path, *, target: str) -> None:
    """Print the lock of one target in pip's form, with hashes, for other tools."""
    found = current_lock(load_recipe(recipe), Target.parse(target, "--target"))
    text = export_requirements(found)
    session.result({"requirements": text}, text.rstrip("\n"))


def show_changes(rows: list[dict[str, Any]]) -> str:
    """Return what locking changed, one line for each distribution."""
    lines = []
    for row in rows:
        written = "written" if row["written"] else "unchanged"
        lines.append(f"{row['target']}: {row['packages']} distributions, {written} ({row['path']})")
        for sign, key in (("+", "added"), ("-", "removed"), ("~", "changed")):
            lines += [f"  {sign} {text}" for text in row[key]]
    return "\n".join(lines)
