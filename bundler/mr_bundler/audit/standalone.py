"""Audit what was not built here: a directory, or a bundle that was unpacked into one."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mr_bundler.audit.examine import Examination, examine_directory
from mr_bundler.audit.finding import Allowance, Finding
from mr_bundler.audit.judge import AuditedTree, AuditReport, judge, judge_libraries, pair, pairs_json, speaks_of
from mr_bundler.audit.records import Record, judge_manifest, judge_records, read_records
from mr_bundler.environment.leaks import plan_needles
from mr_bundler.environment.shim_files import RECIPE_PATH
from mr_bundler.papers.metadata import read_metadata
from mr_bundler.published import read_published
from mr_bundler.recipe.recipe import Recipe, parse_recipe
from mr_bundler.unpack import unpack_bundle
from mr_core.bundle_config import BundleConfig, HostRequirements, parse_bundle_config
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import InvalidInputError, UsageError
from mr_core.events import Cancel, Phase, Reporter, SafeReporter, discard
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, Entry, FileEntry, parse_entries
from mr_core.platform import ARCHITECTURES, OPERATING_SYSTEMS, Platform, Target
from mr_core.store import Source

_MOST_BYTES = 256 << 20
_CUDA_RUNTIME = "libcudart.so."
_ACCELERATORS = {"darwin": "metal", "linux": "cpu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """How an audit is done.

    Attributes:
        target: What the binaries should be for; default what a bundle says, else what most of them are for.
        requires: Floors that are not empty go before those a bundle says.
        allow: Allowances; default those of the recipe that a bundle was built from.
        backend: Whose recipe these allowances are from; empty when they are from none.
        licences: SPDX expressions of distributions that state none; default those of the same recipe.
        trust_recipe: Whether the recipe in a bundle is asked for either. What comes from elsewhere could allow itself
            anything.
        strict: Whether distributions and libraries without a known licence fail.
        in_place: Whether the directory is where the tree lives: naming its own place then makes it no bundle. Not so
            when it was only unpacked there.
        config: What the image of an unpacked bundle says; the tree must say the same.
        jobs: Threads, default one for each core.
    """

    target: Target | None = None
    requires: HostRequirements = field(default_factory=HostRequirements)
    allow: Sequence[Allowance] | None = None
    backend: str = ""
    licences: Mapping[str, str] | None = None
    trust_recipe: bool = True
    strict: bool = False
    in_place: bool = True
    config: BundleConfig | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The outcome of an audit.

    Attributes:
        where: What was audited, as it was named.
        name: Backend and version for a bundle, else empty.
        target: What it was judged for.
        guessed: Whether nothing but the binaries said so.
        requires: The floors it was judged against.
        bytes: Sum of the sizes of its files.
        own_allowances: Whether the allowances are those of the recipe in the bundle: what its builder accepted.
        claimed: Findings that this recipe would allow, if it were trusted, with its reasons.
    """

    where: str
    name: str
    target: Target
    guessed: bool
    requires: HostRequirements
    bytes: int
    own_allowances: bool
    claimed: tuple[tuple[Finding, Allowance], ...]
    report: AuditReport

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "where": self.where,
            "name": self.name,
            "target": str(self.target),
            "target_guessed": self.guessed,
            "requires": self.requires.to_json(),
            "bytes": self.bytes,
            "own_allowances": self.own_allowances,
            "claimed": pairs_json(self.claimed),
            **self.report.to_json(),
        }


