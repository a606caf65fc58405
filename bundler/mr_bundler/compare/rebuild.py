"""Build a published bundle again from the recipe and the lock it holds, and compare.

``rebuild`` needs nothing but the bundle, the wheels of its lock and its interpreter: what was published can be shown
to be what its sources give. What a bundle names is not run unasked: neither commands of its recipe nor builds of git
commits nor an interpreter that is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mr_bundler.build import build_bundle
from mr_bundler.cache import default_cache
from mr_bundler.compare.rebuilt import RebuildComparison, Verdict, compare_documents, compare_rebuild
from mr_bundler.environment.shim_files import LOCK_PATH, RECIPE_PATH
from mr_bundler.environment.tree import build_directory
from mr_bundler.image.destination import check_destination
from mr_bundler.image.image import reference_name
from mr_bundler.interpreter.host_search import locate_host_python
from mr_bundler.lock.lock import Lock, parse_lock
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.published import PublishedBundle, read_published
from mr_bundler.recipe.recipe import RECIPE_FILE, Recipe, parse_recipe
from mr_bundler.recipe.steps import PrebuildStep
from mr_bundler.result import BuildOptions, BuildResult
from mr_bundler.unpack import read_members, unpack_bundle
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import IntegrityError, InvalidInputError, UsageError, printable
from mr_core.events import Cancel, Level, Notice, Phase, Reporter, SafeReporter, Unit, discard
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, Entry, FileEntry, parse_entries
from mr_core.layout import LayoutStore
from mr_core.platform import Platform, Target
from mr_core.reader import VerifyingReader
from mr_core.resuming import ResumingStream
from mr_core.retry import RetryPolicy
from mr_core.store import Source

_PIECE = 1 << 20
_HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildOptions:
    """What a rebuild may use; attributes as in `BuildOptions`.

    Attributes:
        layout: Where the rebuilt bundle is left; None for a place that is removed again.
        use_cache: Whether packed layers of earlier builds may be used. They prove less: a cached layer is not made
            again.
        run_steps: Whether commands, sources and interpreters that the bundle names may run on this machine.
    """

    layout: Path | None = None
    cache: Path | None = None
    use_cache: bool = False
    python_from: Path | None = None
    python_archive: Path | None = None
    jobs: int | None = None
    run_steps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """A bundle that was built again.

    Attributes:
        comparison: None when it was not asked for.
        steps: Prebuild steps that ran, in backticks: what they write need not be the same twice.
    """

    recorded: PublishedBundle
    built: BuildResult
    comparison: RebuildComparison | None
    steps: tuple[str, ...] = ()


def rebuild_bundle(
    source: Source,
    name: str,
    *,
    place: str,
    target: Target | None = None,
    compare: bool,
    options: RebuildOptions,
    environ: Mapping[str, str] = os.environ,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> RebuildResult:
    """Build the bundle ``name`` of ``source`` again, with the creation time it records, and compare it when asked to.

    Args:
        source: Where the bundle is.
        name: A name or digest there.
        place: The location, for messages.
        target: Which bundle of an index.
        compare: Whether to compare; a difference is found, not raised: see `refuse_difference`.
        options: What to build with, and where to.
        environ: As for `build_bundle`; ``SOURCE_DATE_EPOCH`` is that of the bundle.
        report: Gets the phases of a build, and ``compare``.
        cancel: Stops at the next piece of work.

    Raises:
        InvalidInputError: the bundle holds no recipe and lock, or they do not belong to it.
        UsageError: it would run what the bundle names, and `RebuildOptions.run_steps` does not allow that.
        NotFoundError, UsageError, IntegrityError: from reading the bundle.
        BundleError: whatever the build raises.
    """
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    recorded = read_published(source, name, place=place, target=target)
    if options.layout is not None:
        check_destination(options.layout, reference_name(recorded.config.backend, recorded.config.version))
    cache = options.cache or default_cache(environ)
    with build_directory(cache / "tmp") as scratch:
        recipe, lock = _read_inputs(source, recorded, scratch / "recipe")
        _refuse_steps(recorded, recipe, lock, options)
        if compare:
            _verify_blobs(source, recorded, report, cancel)
        layout = options.layout or scratch / "layout"
        built = build_bundle(
            recipe,
            recorded.config.target,
            lock,
            options=BuildOptions(
                layout=layout,
                cache=cache,
                use_cache=options.use_cache,
                python_from=_python_from(recorded, options, environ, report),
                python_archive=options.python_archive,
                jobs=options.jobs,
            ),
            environ=_at_creation(environ, recorded.created),
            report=report,
            cancel=cancel,
        )
        comparison = None
        if compare:
            with Phase(report, "compare", place) as phase:
                comparison = _compare(source, recorded, layout, built, scratch=scratch, cancel=cancel)
                phase.detail = {"verdict": comparison.verdict.value}
    steps = tuple(f"`{step.name}`" for step in _steps(recipe, recorded.config.target))
    return RebuildResult(recorded=recorded, built=built, comparison=comparison, steps=steps)


def _verify_blobs(source: Source, recorded: PublishedBundle, report: Reporter, cancel: Cancel) -> None:
    """Read everything that was published: equal manifests say nothing about what lies behind the published one."""
    blobs = (recorded.manifest.config, *recorded.manifest.layers)
    with Phase(report, "verify", recorded.place, total=sum(blob.size for blob in blobs), unit=Unit.BYTES) as phase:
        done = 0
        for blob in blobs:
            with ResumingStream(source, blob, policy=RetryPolicy(), cancel=cancel) as stream:
                reader = VerifyingReader(stream, blob.digest, blob.size)
                while piece := reader.read(_PIECE):
                    cancel.check()
                    done += len(piece)
                    phase.progress(done)
                reader.finish()


def refuse_difference(result: RebuildResult) -> None:
    """Raise `IntegrityError` naming the first difference, when the rebuilt bundle is not the recorded one."""
    comparison = result.comparison
    if comparison is None or comparison.verdict is not Verdict.DIFFERENT:
        return
    first, *others = comparison.differences or (None,)
    more = f" (and {len(others)} more)" if others else ""
    reason = f"{first}{more}" if first is not None else "the manifests differ"
    raise IntegrityError(
        f"Cannot reproduce `{result.recorded.place}`: {reason}",
        hint=_advice(result, first.kind if first is not None else "", first.place if first is not None else ""),
        digest=str(result.recorded.manifest.digest),
        rebuilt=str(result.built.digest),
        differences=[
            {"kind": item.kind, "place": item.place, "recorded": item.recorded, "rebuilt": item.rebuilt}
            for item in comparison.differences
        ],
        files=comparison.files,
        layers=list(comparison.layers),
    )


def _advice(result: RebuildResult, kind: str, place: str) -> str:
    config = result.recorded.config
    match kind:
        case "interpreter" if config.python_source == _HOST:
            return f"it was built from CPython {config.python_version} of its builder: name one with `--python-from`"
        case "interpreter":
            return "name the archive it was built from with `--python-archive`"
        case "builder":
            return f"install {config.builder} and rebuild with it"
        case "file" | "layer" if result.steps:
            return f"its recipe runs {', '.join(result.steps)} while it is built: look there first"
        case "file" if place.endswith(".pyc") and config.target.platform != Platform.host():
            return (
                "bytecode for another platform is compiled by the builder's CPython 3.12, perhaps another than yours:"
                " `mr-bundle ls --show provenance` names it"
            )
        case _ if config.python_source == _HOST:
            return "it was built from a host's Python: rebuild on its builder before you call it tampered with"
        case _:
            return "do not use this bundle before you know why: it is not what its recipe and lock give"


def _read_inputs(source: Source, recorded: PublishedBundle, directory: Path) -> tuple[Recipe, Lock]:
    """Return the recipe and the lock of a bundle, which lie in a directory of their own now."""
    members = read_members(source, recorded.manifest, (RECIPE_PATH, LOCK_PATH))
    missing = [path for path in (RECIPE_PATH, LOCK_PATH) if path not in members]
    if missing:
        raise InvalidInputError(
            f"Cannot rebuild `{recorded.place}`: it does not hold `{'` and `'.join(missing)}`",
            hint="only bundles that record their recipe and lock can be rebuilt; check it out and build it",
        )
    with host_errors("write", directory):
        directory.mkdir()
        (directory / RECIPE_FILE).write_bytes(members[RECIPE_PATH])
    recipe = parse_recipe(members[RECIPE_PATH], directory)
    lock = parse_lock(members[LOCK_PATH], f"lock in `{recorded.place}`")
    config = recorded.config
    if (recipe.backend, lock.version, lock.target) != (config.backend, config.version, config.target):
        raise InvalidInputError(
            f"Cannot rebuild `{recorded.place}`: it is {config.backend} {config.version} for `{config.target}`, but"
            f" holds the recipe and lock of {recipe.backend} {lock.version} for `{lock.target}`",
            hint="do not use this bundle; tell its publisher",
        )
    return recipe, lock


def _refuse_steps(recorded: PublishedBundle, recipe: Recipe, lock: Lock, options: RebuildOptions) -> None:
    """Raise `UsageError` when the rebuild would run what whoever made the bundle chose."""
    found = [f"step `{step.name}` of its recipe" for step in _steps(recipe, recorded.config.target)]
    found += [f"the build of `{item.name}` from `{item.vcs.url}`" for item in lock.packages if item.vcs is not None]
    named = options.python_from is not None or options.python_archive is not None
    if not named and recorded.config.python_source != _HOST and not _is_known(lock):
        found.append(f"the interpreter from `{lock.python.url}`, which is not known here")
    if found and not options.run_steps:
        raise UsageError(
            f"Cannot rebuild `{recorded.place}`: this would run what the bundle names: {printable(', '.join(found))}",
            hint="add `--run-steps` if you trust whoever made this bundle, or rebuild in a machine you can throw away",
            runs=found,
        )


def _steps(recipe: Recipe, target: Target) -> list[PrebuildStep]:
    return [step for step in recipe.prebuild if not step.targets or str(target) in step.targets]


def _is_known(lock: Lock) -> bool:
    try:
        known = pin_for(lock.python.version, lock.python.build, lock.target.platform)
    except InvalidInputError:
        return False
    return known.sha256 == lock.python.sha256


def _python_from(
    recorded: PublishedBundle, options: RebuildOptions, environ: Mapping[str, str], report: Reporter
) -> Path | None:
    """Return where the interpreter comes from: a bundle made from a host's Python is rebuilt from this host's."""
    if options.python_from is not None or options.python_archive is not None or recorded.config.python_source != _HOST:
        return options.python_from
    host = locate_host_python(environ=environ)
    text = f"it was built from a host's CPython {recorded.config.python_version}: using {host.version} of this machine"
    report(Notice(code="host-python", message=text, level=Level.NOTE))
    return host.prefix


def _at_creation(environ: Mapping[str, str], created: str) -> Mapping[str, str]:
    """Return the environment with ``SOURCE_DATE_EPOCH`` set to when the bundle counts as created."""
    rest = {name: text for name, text in environ.items() if name != "SOURCE_DATE_EPOCH"}
    try:
        return {**rest, "SOURCE_DATE_EPOCH": str(int(datetime.fromisoformat(created).timestamp()))}
    except (ValueError, OverflowError):
        return rest


def _compare(
    source: Source,
    recorded: PublishedBundle,
    layout: Path,
    built: BuildResult,
    *,
    scratch: Path,
    cancel: Cancel,
) -> RebuildComparison:
    store = LayoutStore(layout)
    rebuilt = read_published(store, str(built.digest), place="the rebuilt bundle")
    if comparison := compare_documents(recorded, rebuilt):
        return comparison
    # What the layers hold, not what they say they hold: that is what a changed bundle would lie about.
    old = unpack_bundle(source, recorded.manifest, scratch / "recorded", cancel=cancel)
    return compare_rebuild(recorded, rebuilt, old, _list_files(store, rebuilt))


def _list_files(store: LayoutStore, bundle: PublishedBundle) -> dict[str, Entry]:
    """Return all files of a bundle that was just built here: its own lists can be believed."""
    own = read_members(store, bundle.manifest, (FILES_PATH, BUNDLE_PATH))
    listed = {
        path: FileEntry(path=path, mode=0o644, size=len(content), sha256=Digest.of(content).hex)
        for path, content in own.items()
    }
    return {**parse_entries(own[FILES_PATH]), **listed}
