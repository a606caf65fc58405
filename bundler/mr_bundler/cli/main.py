"""Commands of ``mr-bundle``: they parse arguments, call the library, and print its outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_bundler.build import build_bundle
from mr_bundler.cli.advice import tag_advice
from mr_bundler.cli.text import show_build, show_changes, show_entries, show_push
from mr_bundler.lock import check_locks, current_lock, export_requirements
from mr_bundler.lock_resolve import LockChange, lock_recipe
from mr_bundler.push import push as push_bundle
from mr_bundler.recipe import Recipe, load_recipe
from mr_bundler.result import BuildOptions
from mr_core import __version__
from mr_core.cli.arguments import PathText
from mr_core.cli.options import completion_command, output_options, registry_options
from mr_core.cli.session import Session
from mr_core.errors import InvalidInputError, UsageError
from mr_core.location import parse_location
from mr_core.open_store import open_source, open_store
from mr_core.platform import Platform, Target
from mr_core.registry_options import RegistryOptions

_RECIPES = click.argument(
    "recipes",
    nargs=-1,
    required=True,
    metavar="RECIPE...",
    type=PathText(),
)
_RECIPE = click.argument("recipe", metavar="RECIPE", type=PathText())
_TARGETS = click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="OS/ARCH+ACCELERATOR",
    help="This target only, such as linux/amd64+cpu. May be repeated.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="mr-bundle")
def main() -> None:
    """Build self-contained LLM inference backends from recipes, and publish them as OCI images.

    \b
      mr-bundle check recipes/mlx-lm
      mr-bundle lock recipes/mlx-lm
      mr-bundle build recipes/mlx-lm --target linux/amd64+cpu
      mr-bundle push oci:dist/layout:mlx-lm-0.32.2 docker://registry.example/bundles/mlx-lm:0.32.2

    RECIPE is a directory that holds recipe.toml and its locks.

    \b
    Exit status: 0 done, 2 wrong usage, 3 invalid recipe or lock, 4 not found, 5 unsupported, 6 integrity,
    7 unavailable, 8 access denied, 9 this machine (disk, missing program), 10 build step failed, 130 cancelled,
    1 a bug.
    """


@main.command(short_help="Check recipes and their locks.")
@_RECIPES
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


@main.command(short_help="Write the locks of recipes.")
@_RECIPES
@_TARGETS
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
            targets=_targets(targets),
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


@main.command(name="export-lock", short_help="Print a lock as requirements.txt.")
@_RECIPE
@click.option("--target", required=True, metavar="OS/ARCH+ACCELERATOR", help="Whose lock.")
@output_options
def export_lock(session: Session, recipe: Path, *, target: str) -> None:
    """Print the lock of one target in pip's form, with hashes, for other tools."""
    found = current_lock(load_recipe(recipe), Target.parse(target, "--target"))
    text = export_requirements(found)
    session.result({"requirements": text}, text.rstrip("\n"))


@main.command(short_help="Build a bundle into an OCI layout.")
@_RECIPE
@_TARGETS
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
    for target in _targets(targets) or [_host_target(loaded)]:
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


def _targets(texts: tuple[str, ...]) -> list[Target] | None:
    return [Target.parse(text, "--target") for text in texts] or None


def _host_target(recipe: Recipe) -> Target:
    host = Platform.host()
    fitting = [item.target for item in recipe.targets if item.target.platform == host]
    if len(fitting) != 1:
        named = ", ".join(str(item.target) for item in recipe.targets)
        reason = "has no target" if not fitting else "has several targets"
        raise UsageError(
            f"Cannot choose a target: {recipe.backend} {reason} for {host}", hint=f"add `--target` with one of {named}"
        )
    return fitting[0]


@main.command(short_help="Copy a bundle to a registry or layout.")
@click.argument("source")
@click.argument("destination")
@click.option("--overwrite", is_flag=True, help="Move a name that already points to something else.")
@click.option("-j", "--jobs", type=click.IntRange(1, 32), default=4, show_default=True, help="Parallel uploads.")
@registry_options
@output_options
def push(
    session: Session, source: str, destination: str, *, overwrite: bool, jobs: int, registry: RegistryOptions
) -> None:
    """Copy a bundle, byte for byte: blobs first, then manifests, then the index, then its name.

    What is there already is not sent again, so repeating an interrupted push finishes it.

    \b
      mr-bundle push oci:dist/layout:mlx-lm-0.32.2 docker://registry.example/bundles/mlx-lm:0.32.2
    """
    opened, name = open_source(parse_location(source), options=registry)
    place = parse_location(destination)
    try:
        store, destination_name = open_store(place, options=registry)
        try:
            with tag_advice(source):
                done = push_bundle(
                    opened,
                    name,
                    store,
                    destination_name,
                    overwrite=overwrite,
                    jobs=jobs,
                    report=session.report,
                    cancel=session.cancel,
                )
        finally:
            store.close()
    finally:
        opened.close()
    session.result(done, lambda: show_push(done, place))


@main.command(name="ls", short_help="List the bundles of a layout, archive or registry name.")
@click.argument("location", default="oci:dist/layout")
@registry_options
@output_options
def ls(session: Session, location: str, *, registry: RegistryOptions) -> None:
    """List what LOCATION holds: names, targets, sizes and digests."""
    from mr_bundler.listing import list_bundles  # noqa: PLC0415 - used by this command alone

    opened, name = open_source(parse_location(location), options=registry)
    try:
        with tag_advice(location):
            entries = list_bundles(opened, name)
    finally:
        opened.close()
    session.result({"location": location, "bundles": entries}, lambda: show_entries(entries))


main.add_command(completion_command("mr-bundle"))
