"""``mr-bundle rebuild``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_bundler.cli.advice import tag_advice
from mr_bundler.cli.recipe_arguments import CACHE, JOBS, PYTHON_ARCHIVE, PYTHON_FROM
from mr_bundler.compare.rebuild import RebuildOptions, RebuildResult, rebuild_bundle, refuse_difference
from mr_bundler.compare.rebuilt import Verdict
from mr_core.cli.arguments import PathText, check_location, parse_target
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.errors import UsageError
from mr_core.location import parse_location
from mr_core.open_store import open_source
from mr_core.platform import Target
from mr_core.registry_options import RegistryOptions


@click.command(short_help="Build a published bundle again, and compare.")
@click.argument("reference", metavar="LOCATION", callback=check_location)
@click.option("--check", "only_check", is_flag=True, help="Compare; status 6 if it is not the same bundle.")
@click.option("--layout", type=PathText(file_okay=False), help="Leave the rebuilt bundle in this OCI layout.")
@click.option(
    "--target",
    metavar="OS/ARCH+ACCELERATOR",
    callback=parse_target,
    help="Which bundle of an index, if it has several.",
)
@PYTHON_FROM
@PYTHON_ARCHIVE
@click.option("--use-cache", is_flag=True, help="Take packed layers of earlier builds from the cache: proves less.")
@click.option("--run-steps", is_flag=True, help="Run what the bundle names, as you, on this machine: see above.")
@CACHE
@JOBS
@registry_options
@output_options
def rebuild(
    session: Session,
    reference: str,
    *,
    only_check: bool,
    layout: Path | None,
    target: Target | None,
    python_from: Path | None,
    python_archive: Path | None,
    use_cache: bool,
    run_steps: bool,
    cache: Path | None,
    jobs: int | None,
    registry: RegistryOptions,
) -> None:
    """Build the bundle at LOCATION again from the recipe and lock it holds, with the creation time it records.

    With --check, the result is compared with the bundle: status 0 when it is the same, byte for byte, or when only the
    compressor gave other bytes for equal tars (the identity of a bundle across versions of the compressor is its
    diffIDs and its file manifest); status 6 when it differs, naming the first difference.

    A bundle may name what runs while it is built: [[prebuild]] commands, git commits that are built to wheels, an
    interpreter that is not known here. Such a bundle is refused with status 2 unless --run-steps is given: add it for
    publishers you trust, or in a machine you can throw away.

    \b
      mr-bundle rebuild --check docker://registry.example/bundles/mlx-lm:0.32.2
      mr-bundle rebuild oci:dist/layout:mlx-lm-0.32.2 --layout again
    """
    if not only_check and layout is None:
        raise UsageError(
            "Cannot rebuild: it is not said what for", hint="add `--check` to compare, or `--layout DIR` to keep it"
        )
    opened, name = open_source(parse_location(reference), options=registry, cancel=session.cancel)
    try:
        with tag_advice(reference):
            result = rebuild_bundle(
                opened,
                name,
                place=reference,
                target=target,
                compare=only_check,
                options=RebuildOptions(
                    layout=layout,
                    cache=cache,
                    use_cache=use_cache,
                    run_steps=run_steps,
                    python_from=python_from,
                    python_archive=python_archive,
                    jobs=jobs,
                ),
                report=session.report,
                cancel=session.cancel,
            )
    finally:
        opened.close()
    refuse_difference(result)
    session.result(_value(result, layout), lambda: show_rebuild(result, layout))


def _value(result: RebuildResult, layout: Path | None) -> dict[str, Any]:
    comparison = result.comparison
    return {
        "digest": result.recorded.manifest.digest,
        "rebuilt": result.built.digest,
        "verdict": comparison.verdict.value if comparison is not None else "",
        "differences": comparison.differences if comparison is not None else [],
        "layout": layout,
        "ref_name": result.built.ref_name,
        "target": result.built.target,
        "steps": result.built.steps,
    }


def show_rebuild(result: RebuildResult, layout: Path | None) -> str:
    """Return what came of a rebuild that reproduced the bundle, or was not compared."""
    lines = [f"{result.recorded.place}", f"  digest   {result.recorded.manifest.digest}"]
    match result.comparison.verdict if result.comparison is not None else None:
        case Verdict.IDENTICAL:
            lines.append("  rebuilt  identical, byte for byte")
        case Verdict.SAME_CONTENTS:
            lines.append(f"  rebuilt  {result.built.digest}")
            lines.append("  same contents: every tar, file and field is equal; only the compressor's output differs")
        case _:
            lines.append(f"  rebuilt  {result.built.digest}")
    if layout is not None:
        lines.append(f"  layout   oci:{layout}:{result.built.ref_name}")
    return "\n".join(lines)
