"""List what a layout, an archive or a registry name holds: bundles, and the papers attached to them."""

from __future__ import annotations

from dataclasses import dataclass

from mr_bundler.papers.kinds import PAPER_KINDS, PREDICATE_ANNOTATION, PREDICATE_TYPE, PaperKind
from mr_core.archive import ArchiveSource
from mr_core.bundle_config import ANNOTATION_BYTES, ANNOTATION_TARGET
from mr_core.digest import Digest
from mr_core.errors import InvalidInputError, NotFoundError, UsageError
from mr_core.layout import LayoutStore
from mr_core.manifest import REF_NAME, Descriptor, Index, Manifest, parse_document
from mr_core.referrers import read_referrer, referrers
from mr_core.store import Source

_MOST_NESTING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedBundle:
    """One bundle: sizes in bytes, compressed and installed."""

    name: str
    target: str
    digest: str
    layers: int
    compressed_bytes: int
    installed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPaper:
    """A paper of a bundle.

    Attributes:
        kind: One of `PAPER_KINDS`, or the artifact type of what others attached: a signature, another tool's SBOM.
        digest: Of the artifact manifest.
        size: Of its content in bytes.
        bundle: Digest of the manifest it is about.
    """

    kind: str
    artifact_type: str
    digest: str
    size: int
    bundle: str


def list_bundles(source: Source, name: str) -> list[ListedBundle]:
    """Return the bundles behind ``name``; without a name, all bundles of a layout or archive.

    A bundle that several names lead to stands there once for each of them. Papers are no bundles.
    """
    if not name and isinstance(source, LayoutStore | ArchiveSource):
        tops = list(source.names())
    else:
        tops = [source.resolve(name)]
    found: list[ListedBundle] = []
    for top in tops:
        found += _walk(source, top.annotations.get(REF_NAME, name) or str(top.digest), top)
    return found


def list_papers(source: Source, bundle: ListedBundle) -> list[ListedPaper]:
    """Return the papers attached to a bundle, ours first.

    Raises:
        InvalidInputError: the list of referrers, or a paper's manifest, cannot be read.
    """
    subject = Digest.parse(bundle.digest)
    found = []
    for entry in referrers(source, subject):
        manifest = parse_document(source.read_document(entry), entry.media_type)
        if manifest.subject is None or manifest.subject.digest != subject:
            continue  # the list of a registry without the referrers API is written by clients: a claim
        size = sum(layer.size for layer in manifest.layers) if isinstance(manifest, Manifest) else entry.size
        found.append(
            ListedPaper(
                kind=_kind(entry, manifest.annotations),
                artifact_type=entry.artifact_type,
                digest=str(entry.digest),
                size=size,
                bundle=bundle.digest,
            )
        )
    order = list(PAPER_KINDS)
    return sorted(
        found,
        key=lambda paper: (order.index(paper.kind) if paper.kind in order else len(order), paper.kind, paper.digest),
    )


def read_paper(source: Source, bundle: ListedBundle, kind: PaperKind) -> bytes:
    """Return a paper's content, verified.

    Raises:
        NotFoundError: the bundle has none of this kind.
        InvalidInputError: it has several, or its list cannot be read.
    """
    papers = list_papers(source, bundle)
    fitting = [paper for paper in papers if paper.kind == kind]
    if not fitting:
        kinds = ", ".join(f"`{paper.kind}`" for paper in papers) or "none"
        raise NotFoundError(
            f"Cannot find the paper `{kind}` of `{bundle.name}` for `{bundle.target}`: it has {kinds}",
            hint="papers are attached by `mr-bundle build`, and copied unless `--no-papers` is given",
        )
    if len(fitting) > 1:
        raise InvalidInputError(
            f"Cannot choose the paper `{kind}` of `{bundle.name}`: {len(fitting)} are attached",
            hint="look at them one by one: `mr-bundle ls --papers`",
        )
    digest = Digest.parse(fitting[0].digest)
    entry = next(entry for entry in referrers(source, Digest.parse(bundle.digest)) if entry.digest == digest)
    return read_referrer(source, entry)


def with_target(bundles: list[ListedBundle], target: str, location: str) -> list[ListedBundle]:
    """Return the bundles for ``target``, all of them when it is empty; raise `NotFoundError` when none is for it."""
    found = [bundle for bundle in bundles if target in {"", bundle.target}]
    if target and not found:
        raise NotFoundError(
            f"Cannot find a bundle for `{target}` in `{location}`", hint=f"targets there: {_targets(bundles)}"
        )
    return found


def _targets(bundles: list[ListedBundle]) -> str:
    return ", ".join(sorted({f"`{bundle.target}`" for bundle in bundles})) or "none"


def choose_bundle(bundles: list[ListedBundle], target: str, location: str) -> ListedBundle:
    """Return the one bundle that is meant; ``target`` may be empty when there is only one.

    Raises:
        NotFoundError: there is none for this target.
        UsageError: several are left.
    """
    fitting = {bundle.digest: bundle for bundle in with_target(bundles, target, location)}
    if not fitting:
        raise NotFoundError(f"Cannot find a bundle in `{location}`: it holds none")
    if len(fitting) > 1:
        names = len({bundle.name for bundle in fitting.values()}) > 1
        raise UsageError(
            f"Cannot choose a bundle in `{location}`: {len(fitting)} fit",
            hint="name one: `oci:DIRECTORY:NAME`" if names else f"add `--target` with one of: {_targets(bundles)}",
        )
    return next(iter(fitting.values()))


def _kind(entry: Descriptor, annotations: dict[str, str]) -> str:
    for kind, artifact_type in PAPER_KINDS.items():
        if entry.artifact_type == artifact_type:
            predicate = annotations.get(PREDICATE_ANNOTATION, PREDICATE_TYPE)
            return kind if kind != "provenance" or predicate == PREDICATE_TYPE else predicate
    return entry.artifact_type or "(unknown)"


def _walk(source: Source, name: str, entry: Descriptor, depth: int = 0) -> list[ListedBundle]:
    document = parse_document(source.read_document(entry), entry.media_type)
    if document.subject is not None:
        return []
    match document:
        case Manifest():
            return [_describe(name, entry, document)]
        case Index(manifests=entries):
            if depth == _MOST_NESTING:
                raise InvalidInputError(f"Cannot list `{name}`: indexes are nested more than {_MOST_NESTING} deep")
            found = [_walk(source, name, inner, depth + 1) for inner in entries if _has_platform(inner)]
            return [bundle for bundles in found for bundle in bundles]


def _has_platform(entry: Descriptor) -> bool:
    """Whether an entry is for some host; other builders put their attestations beside the images, for none."""
    return entry.platform is not None and entry.platform.os != "unknown"


def _describe(name: str, entry: Descriptor, manifest: Manifest) -> ListedBundle:
    notes = {**manifest.annotations, **entry.annotations}
    size = notes.get(ANNOTATION_BYTES, "")
    return ListedBundle(
        name=name,
        target=notes.get(ANNOTATION_TARGET, str(entry.platform or "")),
        digest=str(entry.digest),
        layers=len(manifest.layers),
        compressed_bytes=sum(layer.size for layer in manifest.layers) + manifest.config.size,
        installed_bytes=int(size) if size.isdecimal() and len(size) < 20 else 0,
    )
