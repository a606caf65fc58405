"""``mr-bundle check``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_bundler.cli.recipe_arguments import RECIPES
from mr_bundler.lock.lock import check_locks
from mr_bundler.recipe.recipe import load_recipe
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.errors import BundleError


@click.command(short_help="Check recipes and their locks.")
@RECIPES
@output_options
def check(session: Session, recipes: tuple[Path, ...]) -> None:
    """Read every RECIPE and its locks, and report all problems with their places. No network.

    A lock is valid with wheels whose sha256 is pending; they are named, and nothing can be built from it yet.

    \b
      mr-bundle check recipes/*/
    """
    checked: list[dict[str, Any]] = []
    errors: list[BundleError] = []
    for directory in recipes:
        try:
            recipe = load_recipe(directory)
            locks = check_locks(recipe)
        except BundleError as error:
            errors.append(error)
            continue
        checked.append(
            {
                "backend": recipe.backend,
                "targets": {str(target): len(lock.packages) for target, lock in locks.items()},
                "pending": {
                    str(target): [f"{wheel.name} {wheel.version}" for wheel in lock.pending]
                    for target, lock in locks.items()
                    if lock.pending
                },
            }
        )
    if errors:
        raise _joined(errors)
    session.result({"recipes": checked}, "\n".join(line for item in checked for line in _lines(item)))


def _joined(errors: list[BundleError]) -> BundleError:
    """Return the only error, or one of the first one's kind with the text of all."""
    first = errors[0]
    if len(errors) == 1:
        return first
    messages = [error.message for error in errors]
    return type(first)("\n".join(messages), hint=first.hint, problems=messages)


def _lines(item: dict[str, Any]) -> list[str]:
    count = len(item["targets"])
    lines = [f"{item['backend']}: recipe and {count} lock{'s' if count > 1 else ''} are valid"]
    for target, names in item["pending"].items():
        wheels = f"{len(names)} wheel{'s' if len(names) > 1 else ''}"
        lines.append(f"  {target}: the sha256 of {wheels} is pending: {', '.join(names)}")
    return lines
