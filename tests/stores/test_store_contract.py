"""One suite over every kind of store."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from mr_core.digest import Digest
from mr_core.errors import AccessDeniedError, CancelledError, IntegrityError, InvalidInputError, NotFoundError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Event, Outcome
from mr_core.manifest import MEDIA_INDEX, Descriptor
from mr_core.memory import BytesStream
from mr_core.referrers import attach, read_referrer, referrers
from mr_core.store import BlobStream, Store
from support.small_image import describe, small_image

CONTENT = bytes(range(256)) * 3000


class Untouchable(BytesStream):
    """A stream that must not be read."""

    def read(self, size: int, /) -> bytes:
        raise AssertionError("read although the blob was there")


def drain(stream: BlobStream) -> bytes:
    with stream:
        return b"".join(iter(lambda: stream.read(100_000), b""))


def test_a_blob_comes_back_as_it_went_in(store: Store) -> None:
    blob = describe(CONTENT)
    events: list[Event] = []
    assert not store.has_blob(blob)
    assert store.put_blob(blob, BytesStream(CONTENT), report=events.append) is Outcome.DONE
    assert store.has_blob(blob)
    assert drain(store.open_blob(blob)) == CONTENT
    assert store.read_blob(blob) == CONTENT
    assert [event.offset for event in events if isinstance(event, BlobProgress)][-1] == len(CONTENT)
    assert isinstance(events[-1], BlobFinished)


def test_a_blob_that_is_there_is_skipped_without_reading_the_source(store: Store) -> None:
    blob = describe(CONTENT)
    store.put_blob(blob, BytesStream(CONTENT))
    events: list[Event] = []
    assert store.put_blob(blob, Untouchable(b""), report=events.append) is Outcome.SKIPPED
    assert events == [BlobFinished(digest=str(blob.digest), total=blob.size, outcome=Outcome.SKIPPED)]


def test_an_empty_blob_is_a_blob(store: Store) -> None:
    blob = describe(b"")
    store.put_blob(blob, BytesStream(b""))
    assert store.has_blob(blob)
    assert store.read_blob(blob) == b""
    assert drain(store.open_blob(blob)) == b""


@pytest.mark.parametrize("offset", [1, 255, len(CONTENT) - 1, len(CONTENT)])
def test_a_blob_opens_in_the_middle_or_says_that_it_begins_at_zero(store: Store, offset: int) -> None:
    blob = describe(CONTENT)
    store.put_blob(blob, BytesStream(CONTENT))
    stream = store.open_blob(blob, offset)
    assert stream.offset in {0, offset}
    assert drain(stream) == CONTENT[stream.offset :]


@pytest.mark.parametrize(
    "given", [CONTENT[:-1], CONTENT + b"x", b"y" + CONTENT[1:], b""], ids=["short", "long", "flip", "none"]
)
def test_wrong_bytes_are_refused_and_nothing_is_stored(store: Store, given: bytes) -> None:
    blob = describe(CONTENT)
    with pytest.raises(IntegrityError):
        store.put_blob(blob, BytesStream(given))
    assert not store.has_blob(blob)


def test_a_cancelled_write_stores_nothing(store: Store) -> None:
    cancel = Cancel()

    class Slow(BytesStream):
        def read(self, size: int, /) -> bytes:
            cancel.set()
            return super().read(min(size, 1000))

    with pytest.raises(CancelledError):
        store.put_blob(describe(CONTENT), Slow(CONTENT), cancel=cancel)
    assert not store.has_blob(describe(CONTENT))


def test_documents_are_found_by_name_and_by_digest(store: Store) -> None:
    image = small_image()
    image.write(store, "1.0")
    found = store.resolve("1.0")
    assert (found.digest, found.size, found.media_type) == (Digest.of(image.index), len(image.index), MEDIA_INDEX)
    assert store.read_document(found) == image.index
    assert store.resolve(str(found.digest)).digest == found.digest
    inner = store.resolve(str(Digest.of(image.manifest)))
    assert store.read_document(inner) == image.manifest


@pytest.mark.parametrize("name", ["nothing", f"sha256:{'0' * 64}"])
def test_what_is_not_there_is_not_found(store: Store, name: str) -> None:
    small_image().write(store, "1.0")
    with pytest.raises(NotFoundError):
        store.resolve(name)


def test_a_missing_blob_or_document_is_not_found(store: Store) -> None:
    nowhere = describe(b"never stored")
    with pytest.raises(NotFoundError):
        store.read_blob(nowhere)
    with pytest.raises(NotFoundError):
        store.open_blob(nowhere)
    with pytest.raises(NotFoundError):
        store.read_document(dataclasses.replace(nowhere, media_type=MEDIA_INDEX))


def test_a_name_moves_only_on_request(store: Store) -> None:
    first, second = small_image("one"), small_image("two")
    first.write(store, "1.0")
    first.write(store, "1.0")  # the same bundle again is no move
    second.write(store, "2.0")
    with pytest.raises(AccessDeniedError, match="already names"):
        store.put_document(second.index, MEDIA_INDEX, name="1.0")
    assert store.resolve("1.0").digest == Digest.of(first.index)
    store.put_document(second.index, MEDIA_INDEX, name="1.0", overwrite=True)
    assert store.resolve("1.0").digest == Digest.of(second.index)


def test_a_descriptor_with_a_wrong_size_is_refused(store: Store) -> None:
    image = small_image()
    image.write(store, "1.0")
    for wrong in (-1, 1):
        descriptor = dataclasses.replace(image.index_descriptor, size=len(image.index) + wrong)
        with pytest.raises(IntegrityError):
            store.read_document(descriptor)
        blob, _ = image.blobs[0]
        with pytest.raises(IntegrityError):
            store.read_blob(dataclasses.replace(blob, size=blob.size + wrong))


def test_what_is_too_large_for_memory_is_refused_before_reading(store: Store) -> None:
    blob = describe(CONTENT)
    store.put_blob(blob, BytesStream(CONTENT))
    with pytest.raises(InvalidInputError, match="more than the 1000 allowed"):
        store.read_blob(blob, limit=1000)
    huge = Descriptor(media_type=MEDIA_INDEX, digest=blob.digest, size=(4 << 20) + 1)
    with pytest.raises(InvalidInputError, match="more than the 4194304 allowed"):
        store.read_document(huge)
    with pytest.raises(InvalidInputError, match="more than the 4194304 allowed"):
        store.put_document(b" " * ((4 << 20) + 1), MEDIA_INDEX, name="1.0")


def test_many_threads_share_one_store(store: Store) -> None:
    contents = [bytes([number]) * (50_000 + number) for number in range(24)]

    def round_trip(content: bytes) -> bool:
        blob = describe(content)
        store.put_blob(blob, BytesStream(content))
        return store.has_blob(blob) and drain(store.open_blob(blob)) == content

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, contents))


def test_blob_files_hold_the_bytes_of_local_stores(store: Store) -> None:
    blob = describe(CONTENT)
    store.put_blob(blob, BytesStream(CONTENT))
    place = store.blob_file(blob)
    if place is not None:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            assert file.read(place.size) == CONTENT
    assert (place is None) == (not store.describe().startswith("oci:"))


# --- referrers

SBOM, NOTE = "application/vnd.example.sbom", "application/vnd.example.note"


def attach_text(store: Store, subject: Descriptor, kind: str, text: str, *, replace: bool = False) -> Descriptor:
    return attach(
        store,
        subject,
        artifact_type=kind,
        media_type="text/plain",
        content=text.encode(),
        annotations={"text": text},
        replace=replace,
    )


def test_papers_are_found_by_their_subject_and_type_and_read_back(store: Store) -> None:
    image = small_image()
    subject = image.manifest_descriptor
    assert referrers(store, subject.digest) == ()
    image.write(store, "1.0")
    assert referrers(store, subject.digest) == ()
    bill = attach_text(store, subject, SBOM, "bill")
    note = attach_text(store, subject, NOTE, "note")
    other = attach_text(store, image.index_descriptor, NOTE, "of the index")
    assert referrers(store, subject.digest) == (note, bill)  # sorted by type
    assert referrers(store, subject.digest, artifact_type=SBOM) == (bill,)
    assert referrers(store, subject.digest, artifact_type="application/other") == ()
    assert referrers(store, image.index_descriptor.digest) == (other,)
    assert (bill.artifact_type, bill.annotations) == (SBOM, {"text": "bill"})
    assert read_referrer(store, bill) == b"bill"
    with pytest.raises(InvalidInputError, match="more than the 3 allowed"):
        read_referrer(store, bill, limit=3)
    with pytest.raises(InvalidInputError, match="not an artifact with one blob"):
        read_referrer(store, image.manifest_descriptor)
    assert store.resolve("1.0").digest == image.index_descriptor.digest


def test_attaching_equal_content_twice_changes_nothing(store: Store) -> None:
    image = small_image()
    image.write(store, "1.0")
    subject = image.manifest_descriptor
    first = attach_text(store, subject, SBOM, "bill")
    attach_text(store, subject, NOTE, "note")
    before = referrers(store, subject.digest)
    assert attach_text(store, subject, SBOM, "bill") == first
    assert attach_text(store, subject, SBOM, "bill", replace=True) == first
    assert referrers(store, subject.digest) == before
    assert len(before) == 2


def test_a_paper_takes_the_place_of_others_of_its_type_only_on_request(store: Store) -> None:
    image = small_image()
    image.write(store, "1.0")
    subject = image.manifest_descriptor
    note = attach_text(store, subject, NOTE, "note")
    bills = [attach_text(store, subject, SBOM, text) for text in ("one", "two")]
    assert {entry.digest for entry in referrers(store, subject.digest, artifact_type=SBOM)} == {b.digest for b in bills}
    last = attach_text(store, subject, SBOM, "three", replace=True)
    assert referrers(store, subject.digest) == (note, last)
    assert read_referrer(store, last) == b"three"


def test_papers_that_many_attach_at_once_are_all_kept(store: Store) -> None:
    image = small_image()
    image.write(store, "1.0")
    subject = image.manifest_descriptor
    texts = [f"paper {number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        made = set(pool.map(lambda text: attach_text(store, subject, NOTE, text).digest, texts))
    assert len(made) == 6
    assert {entry.digest for entry in referrers(store, subject.digest)} == made


def test_an_artifact_of_another_subject_is_refused(store: Store) -> None:
    image = small_image()
    image.write(store, "1.0")
    bill = attach_text(store, image.manifest_descriptor, SBOM, "bill")
    raw = store.read_document(bill)
    with pytest.raises(InvalidInputError, match="it is for"):
        store.put_referrers(image.index_descriptor.digest, [raw])
    with pytest.raises(InvalidInputError, match="names no subject"):
        store.put_referrers(image.manifest_descriptor.digest, [image.manifest])
    assert referrers(store, image.index_descriptor.digest) == ()


def test_a_repository_to_mount_from_does_no_harm_where_there_is_none(store: Store) -> None:
    blob = describe(CONTENT)
    outcome = store.put_blob(blob, BytesStream(CONTENT), mount_from=["no/such", "no/other"])
    assert outcome is Outcome.DONE
    assert store.read_blob(blob) == CONTENT
