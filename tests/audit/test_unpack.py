"""Bundles are unpacked as other programs unpack them, from anywhere, and strictly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.unpack import read_members, unpack_bundle
from mr_core.digest import Digest
from mr_core.errors import CancelledError, HostError, IntegrityError, InvalidInputError
from mr_core.events import Cancel, Event, PhaseFinished
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, FileEntry, LinkEntry, parse_entries
from mr_core.layout import LayoutStore
from mr_core.manifest import Manifest, parse_document
from mr_core.memory import MemoryStore
from mr_core.transfer import transfer
from support.building import Built
from support.small_image import small_image


@pytest.fixture
def built(tiny: Built, tmp_path: Path) -> Built:
    """A bundle that a test may damage."""
    return replace(tiny, layout=Path(shutil.copytree(tiny.layout, tmp_path / "layout")))


@pytest.fixture
def elsewhere(tiny: Built) -> Iterator[MemoryStore]:
    """The same bundle in a store that is no disk."""
    store = MemoryStore()
    transfer(LayoutStore(tiny.layout), "tiny-1.0", store, "x")
    yield store
    store.close()


def tree_of(root: Path) -> dict[str, tuple[int, bytes] | str]:
    found: dict[str, tuple[int, bytes] | str] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            place = Path(directory, name)
            path = str(place.relative_to(root))
            found[path] = (
                os.readlink(place) if place.is_symlink() else (place.stat().st_mode & 0o777, place.read_bytes())
            )
    return found


def test_the_tree_is_that_of_another_program(built: Built, tmp_path: Path) -> None:
    events: list[Event] = []
    entries = unpack_bundle(LayoutStore(built.layout), built.manifest, tmp_path / "deep/ours", report=events.append)
    theirs = tree_of(built.unpack(tmp_path / "theirs"))
    assert tree_of(tmp_path / "deep/ours") == theirs
    assert entries.keys() == theirs.keys()
    listed = parse_entries((tmp_path / "deep/ours" / FILES_PATH).read_bytes())
    assert {path: entry for path, entry in entries.items() if path in listed} == listed
    assert any(isinstance(entry, LinkEntry) for entry in entries.values())
    assert any(isinstance(entry, FileEntry) and entry.mode == 0o755 for entry in entries.values())
    assert any(isinstance(event, PhaseFinished) and event.detail["files"] == len(entries) for event in events)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["ours"], "no blobs stay"


def test_from_elsewhere(built: Built, elsewhere: MemoryStore, tmp_path: Path) -> None:
    entries = unpack_bundle(elsewhere, built.manifest, tmp_path / "ours")
    assert entries == unpack_bundle(LayoutStore(built.layout), built.manifest, tmp_path / "again", jobs=1)
    assert tree_of(tmp_path / "ours") == tree_of(tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} >= {"ours", "again"}
    assert not list(tmp_path.glob("mr-blobs-*"))


def test_members_of_the_last_layer(built: Built, elsewhere: MemoryStore, tmp_path: Path) -> None:
    wanted = (FILES_PATH, BUNDLE_PATH, "bin/python3.12", "nothing")
    found = read_members(LayoutStore(built.layout), built.manifest, wanted)
    assert found.keys() == {FILES_PATH, BUNDLE_PATH}
    assert Digest.of(found[FILES_PATH]) == built.config.contents.digest
    assert json.loads(found[BUNDLE_PATH])["backend"] == "tiny"
    assert read_members(elsewhere, built.manifest, wanted) == found


@pytest.mark.parametrize("place", ["first", "last"])
def test_damaged_layers(built: Built, tmp_path: Path, place: str) -> None:
    layer = built.manifest.layers[0 if place == "first" else -1]
    blob = built.blob(layer.digest)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(IntegrityError):
        unpack_bundle(LayoutStore(built.layout), built.manifest, tmp_path / "ours")
    assert not list(tmp_path.glob("mr-blobs-*"))
    if place == "last":
        with pytest.raises(IntegrityError):
            read_members(LayoutStore(built.layout), built.manifest, (FILES_PATH,))


def test_other_images_and_destinations(built: Built, tmp_path: Path) -> None:
    image, store = small_image(), MemoryStore()
    image.write(store, "x")
    other = parse_document(image.manifest)
    assert isinstance(other, Manifest)
    with pytest.raises(InvalidInputError, match="no bundle of this project"):
        unpack_bundle(store, other, tmp_path / "ours")
    with pytest.raises(InvalidInputError, match="no bundle of this project"):
        read_members(store, other, (FILES_PATH,))
    assert not (tmp_path / "ours").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(HostError, match="there"):
        unpack_bundle(LayoutStore(built.layout), built.manifest, tmp_path / "there")


def test_a_wish_to_stop(built: Built, elsewhere: MemoryStore, tmp_path: Path) -> None:
    cancel = Cancel()
    cancel.set()
    for number, source in enumerate((LayoutStore(built.layout), elsewhere)):
        with pytest.raises(CancelledError):
            unpack_bundle(source, built.manifest, tmp_path / str(number), cancel=cancel)
    assert not list(tmp_path.glob("mr-blobs-*"))
