"""Everything behind a name, read from a store before a byte is sent: documents, papers and the list of blobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mr_core.bundle_config import ANNOTATION_TARGET
from mr_core.bundle_index import select_targets
from mr_core.digest import Digest
from mr_core.errors import InvalidInputError, NotFoundError
from mr_core.events import Cancel
from mr_core.manifest import Descriptor, Document, Index, Manifest, parse_document
from mr_core.referrer_index import parse_referrer
from mr_core.store import Source

_MAX_NESTING = 2
_MAX_DOCUMENTS = 512
_PAPER_NESTING = 1  # papers of papers: a signature of an SBOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is copied.

    Attributes:
        top: What gets the name: the source's, or the index of chosen targets; never anything out of a paper.
        raw: Its bytes.
        below: The manifests and indexes that it holds, with children before parents.
        below_papers: What is held by papers that are indexes and is not ``below``, with children before parents.
        papers: For each subject that has some, the raw artifact manifests; papers of papers come later.
        blobs: Of all of them, each once.
    """

    top: Descriptor
    raw: bytes
    below: tuple[tuple[Descriptor, bytes], ...]
    below_papers: tuple[tuple[Descriptor, bytes], ...]
    papers: tuple[tuple[Digest, tuple[bytes, ...]], ...]
    blobs: tuple[Descriptor, ...]


def collect(source: Source, top: Descriptor, *, targets: Sequence[str] | None, papers: bool, cancel: Cancel) -> Content:
    """Read every document behind ``top``, verified, and list the blobs.

    Args:
        source: Where it is.
        top: A manifest or an index.
        targets: Only these entries of the index, of which a new one is made; `None` for all.
        papers: Whether to take the referrers of each document too.
        cancel: Stops before the next document.

    Raises:
        NotFoundError: when a document, or a bundle for one of ``targets``, is not there.
        InvalidInputError: when it is nested too deeply, or larger than any bundle.
    """
    return _Collection(source, top, papers=papers, cancel=cancel).run(targets)


class _Collection:
    def __init__(self, source: Source, top: Descriptor, *, papers: bool, cancel: Cancel) -> None:
        self._source = source
        self._top = top
        self._with_papers = papers
        self._cancel = cancel
        self._below: dict[Digest, tuple[Descriptor, bytes]] = {}
        self._below_papers: dict[Digest, tuple[Descriptor, bytes]] = {}
        self._papers: dict[Digest, tuple[bytes, ...]] = {}
        self._blobs: dict[Digest, Descriptor] = {}
        self._count = 0

    def run(self, targets: Sequence[str] | None) -> Content:
        document = self._read(self._top)
        if targets is not None:
            document = _narrow(document, targets, self._source.describe())
        top = self._top
        if document.digest != top.digest:
            top = dataclasses.replace(top, digest=document.digest, size=len(document.raw))
        self._descend(document, 0, self._below)
        if self._with_papers:
            for subject in (*self._below, top.digest):
                self._add_papers(subject, 0)
        return Content(
            top=top,
            raw=document.raw,
            below=tuple(self._below.values()),
            below_papers=tuple(self._below_papers.values()),
            papers=tuple(self._papers.items()),
            blobs=tuple(self._blobs.values()),
        )

    def _read(self, descriptor: Descriptor) -> Document:
        self._cancel.check()
        self._count += 1
        if self._count > _MAX_DOCUMENTS:
            raise InvalidInputError(f"Cannot copy {self._top.digest}: more than {_MAX_DOCUMENTS} manifests")
        return parse_document(self._source.read_document(descriptor), descriptor.media_type)

    def _descend(self, document: Document, depth: int, found: dict[Digest, tuple[Descriptor, bytes]]) -> None:
        """Add what a document holds to ``found``, but for what is below the top anyway."""
        match document:
            case Index(manifests=children):
                if depth >= _MAX_NESTING:
                    raise InvalidInputError(f"Cannot copy {self._top.digest}: its indexes are nested too deeply")
                for child in children:
                    if child.digest not in found and child.digest not in self._below:
                        held = self._read(child)
                        self._descend(held, depth + 1, found)
                        found[child.digest] = (child, held.raw)
            case Manifest(config=config, layers=layers):
                for blob in (config, *layers):
                    if self._blobs.setdefault(blob.digest, blob).size != blob.size:
                        raise InvalidInputError(f"Cannot copy {self._top.digest}: it gives {blob.digest} two sizes")

    def _add_papers(self, subject: Digest, depth: int) -> None:
        if subject in self._papers:
            return
        try:
            found = self._source.read_referrers(subject)
            documents = [self._read(entry) for entry in found]
            kept = [document for document in documents if parse_referrer(document.raw).subject == subject]
            for document in kept:
                self._descend(document, 0, self._below_papers)
        except (NotFoundError, InvalidInputError) as error:
            raise type(error)(
                f"Cannot copy the papers of {subject}: {error.message[:1].lower()}{error.message[1:]}",
                hint="`--no-papers` copies the bundle without them",
                **error.fields,
            ) from error
        if not kept:
            return
        self._papers[subject] = tuple(document.raw for document in kept)
        if depth < _PAPER_NESTING:
            for document in kept:
                self._add_papers(document.digest, depth + 1)


def _narrow(document: Document, targets: Sequence[str], where: str) -> Document:
    match document:
        case Index():
            return select_targets(document, targets, f"{where}@{document.digest}")
        case Manifest(annotations=annotations):
            target = annotations.get(ANNOTATION_TARGET, "")
            for wanted in targets:
                if wanted != target:
                    raise NotFoundError(
                        f"Cannot find a bundle for `{wanted}` in `{where}@{document.digest}`",
                        hint=f"it is one bundle, for `{target}`" if target else "it is no bundle of this project",
                        target=wanted,
                    )
            return document
