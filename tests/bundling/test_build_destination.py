"""A place that cannot become a layout is refused before anything is built."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mr_bundler.image.destination import check_destination
from mr_core.errors import BundleError, HostError, InvalidInputError
from mr_core.events import Event, PhaseStarted
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_MANIFEST
from support.building import Builder

NAME = "tiny-1.0"


def strangers(place: Path) -> None:
    place.mkdir()
    (place / "README.md").write_text("mine")


def file(place: Path) -> None:
    place.write_text("mine")


def dangling(place: Path) -> None:
    place.symlink_to(place.with_name("nowhere"))


def broken_version(place: Path) -> None:
    LayoutStore(place, create=True)
    (place / "oci-layout").write_text("{}")


def broken_index(place: Path) -> None:
    LayoutStore(place, create=True)
    (place / "index.json").write_text('{"manifests": 1}')


def no_index(place: Path) -> None:
    LayoutStore(place, create=True)
    (place / "index.json").unlink()


def single_image(place: Path) -> None:
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}
    manifest = {"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": empty, "layers": [empty]}
    LayoutStore(place, create=True).put_document(json.dumps(manifest).encode(), MEDIA_MANIFEST, name=NAME)


@pytest.mark.parametrize(
    "make",
    [strangers, file, dangling, broken_version, broken_index, no_index, single_image],
    ids=lambda make: make.__name__,
)
def test_what_is_no_place_for_a_layout(builder: Builder, make: Callable[[Path], None]) -> None:
    make(builder.layout)
    before = sorted(builder.layout.rglob("*"))
    events: list[Event] = []
    with pytest.raises(BundleError, match="layout") as caught:
        builder.build(report=events.append)
    assert not [event.phase for event in events if isinstance(event, PhaseStarted)], "nothing was done before"
    assert str(builder.layout) in caught.value.message
    assert sorted(builder.layout.rglob("*")) == before


def test_a_file_above_and_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    file(tmp_path / "file")
    for place in (tmp_path / "file/layout", Path("/dev/null/layout"), Path("/proc/x")):
        if place.parts[1] == "proc" and not Path("/proc/self").exists():
            continue
        with pytest.raises(HostError, match=r"Cannot (create|use) layout"):
            check_destination(place, NAME)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_only_be_read(tmp_path: Path) -> None:
    for create in (False, True):
        place = tmp_path / f"layout-{create}"
        place.mkdir()
        if create:
            LayoutStore(place, create=True)
        place.chmod(0o555)
        with pytest.raises(HostError, match="it may only be read"):
            check_destination(place, NAME)
        place.chmod(0o755)


def test_places_that_will_do_are_left_as_they_are(builder: Builder, tmp_path: Path) -> None:
    check_destination(tmp_path / "a/b/c", NAME)
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty", NAME)
    assert list((tmp_path / "empty").iterdir()) == []
    (tmp_path / "begun/blobs/sha256").mkdir(parents=True)
    check_destination(tmp_path / "begun", NAME)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "empty"]
    LayoutStore(tmp_path / "empty", create=True)
    check_destination(tmp_path / "empty", NAME)
    result = builder.build(layout=tmp_path / "begun")
    check_destination(tmp_path / "begun", result.ref_name)
    shutil.rmtree(tmp_path / "begun/blobs")
    with pytest.raises(BundleError):
        check_destination(tmp_path / "begun", result.ref_name)


def test_the_error_says_what_to_do(tmp_path: Path) -> None:
    strangers(tmp_path / "recipes")
    with pytest.raises(InvalidInputError, match=r"the directory holds `README\.md`") as caught:
        check_destination(tmp_path / "recipes", NAME)
    assert caught.value.hint == "name an empty or a new directory"
