"""``mr-bundle new``."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from mr_bundler.recipe.sources import DISTRIBUTION
from mr_bundler.scaffold.scaffold import Scaffold, scaffold_recipe
from mr_core.bundle_config import NAME_PATTERN
from mr_core.cli.arguments import PathText
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.errors import BundleError, UsageError
from mr_core.platform import Target

_MODULE = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
_SCRIPT = r"[A-Za-z0-9_][A-Za-z0-9._-]*"


def _matching(pattern: str, what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Return a callback that refuses what is not ``what``."""

    def check(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
        if text is not None and re.fullmatch(pattern, text) is None:
            raise click.BadParameter(f"`{text[:100]}` is not {what}", ctx=ctx, param=parameter)
        return text

    return check


def _parse_targets(ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Target, ...]:
    try:
        return tuple(dict.fromkeys(Target.parse(text, "--target") for text in texts))
    except BundleError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}", ctx=ctx, param=parameter) from error


@click.command(short_help="Write the first recipe of a backend.")
@click.argument("name", callback=_matching(NAME_PATTERN, "a name: lower-case letters, digits, `.`, `_` and `-`"))
@click.option(
    "--distribution",
    metavar="PYPI-NAME",
    callback=_matching(DISTRIBUTION, "the name of a distribution"),
    help="Distribution on the index.  [default: NAME]",
)
@click.option(
    "--module", metavar="M", callback=_matching(_MODULE, "the name of a module"), help="Server to start as python -m M."
)
@click.option(
    "--script", metavar="S", callback=_matching(_SCRIPT, "the name of a script"), help="Server: this console script."
)
@click.option("--directory", type=PathText(file_okay=False), help="Where to write.  [default: recipes/NAME]")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="OS/ARCH+ACCELERATOR",
    callback=_parse_targets,
    help="Build for this target. May be repeated.  [default: the usual ones that have wheels]",
)
@output_options
def new(
    session: Session,
    name: str,
    *,
    distribution: str | None,
    module: str | None,
    script: str | None,
    directory: Path | None,
    targets: tuple[Target, ...],
) -> None:
    """Write recipe.toml for the newest version of a distribution, ready to be locked and built.

    The index is asked through uv. The least glibc and macOS are the lowest that all wheels are published for; the
    server is looked for in the wheel. Comments in the recipe say what to change.

    \b
      mr-bundle new mlx-lm
      mr-bundle new my-server --distribution my-llm-server --module my_llm_server.api
    """
    if module and script:
        raise UsageError("Cannot use both `--module` and `--script`: one server is started", hint="leave one away")
    today = datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z")
    written = scaffold_recipe(
        name,
        distribution=distribution or name,
        directory=directory or Path("recipes") / name,
        exclude_newer=today,
        module=module or "",
        script=script or "",
        targets=targets,
        report=session.report,
        cancel=session.cancel,
    )
    session.result(written, lambda: show_scaffold(written))


def show_scaffold(written: Scaffold) -> str:
    """Return what was written, and what to do next."""
    directory = written.path.parent
    lines = [
        f"{written.path}",
        f"  version  {written.distribution} {written.version}",
        f"  targets  {', '.join(str(target) for target in written.targets)}",
        f"  server   {written.launch}",
    ]
    if written.guessed:
        lines.append(f"  change   {', '.join(written.guessed)}: could not be found out")
    lines += ["next:", f"  mr-bundle lock {directory}", f"  mr-bundle build {directory}"]
    return "\n".join(lines)
