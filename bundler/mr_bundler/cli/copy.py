"""``mr-bundle copy``."""

from __future__ import annotations

import click

from mr_bundler.cli.advice import require_tag, tag_advice, version_of
from mr_bundler.cli.recipe_arguments import TARGETS, parse_targets
from mr_bundler.cli.transfer_arguments import JOBS, MOUNT_FROM, NO_PAPERS, OVERWRITE, open_both, show_transfer
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.location import parse_location
from mr_core.registry_options import RegistryOptions
from mr_core.transfer import transfer


@click.command(short_help="Copy a bundle from any store to any other.")
@click.argument("source")
@click.argument("destination")
@TARGETS
@NO_PAPERS
@MOUNT_FROM
@OVERWRITE
@JOBS
@registry_options
@output_options
def copy(
    session: Session,
    source: str,
    destination: str,
    *,
    targets: tuple[str, ...],
    no_papers: bool,
    mount_from: tuple[str, ...],
    overwrite: bool,
    jobs: int,
    registry: RegistryOptions,
) -> None:
    """Copy SOURCE to DESTINATION, byte for byte, with the papers attached to it.

    Digests stay the same, except that of the index when --target leaves some bundles out. Between two repositories of
    one registry no blob is sent: the registry mounts them.

    \b
      mr-bundle copy docker://registry.example/staging/mlx-lm:0.32.2 docker://registry.example/bundles/mlx-lm:0.32.2
      mr-bundle copy docker://registry.example/bundles/mlx-lm:0.32.2 oci:mirror --target linux/amd64+cpu
      mr-bundle copy oci-archive:mlx-lm.tar docker://registry.example/bundles/mlx-lm:0.32.2

    A registry needs a tag; in a layout the bundle keeps its name, or is called BACKEND-VERSION.

    An archive can only be read here; `mr-bundle export` writes one.
    """
    wanted = parse_targets(targets)
    with (
        open_both(session, source, destination, registry) as (opened, name, store, destination_name),
        tag_advice(source),
    ):
        require_tag(destination, lambda: version_of(opened, name))
        done = transfer(
            opened,
            name,
            store,
            destination_name,
            overwrite=overwrite,
            jobs=jobs,
            papers=not no_papers,
            targets=None if wanted is None else [str(target) for target in wanted],
            mount_from=mount_from,
            report=session.report,
            cancel=session.cancel,
        )
    session.result(done, lambda: show_transfer(done, parse_location(destination)))
