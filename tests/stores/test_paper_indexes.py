"""A paper may be an index: what it holds is copied with it, and never takes the place of what has the name.

Whoever may attach a paper decides what such an index holds, so nothing in it may change what a copy publishes.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mr_bundler.export.oci_archive import export_archive
from mr_core.archive import ArchiveSource
from mr_core.decode import dump_json
from mr_core.errors import InvalidInputError, NotFoundError
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_INDEX, MEDIA_MANIFEST, Descriptor
from mr_core.memory import BytesStream, MemoryStore
from mr_core.referrer_index import fallback_name
from mr_core.referrers import referrers
from mr_core.store import Store
from mr_core.transfer import transfer, transfer_by_digest
from support.small_bundle import CPU, METAL, NOTE, SIGNATURE, attach_text, small_bundle, walk, write_bundles
from support.small_image import SmallImage, describe, small_image

BUNDLES = [small_bundle(target) for target in (CPU, METAL)]
STRANGER = small_bundle(CPU, text="somebody else's")
NAME = "tiny-1.0"


def put(store: Store, image: SmallImage) -> Descriptor:
    """Write an image without a name."""
    for blob, content in image.blobs:
        store.put_blob(blob, BytesStream(content))
    return store.put_document(image.manifest, MEDIA_MANIFEST)


def index_of(subject: Descriptor | None, *entries: Descriptor) -> bytes:
    """An index that is a paper when it has a subject."""
    value = {
        "schemaVersion": 2,
        "mediaType": MEDIA_INDEX,
        "artifactType": NOTE,
        "manifests": [Descriptor(media_type=e.media_type, digest=e.digest, size=e.size).to_json() for e in entries],
    }
    if subject is not None:
        bare = Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size)
        value["subject"] = bare.to_json()
    return dump_json(value)


def attach_index(store: Store, subject: Descriptor, *entries: Descriptor) -> Descriptor:
    """Attach an index as a paper."""
    raw = index_of(subject, *entries)
    store.put_referrers(subject.digest, [raw])
    return describe(raw, MEDIA_INDEX)


@pytest.fixture
def source() -> MemoryStore:
    """Two bundles; both of them and their index have a paper that is an index, of a stranger and of a nested index."""
    source = MemoryStore()
    top = write_bundles(source, NAME, BUNDLES)
    stranger = put(source, STRANGER)
    deeper = put(source, small_image("deeper"))
    nested = source.put_document(index_of(None, deeper), MEDIA_INDEX)
    for subject in (*(bundle.manifest_descriptor for bundle in BUNDLES), top):
        attach_index(source, subject, nested, stranger)
    return source


def test_a_copy_publishes_what_had_the_name(source: MemoryStore, store: Store, tmp_path: Path) -> None:
    """Through every kind of store, there and back."""
    top = source.resolve(NAME)
    result = transfer(source, NAME, store, "v1")
    assert (result.digest, result.media_type, result.documents) == (top.digest, MEDIA_INDEX, 3)
    assert result.papers == 10  # a signed SBOM, a note and an index for each bundle; a note and an index for the index
    assert store.resolve("v1").digest == top.digest
    everything = walk(source, NAME)
    assert str(STRANGER.manifest_descriptor.digest) in everything
    assert walk(store, "v1") == everything
    back = LayoutStore(tmp_path / "back", create=True)
    assert transfer(store, "v1", back, NAME).digest == top.digest
    assert walk(back, NAME) == everything
    assert transfer(source, NAME, store, "v1").digest == top.digest  # again: the name has not moved


def test_so_does_a_copy_of_one_manifest(source: MemoryStore, store: Store) -> None:
    bundle = BUNDLES[0].manifest_descriptor
    result = transfer(source, str(bundle.digest), store, "one")
    assert (result.digest, result.target, result.documents, result.papers) == (bundle.digest, CPU, 1, 4)
    assert store.resolve("one").digest == bundle.digest


def test_so_do_chosen_targets(source: MemoryStore) -> None:
    memory, alone = MemoryStore(), MemoryStore()
    expected = write_bundles(alone, "one", BUNDLES[1:], papers=False)
    assert transfer(source, NAME, memory, "one", targets=[METAL]).digest == expected.digest
    assert memory.read_document(memory.resolve("one")) == alone.read_document(expected)


def test_so_does_a_push_by_digest(source: MemoryStore, store: Store) -> None:
    results = transfer_by_digest(source, NAME, store, targets=[CPU])
    assert [(result.digest, result.target, result.documents) for result in results] == [
        (BUNDLES[0].manifest_descriptor.digest, CPU, 1)
    ]


def test_so_does_an_export(source: MemoryStore, tmp_path: Path) -> None:
    done = export_archive(source, NAME, tmp_path / "x.tar")
    assert done.digest == source.resolve(NAME).digest
    archive = ArchiveSource(tmp_path / "x.tar")
    assert archive.resolve("").digest == done.digest
    assert walk(archive, "") == walk(source, NAME)
    again = io.BytesIO()
    export_archive(archive, "", again)
    assert again.getvalue() == (tmp_path / "x.tar").read_bytes()


def test_an_index_of_what_is_copied_anyway_changes_nothing(source: MemoryStore, store: Store) -> None:
    """A paper that lists bundles, its own subject, and another paper."""
    first, second = (bundle.manifest_descriptor for bundle in BUNDLES)
    note = attach_text(source, second, SIGNATURE, "one more")
    attach_index(source, second, second, first, note)
    top = source.resolve(NAME)
    assert transfer(source, NAME, store, "v1").digest == top.digest
    assert store.resolve("v1").digest == top.digest
    assert walk_once(store, "v1") == walk_once(source, NAME)


def test_a_paper_of_a_bundle_that_lists_the_index_above_it(source: MemoryStore, store: Store) -> None:
    """The index can be there by its digest before its papers are, but never by its name."""
    top = source.resolve(NAME)
    attach_index(source, BUNDLES[0].manifest_descriptor, top)
    assert transfer(source, NAME, store, "v1").digest == top.digest
    assert store.resolve("v1").digest == top.digest
    assert walk_once(store, "v1") == walk_once(source, NAME)


def walk_once(store: Store, name: str) -> set[str]:
    """Return the papers of a name and its bundles; `walk` would go round for ever where they point back."""
    found: set[str] = set()
    waiting = [store.resolve(name).digest, *(bundle.manifest_descriptor.digest for bundle in BUNDLES)]
    for digest in waiting:
        assert store.read_document(store.resolve(str(digest)))
        found |= {str(paper.digest) for paper in referrers(store, digest)}
    return found


def test_an_index_whose_manifest_is_gone_is_named_and_can_be_left_behind(source: MemoryStore) -> None:
    attach_index(source, BUNDLES[0].manifest_descriptor, describe(b"gone", MEDIA_MANIFEST))
    with pytest.raises(NotFoundError, match="Cannot copy the papers of") as caught:
        transfer(source, NAME, MemoryStore(), "v1")
    assert "--no-papers" in caught.value.hint
    transfer(source, NAME, MemoryStore(), "v1", papers=False)


def test_indexes_in_papers_are_not_nested_without_end(source: MemoryStore) -> None:
    inner = put(source, small_image("inner"))
    for _ in range(3):
        inner = source.put_document(index_of(None, inner), MEDIA_INDEX)
    attach_index(source, BUNDLES[0].manifest_descriptor, inner)
    with pytest.raises(InvalidInputError, match="nested too deeply") as caught:
        transfer(source, NAME, MemoryStore(), "v1")
    assert "--no-papers" in caught.value.hint


@pytest.mark.parametrize("empty", [None, ""])
def test_a_list_without_types_can_be_added_to(tmp_path: Path, empty: str | None) -> None:
    """Other programs write ``"artifactType": null``, and skopeo leaves it out."""
    layout = LayoutStore(tmp_path / "layout", create=True)
    write_bundles(layout, NAME, BUNDLES, papers=False)
    subject = BUNDLES[0].manifest_descriptor
    entries = [{**describe(b"%d" % number, MEDIA_MANIFEST).to_json(), "artifactType": empty} for number in range(2)]
    entries.append({**describe(b"typed", MEDIA_MANIFEST).to_json(), "artifactType": NOTE})
    raw = dump_json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": entries})
    layout.put_document(raw, MEDIA_INDEX, name=fallback_name(subject.digest))
    made = attach_text(layout, subject, SIGNATURE, "signed")
    found = {entry.digest: entry.artifact_type for entry in layout.read_referrers(subject.digest)}
    assert (len(found), found[made.digest]) == (4, SIGNATURE)