def audit_bundle(
    source: Source,
    name: str,
    options: AuditOptions,
    *,
    where: str,
    scratch: Path,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Audit:
    """Unpack the bundle that ``name`` means in ``source`` below ``scratch``, and audit it.

    Args:
        source: Where it lies.
        name: A tag, a layout's name or a digest; of an index, the target of ``options`` or that of this host is meant.
        options: How; its ``target`` must be one of the bundle's.
        where: The location, for messages.
        scratch: A directory with room for the tree; what is left below it is the caller's to remove.
        report: Gets the phases ``unpack``, ``list``, ``read`` and ``judge``.
        cancel: Stops soon.

    Raises:
        NotFoundError, UsageError, InvalidInputError: there is no such bundle, or it is not clear which one is meant.
        IntegrityError: bytes differ from their digest, or the installer would refuse a tar entry.
        UnavailableError: the source stopped answering.
        HostError: this machine cannot store it.
        CancelledError: asked to stop.
    """
    bundle = read_published(source, name, place=where, target=options.target)
    _check_options(options, bundle.config, bundle.config.target, where)
    tree = scratch / "tree"
    unpack_bundle(source, bundle.manifest, tree, jobs=options.jobs, report=report, cancel=cancel)
    options = replace(options, in_place=False, config=bundle.config)
    return audit_directory(tree, options, where=where, report=report, cancel=cancel)


def audit_directory(
    root: Path,
    options: AuditOptions,
    *,
    where: str = "",
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Audit:
    """Audit a directory that holds a bundle's tree, or any other Python prefix.

    In a tree that was not built here no path of its build machine is known; what can be looked for is the place where
    it lies now, and what installers note about theirs.

    Raises:
        HostError: when something cannot be read.
        InvalidInputError: the bundle's own papers are malformed.
        UsageError: an option has no meaning for what lies there.
        CancelledError: asked to stop.
    """
    report, cancel = SafeReporter(report), cancel or Cancel()
    jobs = options.jobs or os.cpu_count() or 1
    needles = plan_needles({"directory itself": [root]}, home="/") if options.in_place else ()
    seen = examine_directory(root, needles, jobs=jobs, report=report, cancel=cancel)
    with Phase(report, "judge"):
        config = _read_config(root, seen)
        target = options.target or (config.target if config is not None else None)
        chosen = target or guess_target(seen)
        _check_options(options, config, chosen, where or str(root))
        requires = _requires(options.requires, config)
        records = read_records(root, seen.entries)
        recipe = _recorded_recipe(root, seen)
        trusted = recipe if options.trust_recipe else None
        stated = options.licences if options.licences is not None else trusted.licences if trusted else {}
        tree = AuditedTree(
            entries=seen.entries,
            facts=seen.facts,
            leaks=seen.leaks,
            licences={**_read_licences(root, seen, records), **stated},
            extra=[
                *seen.extra,
                *judge_records(seen.entries, records),
                *_judge_papers(root, seen, config, image=options.config),
                *(judge_libraries(_unowned(seen, records)) if config is not None else ()),
            ],
        )
        allow = options.allow if options.allow is not None else trusted.audit if trusted else ()
        judged = judge(tree, target=chosen, requires=requires, allow=allow, strict=options.strict)
        claims = [item for item in recipe.audit if speaks_of(item, chosen)] if recipe is not None else []
        distrusted = options.allow is None and not options.trust_recipe
    return Audit(
        where=where or str(root),
        name=f"{config.backend}-{config.version}" if config is not None else "",
        target=chosen,
        guessed=target is None,
        requires=requires,
        bytes=seen.bytes,
        own_allowances=options.allow is None and trusted is not None,
        claimed=tuple(pair(judged.findings, claims)) if distrusted else (),
        report=judged,
    )


def _check_options(options: AuditOptions, config: BundleConfig | None, target: Target, where: str) -> None:
    """Refuse the recipe of another backend, and floors that no binary for ``target`` has."""
    if config is not None and options.backend not in {"", config.backend}:
        raise UsageError(
            f"Cannot audit `{where}` with the recipe of `{options.backend}`: it is a bundle of `{config.backend}`",
            hint=f"name a recipe of `{config.backend}` with `--recipe`",
        )
    system = target.platform.os
    for name, floor, meant in (("glibc", options.requires.glibc, "linux"), ("macos", options.requires.macos, "darwin")):
        if floor and system != meant:
            raise UsageError(
                f"Cannot audit `{where}` with `--{name} {floor}`: it is for {target}", hint=f"leave `--{name}` away"
            )


def _unowned(seen: Examination, records: Sequence[Record]) -> list[Entry]:
    """Return what no distribution of a bundle says is its own: the interpreter, and the bundle's few own files."""
    owned = {path for record in records for path in record.files or ()}
    return [entry for path, entry in seen.entries.items() if path not in owned]


def guess_target(seen: Examination) -> Target:
    """Return what most binaries are for; this host when there are none."""
    votes: Counter[tuple[str, str]] = Counter()
    for facts in seen.facts.values():
        for found in facts.binary.slices if facts.binary is not None else ():
            if found.kind != "object" and found.system in OPERATING_SYSTEMS and found.architecture in ARCHITECTURES:
                votes[found.system, found.architecture] += 1
    platform = Platform(*votes.most_common(1)[0][0]) if votes else Platform.host()
    accelerator = _ACCELERATORS.get(platform.os, "cpu")
    for path in seen.entries:
        name = path.rpartition("/")[2]
        if name.startswith(_CUDA_RUNTIME) and name.removeprefix(_CUDA_RUNTIME).isdigit():
            accelerator = f"cuda{name.removeprefix(_CUDA_RUNTIME)}"
    return Target(platform, accelerator)


def _read(root: Path, path: str) -> bytes:
    with host_errors("read", root / path), (root / path).open("rb") as file:
        return file.read(_MOST_BYTES)


def _read_config(root: Path, seen: Examination) -> BundleConfig | None:
    if not isinstance(seen.entries.get(BUNDLE_PATH), FileEntry):
        return None
    return parse_bundle_config(_read(root, BUNDLE_PATH), f"`{BUNDLE_PATH}`")


def _recorded_recipe(root: Path, seen: Examination) -> Recipe | None:
    if not isinstance(seen.entries.get(RECIPE_PATH), FileEntry):
        return None
    return parse_recipe(_read(root, RECIPE_PATH), root / ".mr", f"`{RECIPE_PATH}`")


def _requires(given: HostRequirements, config: BundleConfig | None) -> HostRequirements:
    said = config.requires if config is not None else HostRequirements()
    return HostRequirements(glibc=given.glibc or said.glibc, macos=given.macos or said.macos)


def _judge_papers(
    root: Path, seen: Examination, config: BundleConfig | None, *, image: BundleConfig | None
) -> Iterator[Finding]:
    """Yield findings where image, bundle config, file manifest and tree contradict each other."""
    if image is not None and config != image:
        yield Finding(kind="record-mismatch", path=BUNDLE_PATH, detail="the image's label")
    listing = seen.entries.get(FILES_PATH)
    if not isinstance(listing, FileEntry):
        if config is not None:
            yield Finding(kind="missing-record-file", path=FILES_PATH, detail=BUNDLE_PATH)
        return
    yield from judge_manifest(seen.entries, parse_entries(_read(root, FILES_PATH)))
    if config is not None and config.contents.digest != Digest("sha256", listing.sha256):
        yield Finding(kind="record-mismatch", path=FILES_PATH, detail=BUNDLE_PATH)


def _read_licences(root: Path, seen: Examination, records: Sequence[Record]) -> Mapping[str, str]:
    """Return the licence of every distribution, empty where it is unknown or cannot be read."""
    licences = dict.fromkeys((record.name for record in records), "")
    for record in records:
        if isinstance(seen.entries.get(f"{record.place}/METADATA"), FileEntry):
            with contextlib.suppress(InvalidInputError):
                licences[record.name] = read_metadata(root / record.place).licence
    return licences
