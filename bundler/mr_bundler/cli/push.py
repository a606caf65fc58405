"""``mr-bundle push``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, assert_never

import click

from mr_bundler.cli.advice import require_tag, tag_advice, version_of
from mr_bundler.cli.recipe_arguments import TARGETS, parse_targets
from mr_bundler.cli.transfer_arguments import (
    JOBS,
    MOUNT_FROM,
    NO_PAPERS,
    OVERWRITE,
    open_both,
    show_counts,
    show_transfer,
)
from mr_core.cli.jsonl import plain
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.errors import BundleError, UsageError
from mr_core.location import ArchiveLocation, LayoutLocation, Location, RegistryLocation, parse_location
from mr_core.manifest import Index, parse_document
from mr_core.registry_options import RegistryOptions
from mr_core.store import Source, Store
from mr_core.transfer import TransferResult, transfer, transfer_by_digest

if TYPE_CHECKING:
    from mr_bundler.export.model_runner import RunnerImage


@click.command(short_help="Publish a bundle to a registry or layout.")
@click.argument("source")
@click.argument("destination")
@TARGETS
@click.option("--by-digest", is_flag=True, help="Push bundles without index and name; `mr-bundle index` joins them.")
@click.option(
    "--also",
    type=click.Choice(["model-runner"]),
    help="Also write the image that the existing host daemon installs, under the tag BACKEND-VERSION.",
)
@NO_PAPERS
@MOUNT_FROM
@OVERWRITE
@JOBS
@registry_options
@output_options
def push(
    session: Session,
    source: str,
    destination: str,
    *,
    targets: tuple[str, ...],
    by_digest: bool,
    also: str | None,
    no_papers: bool,
    mount_from: tuple[str, ...],
    overwrite: bool,
    jobs: int,
    registry: RegistryOptions,
) -> None:
    """Publish SOURCE, byte for byte: blobs first, then manifests and their papers, then the index, then its name.

    What is there already is not sent again, so repeating an interrupted push finishes it. A name that means something
    else is never moved without --overwrite.

    \b
      mr-bundle push oci:dist/layout:mlx-lm-0.32.2 docker://registry.example/bundles/mlx-lm:0.32.2
      mr-bundle push oci:dist/layout:mlx-lm-0.32.2 docker://registry.example/bundles/mlx-lm:0.32.2 --also model-runner

    Jobs that each build one target push it by digest; one job joins them when all are done:

    \b
      mr-bundle push oci:dist/layout docker://registry.example/bundles/mlx-lm --by-digest >> digests
      mr-bundle index docker://registry.example/bundles/mlx-lm:0.32.2 $(cat digests)
    """
    wanted = parse_targets(targets)
    chosen = None if wanted is None else [str(target) for target in wanted]
    place = parse_location(destination)
    if by_digest:
        _check_nameless(place, also=also, overwrite=overwrite)
    with (
        open_both(session, source, destination, registry) as (opened, name, store, destination_name),
        tag_advice(source),
    ):
        if by_digest:
            pushed = transfer_by_digest(
                opened,
                name,
                store,
                targets=chosen,
                jobs=jobs,
                papers=not no_papers,
                mount_from=mount_from,
                report=session.report,
                cancel=session.cancel,
            )
            session.result({"location": store.describe(), "bundles": pushed}, lambda: show_digests(pushed))
            return
        require_tag(destination, lambda: version_of(opened, name))
        runner_tag = ""
        if also:
            runner_tag = _runner_tag(opened, name, destination_name)
            _check_runner(opened, name, store, runner_tag, targets=chosen, overwrite=overwrite)
        done = transfer(
            opened,
            name,
            store,
            destination_name,
            overwrite=overwrite,
            jobs=jobs,
            papers=not no_papers,
            targets=chosen,
            mount_from=mount_from,
            report=session.report,
            cancel=session.cancel,
        )
        runner = None
        if also:
            with _after(place, done):
                runner = _write_runner(
                    session, opened, name, store, runner_tag, targets=chosen, jobs=jobs, overwrite=overwrite
                )
    result = plain(done)
    if runner is not None:
        counts = {} if runner.sent is None else plain(runner.sent)
        result["model_runner"] = {**counts, "name": runner_tag, "digest": str(runner.index.digest)}
    session.result(result, lambda: show_push(done, place, runner_tag, runner))


def show_push(result: TransferResult, place: Location, runner_tag: str, runner: RunnerImage | None) -> str:
    """Return what a push sent, and under which names."""
    text = show_transfer(result, place)
    if runner is None:
        return text
    counts = "was there already" if runner.sent is None else show_counts(runner.sent)
    return f"{text}\n  {runner_tag}: image for the model runner, digest {runner.index.digest}\n  {counts}"


@contextlib.contextmanager
def _after(place: Location, done: TransferResult) -> Iterator[None]:
    """Say in an error that the bundle has been published before it."""
    published = f"the bundle itself is published as `{place}`, digest {done.digest}; run it again for the image"
    try:
        yield
    except BundleError as error:
        hint = f"{error.hint}; {published}" if error.hint else published
        raise type(error)(error.message, hint=hint, **error.fields) from error


def show_digests(results: Sequence[TransferResult]) -> str:
    """Return the digests alone, a line each, for `mr-bundle index`."""
    for result in results:
        click.echo(f"{result.target or result.media_type}: {show_counts(result)}", err=True)
    return "\n".join(str(result.digest) for result in results)


def _check_nameless(place: Location, *, also: str | None, overwrite: bool) -> None:
    """Refuse what makes no sense without a name."""
    match place:
        case RegistryLocation(reference):
            named = reference.digest is not None or reference.tag != "latest"
        case LayoutLocation(name=name) | ArchiveLocation(name=name):
            named = bool(name)
        case _:
            assert_never(place)
    if named:
        raise UsageError(
            f"Cannot push to `{place}` by digest: it has a name", hint="leave the tag away; `mr-bundle index` gives it"
        )
    if also or overwrite:
        option = "--also" if also else "--overwrite"
        raise UsageError(f"Cannot push by digest with `{option}`: that is about names")


def _runner_tag(source: Source, name: str, destination_name: str) -> str:
    """Return the tag of the model runner's image; raise before anything was sent when it cannot be used."""
    from mr_bundler.export.model_runner import model_runner_tag  # noqa: PLC0415 - needed for this option only
    from mr_bundler.published import read_published  # noqa: PLC0415

    top = source.resolve(name)
    document = parse_document(source.read_document(top), top.media_type)
    one = document.manifests[0] if isinstance(document, Index) and document.manifests else top
    tag = model_runner_tag(read_published(source, str(one.digest), place=source.describe()).config)
    if destination_name in {"", tag}:
        raise UsageError(
            f"Cannot push under `{tag}` with `--also`: the image for the model runner has that tag",
            hint="choose another tag for the bundle, such as its version",
        )
    return tag


