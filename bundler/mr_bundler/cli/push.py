"""``mr-bundle push``."""

from __future__ import annotations

import click

from mr_bundler.cli.advice import tag_advice
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.location import LayoutLocation, Location, parse_location
from mr_core.open_store import open_source, open_store
from mr_core.registry_options import RegistryOptions
from mr_core.transfer import TransferResult, transfer


@click.command(short_help="Copy a bundle to a registry or layout.")
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
                done = transfer(
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


def show_push(result: TransferResult, destination: Location) -> str:
    """Return what a push sent, under the full name it has now."""
    match destination:
        case LayoutLocation(path=path, name=""):
            destination = LayoutLocation(path, result.name)
        case _:
            pass
    sent = f"{result.blobs_pushed} blobs sent ({show_bytes(result.bytes_pushed)})"
    kept = f"{result.blobs_skipped} were there already ({show_bytes(result.bytes_skipped)})"
    return f"{destination}\n  digest {result.digest}\n  {sent}, {kept}"
