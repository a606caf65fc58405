"""Arguments and options about recipes and builds that several commands share."""

from __future__ import annotations

import click

from mr_bundler.recipe.recipe import Recipe
from mr_core.cli.arguments import PathText
from mr_core.errors import InvalidInputError, UsageError
from mr_core.platform import Platform, Target

RECIPES = click.argument(
    "recipes",
    nargs=-1,
    required=True,
    metavar="RECIPE...",
    type=PathText(),
)
RECIPE = click.argument("recipe", metavar="RECIPE", type=PathText())
TARGETS = click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="OS/ARCH+ACCELERATOR",
    help="This target only, such as linux/amd64+cpu. May be repeated.",
)

CACHE = click.option(
    "--cache",
    type=PathText(file_okay=False),
    help="Cache directory.  [default: $MR_CACHE, else ~/.cache/mr-bundle]",
)
PYTHON_FROM = click.option(
    "--python-from",
    envvar="MR_PYTHON_FROM",
    type=PathText(),
    help="Host CPython 3.12 prefix to use instead of python-build-standalone.",
)
PYTHON_ARCHIVE = click.option(
    "--python-archive",
    type=PathText(dir_okay=False),
    help="The pinned python-build-standalone archive as a local file.",
)
JOBS = click.option("-j", "--jobs", type=click.IntRange(1, 64), help="Parallel steps.  [default: number of cores]")


def parse_target(text: str, option: str = "--target") -> Target:
    """Return the target an option names; raise `UsageError` when its text is none."""
    try:
        return Target.parse(text, option)
    except InvalidInputError as error:
        raise UsageError(error.message, hint=error.hint) from error


def parse_targets(texts: tuple[str, ...]) -> list[Target] | None:
    """Return the targets that were named, each once, or None when there are none; raise `UsageError` for no target."""
    return list(dict.fromkeys(parse_target(text) for text in texts)) or None


def host_target(recipe: Recipe) -> Target:
    """Return the one target of the recipe for this host; raise `UsageError` when there is not exactly one."""
    host = Platform.host()
    fitting = [item.target for item in recipe.targets if item.target.platform == host]
    if len(fitting) != 1:
        named = ", ".join(str(item.target) for item in recipe.targets)
        reason = "has no target" if not fitting else "has several targets"
        raise UsageError(
            f"Cannot choose a target: {recipe.backend} {reason} for {host}", hint=f"add `--target` with one of {named}"
        )
    return fitting[0]
