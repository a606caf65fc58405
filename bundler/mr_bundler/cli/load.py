"""``mr-bundle load``."""

from __future__ import annotations

import click

from mr_bundler.cli.advice import tag_advice
from mr_bundler.export.engine import LoadResult, load_bundle
from mr_core.cli.arguments import parse_target
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.location import parse_location
from mr_core.open_store import open_source
from mr_core.platform import Target
from mr_core.registry_options import RegistryOptions


@click.command(short_help="Load a bundle into a container engine.")
@click.argument("source")
@click.option(
    "--target",
    metavar="OS/ARCH+ACCELERATOR",
    callback=parse_target,
    help="The bundle to load.  [default: the only one for the engine's platform]",
)
@click.option(
    "--tag",
    default="",
    metavar="NAME[:TAG]",
    help="Name of the image.  [default: BACKEND:VERSION, with -ACCELERATOR if several bundles are for one platform]",
)
@click.option(
    "--host",
    default="",
    metavar="ADDRESS",
    help="The engine, such as unix:///run/podman/podman.sock.  [default: as for `docker`]",
)
@registry_options
@output_options
def load(
    session: Session, source: str, *, target: Target | None, tag: str, host: str, registry: RegistryOptions
) -> None:
    """Put a bundle into a Docker or podman engine, where `docker run` and `COPY --from=` find it.

    Layers are decompressed on the way, since older engines cannot read zstd; the image keeps its config and its layers'
    digests. Needs no access of the engine to any registry.

    \b
      mr-bundle load oci:dist/layout:mlx-lm-0.32.2
      mr-bundle load docker://registry.example/bundles/mlx-lm:0.32.2 --tag mlx-lm:test
      mr-bundle load mlx-lm-0.32.2.tar --host unix:///run/podman/podman.sock
    """
    opened, name = open_source(parse_location(source), options=registry, cancel=session.cancel)
    try:
        with tag_advice(source):
            done = load_bundle(
                opened, name, target=target, tag=tag, host=host, report=session.report, cancel=session.cancel
            )
    finally:
        opened.close()
    session.result(done, lambda: show_load(done))


def show_load(done: LoadResult) -> str:
    """Return the name of the image and what was sent for it."""
    sent = "was there already" if done.skipped else f"{show_bytes(done.bytes)} sent"
    return f"{done.tag} for {done.target}\n  image  {done.image}\n  engine {done.engine}\n  {sent}"
