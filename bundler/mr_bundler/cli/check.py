"""``mr-bundle check``."""

from __future__ import annotations

from pathlib import Path

import click

from mr_bundler.cli.recipe_arguments import RECIPES
from mr_bundler.lock import check_locks
from mr_bundler.recipe import load_recipe
from mr_core.cli.options import output_options
from mr_core.cli.session import Session


@click.command(short_help="Check recipes and their locks.")
@RECIPES
@output_options
def check(session: Session, recipes: tuple[Path, ...]) -> None:
    """Read every RECIPE and its locks, and report all problems with their places. No network."""
    checked = []
    for directory in recipes:
        recipe = load_recipe(directory)
        locks = check_locks(recipe)
        sizes = {str(target): len(lock.packages) for target, lock in locks.items()}
        checked.append({"backend": recipe.backend, "targets": sizes})
    lines = [f"{item['backend']}: recipe and {len(item['targets'])} locks are valid" for item in checked]
    session.result({"recipes": checked}, "\n".join(lines))
