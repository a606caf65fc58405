"""``mr-bundle index``."""

from __future__ import annotations

import click

from mr_bundler.cli.advice import require_tag
from mr_bundler.cli.transfer_arguments import OVERWRITE
from mr_bundler.join import join_index, member_version
from mr_core.bundle_config import ANNOTATION_TARGET
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.errors import BundleError, UsageError
from mr_core.location import parse_location
from mr_core.manifest import Index, parse_document
from mr_core.open_store import open_store
from mr_core.registry_options import RegistryOptions
from mr_core.store import Store


def _suggested(store: Store, member: str) -> str:
    try:
        return member_version(store, member)
    except BundleError:
        return ""  # the tag is what is missing; what is wrong with the members comes next


@click.command(short_help="Join bundles that were pushed by digest into one index.")
@click.argument("destination")
@click.argument("members", metavar="MEMBER...", nargs=-1, required=True)
@OVERWRITE
@registry_options
@output_options
def index(
    session: Session, destination: str, members: tuple[str, ...], *, overwrite: bool, registry: RegistryOptions
) -> None:
    """Make one index of the MEMBERs, and let DESTINATION name it.

    A MEMBER is a digest, or a name, in the repository or layout of DESTINATION. The bundles must be of one version of
    one backend, each for another target, and complete. The index is the one that a single build of all targets gives,
    byte for byte.

    \b
      mr-bundle push oci:dist/layout docker://registry.example/bundles/mlx-lm --by-digest >> digests   (in each job)
      mr-bundle index docker://registry.example/bundles/mlx-lm:0.32.2 $(cat digests)
    """
    place = parse_location(destination)
    store, name = open_store(place, options=registry, cancel=session.cancel)
    try:
        require_tag(destination, lambda: _suggested(store, members[0]))
        if not name or ":" in name:
            raise UsageError(f"Cannot write an index to `{place}`: it names no tag", hint="add one, such as `:1.0`")
        done = join_index(store, name, members, overwrite=overwrite, report=session.report, cancel=session.cancel)
        joined = parse_document(store.read_document(done), done.media_type)
    finally:
        store.close()
    bundles = {
        entry.annotations[ANNOTATION_TARGET]: str(entry.digest)
        for entry in (joined.manifests if isinstance(joined, Index) else ())
    }
    session.result(
        {"location": str(place), "digest": done.digest, "bundles": bundles},
        lambda: "\n".join(
            [str(place), f"  digest {done.digest}", *(f"  {target}: {digest}" for target, digest in bundles.items())]
        ),
    )
