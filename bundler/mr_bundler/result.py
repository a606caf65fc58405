"""What a build is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mr_core.digest import Digest
from mr_core.platform import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Where a build writes, and what it may use.

    Attributes:
        layout: OCI layout directory; made when it does not exist.
        cache: Cache directory, default `mr_bundler.cache.default_cache`.
        use_cache: Whether packed layers and whole builds of earlier runs are used and kept.
        python_from: Prefix of a host CPython 3.12 to make relocatable instead of the pinned archive.
        python_archive: The pinned archive as a local file.
        work: Directory for the tree while it is built, default below the cache.
        jobs: Processes and threads, default one for each core.
    """

    layout: Path
    cache: Path | None = None
    use_cache: bool = True
    python_from: Path | None = None
    python_archive: Path | None = None
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
class BuildResult:
    """A bundle in a layout.

    Attributes:
        digest: Of its manifest: its identity.
        index_digest: Of the index of all targets of this version.
        installed_bytes: Sum of the sizes of its files.
        file_count: Files and links.
        compressed_bytes: Sum of the sizes of its layers' blobs.
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
    steps: tuple[BuildStep, ...] = field(default=())
    skipped: bool = False
