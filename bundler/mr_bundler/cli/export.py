"""``mr-bundle export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from mr_bundler.cli.advice import tag_advice
from mr_bundler.cli.recipe_arguments import TARGETS, parse_targets
from mr_bundler.export.oci_archive import ExportResult, archive_name, export_archive
from mr_core.cli.arguments import PathText
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.errors import UsageError
from mr_core.location import parse_location
from mr_core.open_store import open_source
from mr_core.registry_options import RegistryOptions


@click.command(short_help="Write a bundle to one file: an OCI archive.")
@click.argument("source")
@click.option(
    "-o",
    "--output",
    type=PathText(),
    help="File to write, or `-` for standard output.  [default: BACKEND-VERSION.tar]",
)
@TARGETS
@click.option("--no-papers", is_flag=True, help="Leave SBOM, provenance and licence report out.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@registry_options
@output_options
def export(
    session: Session,
    source: str,
    *,
    output: Path | None,
    targets: tuple[str, ...],
    no_papers: bool,
    overwrite: bool,
    registry: RegistryOptions,
) -> None:
    """Write SOURCE to one tar file that `mr-install`, skopeo and podman read: for machines without a network.

    The file appears complete or not at all, and the same bundle gives the same bytes wherever it comes from.

    Papers are entries of their own in the archive, so skopeo and podman want the bundle's name behind the file:
    `oci-archive:FILE:NAME`. `podman load -i FILE`, which takes none, reads archives written with --no-papers only.

    \b
      mr-bundle export oci:dist/layout:mlx-lm-0.32.2
      mr-bundle export docker://registry.example/bundles/mlx-lm:0.32.2 -o - | ssh host 'cat > mlx-lm.tar'
      mr-install mlx-lm --from oci-archive:mlx-lm-0.32.2.tar
      skopeo copy --all oci-archive:mlx-lm-0.32.2.tar:mlx-lm-0.32.2 docker://registry.example/bundles/mlx-lm:0.32.2
      podman pull oci-archive:mlx-lm-0.32.2.tar:mlx-lm-0.32.2
    """
    wanted = parse_targets(targets)
    opened, name = open_source(parse_location(source), options=registry, cancel=session.cancel)
    try:
        with tag_advice(source):
            destination = _standard_output(session) if str(output) == "-" else output
            done = export_archive(
                opened,
                name,
                destination or Path(f"{archive_name(opened, name)}.tar"),
                targets=None if wanted is None else [str(target) for target in wanted],
                papers=not no_papers,
                overwrite=overwrite,
                report=session.report,
                cancel=session.cancel,
            )
    finally:
        opened.close()
    if done.path:
        session.result(done, lambda: show_export(done, papers=not no_papers))
    else:
        session.close()


def show_export(done: ExportResult, *, papers: bool) -> str:
    """Return what was written, and under which name it can be read."""
    return (
        f"oci-archive:{done.path}:{done.name}\n  digest {done.digest}\n  {show_bytes(done.bytes)}, {done.blobs} blobs"
        "\n  skopeo and podman read it under the whole name above"
        + (", with `podman pull`, not `podman load`" if papers else "")
    )


def _standard_output(session: Session) -> BinaryIO:
    """Return standard output when it can take an archive."""
    if session.as_json:
        raise UsageError("Cannot write the archive to standard output: `--json` writes there", hint="name a file")
    if sys.stdout.isatty():
        raise UsageError(
            "Cannot write the archive to standard output: it is a terminal", hint="name a file, or send it to a program"
        )
    return sys.stdout.buffer
