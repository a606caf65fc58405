"""``mr-bundle ls``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import get_args

import click

from mr_bundler.cli.advice import tag_advice
from mr_bundler.cli.recipe_arguments import parse_target
from mr_bundler.listing import (
    ListedBundle,
    ListedPaper,
    choose_bundle,
    list_bundles,
    list_papers,
    read_paper,
    with_target,
)
from mr_bundler.papers.kinds import PaperKind
from mr_bundler.papers.licence_table import show_licences
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.decode import parse_json
from mr_core.errors import UsageError, printable
from mr_core.location import parse_location
from mr_core.open_store import open_source
from mr_core.referrers import MAX_PAPER_BYTES
from mr_core.registry_options import RegistryOptions
from mr_core.store import Source

_UNUSUAL = re.compile(r"[^\x20-\x7e\n]")


@click.command(name="ls", short_help="List bundles and their papers: SBOM, provenance, licences.")
@click.argument("location", default="oci:dist/layout")
@click.option("--papers", is_flag=True, help="List the papers attached to each bundle.")
@click.option("--show", type=click.Choice(get_args(PaperKind)), help="Print one paper of one bundle.")
@click.option("--target", default="", metavar="TARGET", help="Only this target, such as linux/amd64+cpu.")
@registry_options
@output_options
def ls(
    session: Session,
    location: str,
    *,
    papers: bool,
    show: PaperKind | None,
    target: str,
    registry: RegistryOptions,
) -> None:
    """List what LOCATION holds: names, targets, sizes and digests.

    \b
      mr-bundle ls oci:dist/layout
      mr-bundle ls --papers docker://registry.example/bundles/mlx-lm:0.32.2
      mr-bundle ls --show licences --target linux/amd64+cpu oci:dist/layout:mlx-lm-0.32.2

    SBOM (CycloneDX 1.6) and provenance (in-toto, SLSA v1) are printed as the JSON they are, the licence report as a
    table.
    """
    if target:
        target = str(parse_target(target))
    if papers and show is not None:
        raise UsageError("Cannot list: `--papers` lists papers and `--show` prints one", hint="leave one of them away")
    opened, name = open_source(parse_location(location), options=registry, cancel=session.cancel)
    try:
        with tag_advice(location):
            bundles = list_bundles(opened, name)
        if show is not None:
            _show_paper(session, opened, choose_bundle(bundles, target, location), show)
            return
        entries = with_target(bundles, target, location)
        attached = [paper for bundle in _distinct(entries) for paper in list_papers(opened, bundle)] if papers else []
    finally:
        opened.close()
    if papers:
        value = {"location": location, "bundles": entries, "papers": attached}
        session.result(value, lambda: show_papers(entries, attached))
    else:
        session.result({"location": location, "bundles": entries}, lambda: show_entries(entries))


def _distinct(bundles: Sequence[ListedBundle]) -> list[ListedBundle]:
    return list({bundle.digest: bundle for bundle in bundles}.values())


def _show_paper(session: Session, source: Source, bundle: ListedBundle, kind: PaperKind) -> None:
    content = read_paper(source, bundle, kind)
    if session.as_json or kind != "licences":
        value = parse_json(content, f"paper `{kind}`", limit=MAX_PAPER_BYTES)
        text = _UNUSUAL.sub(_escaped, content.decode())
    else:
        value, text = None, show_licences(content)
    session.result({"bundle": bundle, "kind": kind, "content": value}, text)


def _escaped(match: re.Match[str]) -> str:
    """Return a letter of a JSON document, or its JSON escape when a terminal would obey it."""
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


def show_entries(entries: Sequence[ListedBundle]) -> str:
    """Return a table of bundles."""
    if not entries:
        return "no bundle is there"
    lines = [f"{'NAME':<24} {'TARGET':<20} {'LAYERS':>6} {'COMPRESSED':>11} {'INSTALLED':>11}  DIGEST"]
    return "\n".join([*lines, *(_row(entry) for entry in entries)])


def show_papers(entries: Sequence[ListedBundle], papers: Sequence[ListedPaper]) -> str:
    """Return the bundles, each with a line for every paper attached to it."""
    if not entries:
        return "no bundle is there"
    lines = []
    for entry in entries:
        lines.append(f"{printable(entry.name)} {printable(entry.target)}  {entry.digest[:19]}")
        own = [paper for paper in papers if paper.bundle == entry.digest]
        lines += [f"  {printable(paper.kind):<12} {show_bytes(paper.size):>10}  {paper.digest[:19]}" for paper in own]
        lines += ["  no papers"] if not own else []
    return "\n".join(lines)


def _row(entry: ListedBundle) -> str:
    return (
        f"{printable(entry.name):<24} {printable(entry.target):<20} {entry.layers:>6}"
        f" {show_bytes(entry.compressed_bytes):>11} {show_bytes(entry.installed_bytes):>11}  {entry.digest[:19]}"
    )
