"""``mr-bundle ls``."""

from __future__ import annotations

import click

from mr_bundler.cli.advice import tag_advice
from mr_bundler.listing import ListedBundle, list_bundles
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.location import parse_location
from mr_core.open_store import open_source
from mr_core.registry_options import RegistryOptions


@click.command(name="ls", short_help="List the bundles of a layout, archive or registry name.")
@click.argument("location", default="oci:dist/layout")
@registry_options
@output_options
def ls(session: Session, location: str, *, registry: RegistryOptions) -> None:
    """List what LOCATION holds: names, targets, sizes and digests."""
    opened, name = open_source(parse_location(location), options=registry)
    try:
        with tag_advice(location):
            entries = list_bundles(opened, name)
    finally:
        opened.close()
    session.result({"location": location, "bundles": entries}, lambda: show_entries(entries))


def show_entries(entries: list[ListedBundle]) -> str:
    """Return a table of bundles."""
    if not entries:
        return "no bundle is there"
    lines = [f"{'NAME':<24} {'TARGET':<20} {'LAYERS':>6} {'COMPRESSED':>11} {'INSTALLED':>11}  DIGEST"]
    lines += [
        f"{entry.name:<24} {entry.target:<20} {entry.layers:>6} {show_bytes(entry.compressed_bytes):>11}"
        f" {show_bytes(entry.installed_bytes):>11}  {entry.digest[:19]}"
        for entry in entries
    ]
    return "\n".join(lines)
