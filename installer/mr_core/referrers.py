"""Attach papers (SBOM, provenance, licences; later signatures) to a bundle's manifest, find them, and read them.

A paper is an artifact manifest of the OCI image specification 1.1 with the bundle's manifest as its ``subject``, an
empty config and one blob. How a store lists the referrers of a subject is its own matter, see `mr_core.referrer_index`.
"""

from __future__ import annotations

from collections.abc import Mapping

from mr_core.digest import Digest
from mr_core.errors import InvalidInputError
from mr_core.events import Cancel, Reporter, discard
from mr_core.manifest import Descriptor, Manifest, parse_document
from mr_core.memory import BytesStream
from mr_core.referrer_index import EMPTY_CONFIG, MEDIA_EMPTY, make_artifact, ordered, parse_referrer
from mr_core.store import NO_ANNOTATIONS, Source, Store

MAX_PAPER_BYTES = 256 << 20


def attach(
    store: Store,
    subject: Descriptor,
    *,
    artifact_type: str,
    media_type: str,
    content: bytes,
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
    replace: bool = False,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Descriptor:
    """Store ``content`` as an artifact that refers to ``subject``, and return its entry in the list of referrers.

    Attaching equal content twice changes nothing.

    Args:
        store: Where the subject is.
        subject: A manifest or index; its media type, digest and size go into the artifact.
        artifact_type: What kind of paper it is, a media type.
        media_type: Of ``content``.
        content: The paper.
        annotations: Of the artifact manifest, and of its entry.
        replace: Whether it takes the place of the subject's other referrers of that type. A registry with the referrers
            API that refuses deletion keeps the old ones too.
        report: Gets the progress of the blobs.
        cancel: Stops before the next step.

    Raises:
        UnavailableError: when other writers of the same list keep getting in the way.
    """
    blob = Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content))
    raw = make_artifact(subject, artifact_type=artifact_type, content=blob, annotations=annotations)
    config = Descriptor(media_type=MEDIA_EMPTY, digest=Digest.of(EMPTY_CONFIG), size=len(EMPTY_CONFIG))
    for descriptor, piece in ((config, EMPTY_CONFIG), (blob, content)):
        if cancel is not None:
            cancel.check()
        with BytesStream(piece) as stream:
            store.put_blob(descriptor, stream, report=report, cancel=cancel)
    store.put_referrers(subject.digest, [raw], replace=replace)
    return parse_referrer(raw).listed


def referrers(source: Source, subject: Digest, *, artifact_type: str = "") -> tuple[Descriptor, ...]:
    """Return the referrers of ``subject``, of one type or of all, sorted by type and digest; none is no error.

    What the list says (types, annotations) has not been compared with the artifacts: a list is a claim.

    Raises:
        InvalidInputError: when the list cannot be read.
    """
    found = source.read_referrers(subject, artifact_type=artifact_type)
    if any(not entry.artifact_type for entry in found):  # skopeo 1.9 leaves types out of the lists it copies
        found = ordered([_completed(source, entry) for entry in found], f"{subject}")
    return tuple(entry for entry in found if artifact_type in {"", entry.artifact_type})


def read_referrer(source: Source, descriptor: Descriptor, limit: int = MAX_PAPER_BYTES) -> bytes:
    """Return the content of an artifact with one blob; size and digest have been verified.

    Raises:
        InvalidInputError: when it has another form, or is larger than ``limit`` bytes.
    """
    document = parse_document(source.read_document(descriptor), descriptor.media_type)
    if not isinstance(document, Manifest) or len(document.layers) != 1:
        raise InvalidInputError(f"Cannot read paper {descriptor.digest}: it is not an artifact with one blob")
    return source.read_blob(document.layers[0], limit=limit)


def _completed(source: Source, entry: Descriptor) -> Descriptor:
    """Return what a list should say about an artifact: its type and annotations."""
    return entry if entry.artifact_type else parse_referrer(source.read_document(entry)).listed
