"""``mr-bundle audit``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import click

from mr_bundler.audit.finding import FINDINGS, Allowance, Finding
from mr_bundler.audit.standalone import Audit, AuditOptions, audit_bundle, audit_directory
from mr_bundler.cache import default_cache
from mr_bundler.cli.advice import tag_advice
from mr_bundler.cli.recipe_arguments import JOBS
from mr_bundler.environment.tree import build_directory
from mr_bundler.recipe.recipe import load_recipe
from mr_core.bundle_config import HostRequirements
from mr_core.cli.arguments import PathText, parse_target
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.errors import BuildError, printable
from mr_core.events import Level, Notice
from mr_core.location import LayoutLocation, parse_location
from mr_core.open_store import open_source
from mr_core.platform import Target
from mr_core.registry_options import RegistryOptions

_SHOWN = 8


def _version(ctx: click.Context, parameter: click.Parameter, text: str) -> str:
    if text and not all(part.isascii() and part.isdigit() for part in text.split(".")):
        raise click.BadParameter(f"`{text}` is not a version such as 2.35", ctx=ctx, param=parameter)
    return text


@click.command(short_help="Check a bundle or directory for what no host should be given.")
@click.argument("where")
@click.option(
    "--target",
    metavar="OS/ARCH+ACCELERATOR",
    callback=parse_target,
    help="What the binaries should be for.  [default: what the bundle says, or most of them are]",
)
@click.option("--glibc", default="", callback=_version, metavar="VERSION", help="Newest glibc a binary may ask for.")
@click.option("--macos", default="", callback=_version, metavar="VERSION", help="Newest macOS a binary may ask for.")
@click.option("--strict", is_flag=True, help="Distributions and libraries without a known licence fail, too.")
@click.option(
    "--recipe",
    type=PathText(),
    help="Recipe whose allowances count.  [default: the recipe in a bundle of this machine]",
)
@click.option("--trust-recipe", is_flag=True, help="Count what the recipe in a bundle from elsewhere allows.")
@click.option("--allow-nothing", is_flag=True, help="Count what a recipe allows, too.")
@click.option(
    "--cache",
    type=PathText(file_okay=False),
    help="Where to unpack.  [default: $MR_CACHE, else ~/.cache/mr-bundle]",
)
@JOBS
@registry_options
@output_options
def audit(
    session: Session,
    where: str,
    *,
    target: Target | None,
    glibc: str,
    macos: str,
    strict: bool,
    recipe: Path | None,
    trust_recipe: bool,
    allow_nothing: bool,
    cache: Path | None,
    jobs: int | None,
    registry: RegistryOptions,
) -> None:
    """Look for leaked paths, libraries that are missing, foreign or too new, broken signatures, and more.

    WHERE is a bundle in a registry, layout or archive, or any directory that holds a Python. The exit status is 10
    when something was found that no allowance covers.

    What the recipe in a bundle allows counts for layouts and directories. A bundle in a registry or an archive could
    allow itself anything: read the reasons it gives, then say `--trust-recipe`, or name your own copy with `--recipe`.

    \b
      mr-bundle audit oci:dist/layout:mlx-lm-0.32.2
      mr-bundle audit docker://registry.example/bundles/vllm:0.32.0 --recipe recipes/vllm
      mr-bundle audit ~/.venvs/server --glibc 2.31
    """
    if (recipe is not None) + trust_recipe + allow_nothing > 1:
        raise click.UsageError("`--recipe`, `--trust-recipe` and `--allow-nothing` exclude each other")
    stated = load_recipe(recipe) if recipe is not None else None
    allowances: Sequence[Allowance] | None = () if allow_nothing else None
    options = AuditOptions(
        target=target,
        requires=HostRequirements(glibc=glibc, macos=macos),
        allow=stated.audit if stated is not None else allowances,
        backend=stated.backend if stated is not None else "",
        licences=stated.licences if stated is not None else None,
        strict=strict,
        jobs=jobs,
    )
    if where and is_tree(Path(where)):
        found = audit_directory(Path(where), options, where=where, report=session.report, cancel=session.cancel)
    else:
        location = parse_location(where)
        options = replace(options, trust_recipe=trust_recipe or isinstance(location, LayoutLocation))
        source, name = open_source(location, options=registry, cancel=session.cancel)
        try:
            with build_directory((cache or default_cache(os.environ)) / "tmp") as scratch, tag_advice(where):
                found = audit_bundle(
                    source,
                    name,
                    options,
                    where=where,
                    scratch=scratch,
                    report=session.report,
                    cancel=session.cancel,
                )
        finally:
            source.close()
    if found.report.unused:
        text = f"{len(found.report.unused)} allowances cover nothing"
        session.report(Notice(code="allowance-unused", message=text, level=Level.WARNING))
    if not found.report.findings:
        session.result(found, lambda: show_audit(found))
        return
    if not session.as_json:
        session.result(found, lambda: show_audit(found))
    count, kinds = len(found.report.findings), len({finding.kind for finding in found.report.findings})
    raise BuildError(
        f"Cannot accept `{where}`: {count} findings of {kinds} kinds",
        hint=_advice(found),
        **found.to_json(),
    )


def is_tree(place: Path) -> bool:
    """Return whether a path is a directory that is no OCI layout."""
    try:
        return place.is_dir() and not (place / "oci-layout").exists()
    except (OSError, ValueError):
        return False


def _advice(found: Audit) -> str:
    if found.claimed:
        return (
            f"its own recipe accepts {len(found.claimed)} of them, which does not count for a bundle from elsewhere:"
            " read its reasons, then say `--trust-recipe`, or name your copy of the recipe with `--recipe`"
        )
    return "see `[[audit.allow]]` in recipes/README.md for what you accept; `--json` names every path"


def show_audit(found: Audit) -> str:
    """Return what an audit found, by kind, with the first paths of each."""
    result = found.report
    name = f"{found.name} for {found.target}" if found.name else f"{found.where} as {found.target}"
    lines = [name + (" (as most binaries are)" if found.guessed else "")]
    lines.append(f"  files      {result.files} ({show_bytes(found.bytes)}), {result.binaries} binaries for this target")
    system, asked = ("macOS", result.macos) if found.target.platform.os == "darwin" else ("glibc", result.glibc)
    promised = found.requires.macos if system == "macOS" else found.requires.glibc
    if asked:
        asked += f", {result.libstdcxx}" if result.libstdcxx else ""
        lines.append(f"  asks for   {system} {asked}" + (f"; {promised} is promised" if promised else ""))
    for kind, group in groupby(result.findings, key=lambda finding: finding.kind):
        lines += ["", *_show_group(kind, list(group))]
    if result.allowed:
        whose = "by the bundle's own recipe" if found.own_allowances else "by the recipe named"
        lines += ["", f"allowed ({len(result.allowed)}, {whose})", *_show_reasons(result.allowed)]
    if found.claimed:
        title = f"not counted ({len(found.claimed)} of the findings above): what the bundle's own recipe would allow"
        lines += ["", title, *_show_reasons(found.claimed)]
    for item in result.unused:
        lines += ["", f"covers nothing: {item.finding} in {printable(', '.join(item.paths))}"]
    for kind, group in groupby(result.listed, key=lambda finding: finding.kind):
        lines += ["", *_show_group(kind, list(group), note=", not counted")]
    lines += ["", "no findings" if not result.findings else f"{len(result.findings)} findings"]
    return "\n".join(lines)


def _show_group(kind: str, findings: Sequence[Finding], *, note: str = "") -> list[str]:
    return [f"{kind} ({len(findings)}{note}): {FINDINGS[kind]}", *_show_paths(findings, indent="  ")]


def _show_reasons(pairs: Sequence[tuple[Finding, Allowance]]) -> list[str]:
    lines = []
    for (kind, reason), group in groupby(pairs, key=lambda pair: (pair[0].kind, pair[1].reason)):
        lines.append(f"  {kind}: {printable(reason)}")
        lines += _show_paths([finding for finding, _ in group], indent="    ")
    return lines


def _show_paths(findings: Sequence[Finding], *, indent: str) -> list[str]:
    lines = [
        f"{indent}{printable(finding.path)}" + (f"  ({printable(finding.detail, most=100)})" if finding.detail else "")
        for finding in findings[:_SHOWN]
    ]
    return lines if len(findings) <= _SHOWN else [*lines, f"{indent}and {len(findings) - _SHOWN} more"]
