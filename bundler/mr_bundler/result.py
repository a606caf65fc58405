"""What a build is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mr_bundler.audit.judge import AuditReport
from mr_bundler.environment.slim import SlimSaving
from mr_bundler.image.image import PackedLayer
from mr_core.digest import Digest
from mr_core.platform import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Where a build writes, and what it may use.

    Attributes:
        layout: OCI layout directory; made when it does not exist.
        cache: Cache directory, default `mr_bundler.cache.default_cache`.
        use_cache: Whether parts, packed layers and whole builds of earlier runs are used and kept.
        python_from: Prefix of a host CPython 3.12 to make relocatable instead of the pinned archive.
        python_archive: The pinned archive as a local file.
        require_pinned: Whether to fail where the pinned archive cannot be had, instead of taking a host CPython.
        strict: Whether distributions without a known licence fail the audit.
        work: Directory for the tree while it is built, default below the cache.
        jobs: Processes and threads, default one for each core.
    """

    layout: Path
    cache: Path | None = None
    use_cache: bool = True
    python_from: Path | None = None
    python_archive: Path | None = None
    require_pinned: bool = False
    strict: bool = False
    work: Path | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLayer:
    """A layer: ``size`` of its blob and ``bytes`` of its tar; ``distributions`` is empty for our own files."""

    name: str
    distributions: tuple[str, ...]
    digest: Digest
    size: int
    bytes: int
    cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStep:
    """A step and its wall time."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedFinding:
    """A finding of the audit that the recipe allows, and why."""

    kind: str
    path: str
    detail: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """What the audit of a bundle came to.

    Attributes:
        files: How many files and links were looked at.
        binaries: How many of them a host of the target can load.
        glibc: The highest version of glibc that any of these asks for.
        macos: The highest version of macOS that any of these asks for.
        allowed: Findings that the recipe allows.
        listed: How many things are worth knowing, without being a failure; `mr-bundle audit` shows them.
    """

    files: int
    binaries: int
    glibc: str
    macos: str
    allowed: tuple[AllowedFinding, ...]
    listed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPaper:
    """A paper attached to the bundle: digest of its artifact, size of its content in bytes."""

    kind: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A bundle in a layout.

    Attributes:
        digest: Of its manifest: its identity.
        index_digest: Of the index of all targets of this version.
        installed_bytes: Sum of the sizes of its files.
        file_count: Files and links.
        compressed_bytes: Sum of the sizes of its layers' blobs.
        slim: What each slim rule saved, the most first; bytecode that was not compiled for it does not count.
        skipped: Whether nothing had to be done.
    """

    digest: Digest
    index_digest: Digest
    ref_name: str
    version: str
    target: Target
    installed_bytes: int
    file_count: int
    layers: tuple[BuiltLayer, ...]
    compressed_bytes: int
    audit: AuditSummary
    slim: tuple[SlimSaving, ...] = ()
    papers: tuple[BuiltPaper, ...] = ()
    steps: tuple[BuildStep, ...] = field(default=())
    skipped: bool = False


def built_layer(layer: PackedLayer) -> BuiltLayer:
    """Return what a caller wants to know of a packed layer."""
    return BuiltLayer(
        name=layer.plan.name,
        distributions=tuple(owner for owner in layer.plan.owners if not owner.startswith("(")),
        digest=layer.digest,
        size=layer.blob.size,
        bytes=layer.bytes,
        cached=layer.cached,
    )


def summarised(report: AuditReport) -> AuditSummary:
    """Return what a caller wants to know of an audit that was passed."""
    return AuditSummary(
        files=report.files,
        binaries=report.binaries,
        glibc=report.glibc,
        macos=report.macos,
        allowed=tuple(
            AllowedFinding(kind=finding.kind, path=finding.path, detail=finding.detail, reason=allowance.reason)
            for finding, allowance in report.allowed
        ),
        listed=len(report.listed),
    )
