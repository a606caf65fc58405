"""``mr-bundle lock`` and ``mr-bundle export-lock``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_bundler.cli.recipe_arguments import RECIPE, RECIPES, TARGETS, parse_target, parse_targets
from mr_bundler.lock.export import export_pylock, export_requirements
from mr_bundler.lock.lock import LockedWheel, current_lock
from mr_bundler.lock.resolve import LockChange, lock_recipe, resolve_exactly
from mr_bundler.recipe.recipe import load_recipe
from mr_core.cli.arguments import PathText
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.errors import InvalidInputError


@click.command(short_help="Write the locks of recipes.")
@RECIPES
@TARGETS
@click.option("--dry-run", is_flag=True, help="Show what would change, write nothing.")
@click.option(
    "--check", "only_check", is_flag=True, help="As --dry-run, and fail with status 3 if anything would change."
)
@click.option(
    "--require-complete",
    is_flag=True,
    help="Fail with status 7, and write nothing, if the sha256 of a wheel stays pending.",
)
@click.option(
    "--cache",
    type=PathText(file_okay=False),
    help="Cache directory.  [default: $MR_CACHE, else ~/.cache/mr-bundle]",
)
@output_options
def lock(
    session: Session,
    recipes: tuple[Path, ...],
    *,
    targets: tuple[str, ...],
    dry_run: bool,
    only_check: bool,
    require_complete: bool,
    cache: Path | None,
) -> None:
    """Resolve the requirements of every target of each RECIPE through uv, on any machine, and write its locks.

    A lock names each distribution's exact file and sha256, and no index address: uv's own configuration decides which
    index or mirror is asked. Wheels by address and git commits whose sha256 is `pending` in the recipe are fetched and
    built; what cannot be reached stays pending, with a warning, until it is locked where it can be.

    \b
      mr-bundle lock recipes/mlx-lm
      mr-bundle lock recipes/*/ --check                      (in CI: is every lock what its recipe gives?)
      mr-bundle lock recipes/vllm-metal --require-complete   (before a release)
    """
    wanted = parse_targets(targets)
    changes: list[LockChange] = []
    for directory in recipes:
        changes += lock_recipe(
            load_recipe(directory),
            targets=wanted,
            dry_run=dry_run or only_check,
            complete=require_complete,
            cache=cache,
            report=session.report,
            cancel=session.cancel,
        )
    rows = [_row(change, kept=dry_run or only_check) for change in changes]
    if only_check and any(change.written for change in changes):
        stale = ", ".join(f"`{change.path}`" for change in changes if change.written)
        raise InvalidInputError(
            f"Cannot accept {stale}: locking again changes it",
            hint="run `mr-bundle lock`; `--dry-run` shows what changes",
            locks=rows,
        )
    session.result({"locks": rows}, lambda: show_changes(rows))


@click.command(name="export-lock", short_help="Print a lock in a standard form.")
@RECIPE
@click.option("--target", required=True, metavar="OS/ARCH+ACCELERATOR", help="Whose lock.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["requirements", "pylock"]),
    default="requirements",
    show_default=True,
    help="pylock asks the index for the address of every file, which that form must say.",
)
@output_options
def export_lock(session: Session, recipe: Path, *, target: str, form: str) -> None:
    """Print the lock of one target for other tools: as pip's requirements with hashes, or as PEP 751's pylock.toml.

    \b
      mr-bundle export-lock recipes/mlx-lm --target linux/amd64+cpu
      mr-bundle export-lock recipes/mlx-lm --target linux/amd64+cpu --format pylock > pylock.mlx.toml
    """
    found = current_lock(load_recipe(recipe), parse_target(target))
    if form == "requirements":
        text = export_requirements(found)
    else:
        text = export_pylock(found, resolve_exactly(found, report=session.report, cancel=session.cancel))
    session.result({form: text}, text.rstrip("\n"))


def _row(change: LockChange, *, kept: bool) -> dict[str, Any]:
    lock = change.lock
    return {
        "target": str(change.target),
        "path": str(change.path),
        "version": lock.version,
        "stale": change.written,
        "written": change.written and not kept,
        "packages": len(lock.packages),
        "bytes": sum(wheel.size or 0 for wheel in lock.packages),
        "unknown_sizes": sum(wheel.size is None for wheel in lock.packages),
        "pending": [f"{wheel.name} {wheel.version}" for wheel in lock.pending],
        "added": [f"{wheel.name} {wheel.version}" for wheel in change.added],
        "removed": [f"{wheel.name} {wheel.version}" for wheel in change.removed],
        "changed": [_changed(old, new) for old, new in change.changed],
    }


def _changed(old: LockedWheel, new: LockedWheel) -> str:
    if old.version != new.version:
        return f"{new.name} {old.version} -> {new.version}"
    if old.pending:
        return f"{new.name} {new.version}: its sha256 is known now"
    reason = "another file" if old.file != new.file else "the same file has another sha256"
    return f"{new.name} {new.version}: {reason}"


def show_changes(rows: list[dict[str, Any]]) -> str:
    """Return what locking changed: a line for each target, and one for each distribution that changed."""
    lines = []
    for row in rows:
        state = "written" if row["written"] else "would change" if row["stale"] else "unchanged"
        pending = f", {len(row['pending'])} pending" if row["pending"] else ""
        count = f"{row['packages']} distributions{_size(row)}{pending}"
        lines.append(f"{row['target']}: {row['version']}, {count}, {state} ({row['path']})")
        for sign, key in (("+", "added"), ("-", "removed"), ("~", "changed")):
            lines += [f"  {sign} {text}" for text in row[key]]
    return "\n".join(lines)


def _size(row: dict[str, Any]) -> str:
    """Return the size of the files, as far as the index says it."""
    unknown = row["unknown_sizes"]
    if unknown == row["packages"]:
        return ""
    return f" of {show_bytes(row['bytes'])}" + (f" and {unknown} of unknown size" if unknown else "")