def _check_runner(
    source: Source, name: str, store: Store, tag: str, *, targets: Sequence[str] | None, overwrite: bool
) -> None:
    """Raise before anything was sent when the image for the model runner cannot be made, or its tag must not move."""
    from mr_bundler.export.model_runner import check_model_runner  # noqa: PLC0415 - needed for this option only

    check_model_runner(source, name, store, tag, targets=targets, overwrite=overwrite)


def _write_runner(
    session: Session,
    source: Source,
    name: str,
    store: Store,
    tag: str,
    *,
    targets: Sequence[str] | None,
    jobs: int,
    overwrite: bool,
) -> RunnerImage:
    from mr_bundler.cache import BuildCache, default_cache  # noqa: PLC0415 - needed for this option only
    from mr_bundler.environment.tree import build_directory  # noqa: PLC0415
    from mr_bundler.export.model_runner import write_model_runner  # noqa: PLC0415

    # Not in $TMPDIR: that is memory on many hosts, and nothing would remove there what a killed push leaves.
    cache = default_cache(os.environ)
    with (
        BuildCache(cache).in_use(report=session.report, cancel=session.cancel),
        build_directory(cache / "tmp") as scratch,
    ):
        return write_model_runner(
            source,
            name,
            store,
            tag,
            scratch=scratch,
            targets=targets,
            jobs=jobs,
            report=session.report,
            cancel=session.cancel,
            overwrite=overwrite,
        )
