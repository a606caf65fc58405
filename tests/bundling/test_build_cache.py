"""Earlier work is used again where it fits, never where it is damaged, and not at all when told so."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.cache import BuildCache, CachedLayer, default_cache
from mr_core.digest import Digest
from mr_core.events import Event, Notice, PhaseFinished, PhaseStarted
from mr_core.file_manifest import FileEntry
from mr_core.layout import LayoutStore
from mr_core.manifest import Manifest, parse_document
from mr_core.referrers import referrers
from support.building import SERVER, Builder
from support.wheels import Wheel


@pytest.fixture
def own_cache(builder: Builder, tmp_path: Path, shared_cache: Path) -> Builder:
    """A builder whose cache no other test fills, but for the interpreter."""
    builder.build()
    cache = tmp_path / "own-cache"
    shutil.copytree(shared_cache, cache)
    shutil.rmtree(cache / "builds")
    shutil.rmtree(builder.layout)
    return replace(builder, cache=cache)


def test_nothing_to_do(own_cache: Builder) -> None:
    first = own_cache.build()
    assert not first.skipped
    events: list[Event] = []
    again = own_cache.build(report=events.append)
    assert again.skipped
    assert (again.digest, again.index_digest, again.ref_name) == (first.digest, first.index_digest, first.ref_name)
    assert again.layers == tuple(replace(layer, cached=True) for layer in first.layers)
    assert again.steps == ()
    assert [event.code for event in events if isinstance(event, Notice)] == ["up-to-date"]
    assert "wheels" not in [event.phase for event in events if isinstance(event, PhaseStarted)]


def test_another_layout_is_filled_from_the_cache(own_cache: Builder, tmp_path: Path) -> None:
    first = own_cache.build()
    elsewhere = own_cache.build(layout=tmp_path / "elsewhere")
    assert not elsewhere.skipped
    assert elsewhere.digest == first.digest
    assert all(layer.cached for layer in elsewhere.layers)


def test_a_damaged_layout_is_not_up_to_date(own_cache: Builder) -> None:
    first = own_cache.build()
    (own_cache.layout / "blobs/sha256" / first.layers[0].digest.hex).unlink()
    again = own_cache.build()
    assert not again.skipped
    assert again.digest == first.digest
    assert (own_cache.layout / "blobs/sha256" / first.layers[0].digest.hex).stat().st_size == first.layers[0].size


def test_a_recipe_that_changes_only_its_words(own_cache: Builder) -> None:
    first = own_cache.build()
    changed = own_cache.build(remove=["no/such/file"])
    assert not changed.skipped
    assert changed.layers[:-1] == tuple(replace(layer, cached=True) for layer in first.layers[:-1])
    assert changed.digest != first.digest, "the bundle holds the recipe it was built from"


def test_one_changed_distribution_changes_one_layer(own_cache: Builder) -> None:
    others = [Wheel(name=f"part-{number}", files={f"part_{number}.py": f"x = {number}\n"}) for number in range(12)]
    own_cache.build(*others)
    changed = replace(others[3], version="2.0", files={"part_3.py": "x = 'new'\n"})
    result = own_cache.build(*others[:3], changed, *others[4:])
    packed = [layer for layer in result.layers if not layer.cached]
    assert len(result.layers) > 5
    assert [layer.name for layer in packed][-1] == "bundle"
    assert len(packed) == 2
    assert "part-3" in packed[0].distributions


@pytest.mark.parametrize("damage", ["flip", "cut", "record", "missing"])
def test_damaged_entries_are_built_again(own_cache: Builder, damage: str) -> None:
    first = own_cache.build()
    victim = next(layer for layer in first.layers if "tiny-server" in layer.distributions)
    blob = own_cache.cache / "blobs/sha256" / victim.digest.hex
    content = bytearray(blob.read_bytes())
    match damage:
        case "flip":
            content[len(content) // 2] ^= 1
            blob.write_bytes(content)
        case "cut":
            blob.write_bytes(content[:-1])
        case "missing":
            blob.unlink()
        case "record":
            for record in (own_cache.cache / "layers").iterdir():
                record.write_bytes(record.read_bytes().replace(b'"size":', b'"sIze":'))
    shutil.rmtree(own_cache.layout)
    again = own_cache.build()
    assert again.digest == first.digest
    rebuilt = [layer.name for layer in again.layers if not layer.cached]
    assert rebuilt == ([layer.name for layer in first.layers] if damage == "record" else [victim.name])
    with blob.open("rb") as file:
        assert Digest.of_file(file) == victim.digest


def test_no_cache_neither_reads_nor_writes(own_cache: Builder) -> None:
    def listing() -> set[str]:
        return {str(path) for kind in ("layers", "blobs", "builds") for path in (own_cache.cache / kind).rglob("*")}

    first = own_cache.build()
    before = listing()
    again = own_cache.build(use_cache=False)
    assert not again.skipped
    assert not any(layer.cached for layer in again.layers)
    assert again.digest == first.digest
    other = own_cache.build(replace(SERVER, version="9"), use_cache=False)
    assert other.digest != first.digest
    assert listing() == before


def test_records_survive_and_garbage_does_not(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    blob = tmp_path / "blob"
    blob.write_bytes(b"compressed")
    layer = CachedLayer(
        digest=Digest.of(b"compressed"),
        size=10,
        diff_id=Digest.of(b"tar"),
        bytes=99,
        bytecode=(FileEntry(path="a/__pycache__/b.pyc", mode=0o644, size=3, sha256="0" * 64),),
    )
    assert cache.load_layer("key") is None
    cache.save_layer("key", layer, blob)
    assert cache.load_layer("key") == layer
    assert not blob.exists()
    assert cache.load_layer("other") is None
    place = tmp_path / "layers/key"
    digest, _, content = place.read_bytes().partition(b"\n")
    for value in (b"", b"\n", digest + b"\n{", digest + b"\n" + content.replace(b"99", b"98"), content):
        place.write_bytes(value)
        assert cache.load_layer("key") is None
    cache.save_record("layers", "key", {key: item for key, item in json.loads(content).items() if key != "size"})
    assert cache.load_layer("key") is None


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache({"MR_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}) == Path("/a/b")
    assert default_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/mr-bundle")
    assert default_cache({"XDG_CACHE_HOME": "relative"}) == default_cache({}) == tmp_path / ".cache/mr-bundle"


def test_a_blob_of_the_right_size_with_wrong_bytes(own_cache: Builder) -> None:
    """In the layout: a bundle with such a blob is not up to date, and a build replaces it."""
    first = own_cache.build()
    layout = LayoutStore(own_cache.layout)
    paper = referrers(layout, first.digest)[0]
    document = parse_document(layout.read_document(paper), paper.media_type)
    assert isinstance(document, Manifest)
    for digest in (first.layers[0].digest, own_cache.open(first).manifest.config.digest, document.layers[0].digest):
        assert own_cache.build().skipped
        blob = own_cache.layout / "blobs/sha256" / digest.hex
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        again = own_cache.build()
        assert not again.skipped
        assert again.digest == first.digest
        assert Digest.of(blob.read_bytes()) == digest


@pytest.mark.parametrize("use_cache", [True, False])
def test_damage_that_keeps_size_and_time_is_repaired(own_cache: Builder, use_cache: bool) -> None:
    first = own_cache.build()
    config = own_cache.open(first).manifest.config.digest
    damaged = {own_cache.layout / "blobs/sha256" / digest.hex: digest for digest in (first.layers[-1].digest, config)}
    for blob in damaged:
        status = blob.stat()
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = own_cache.build(use_cache=use_cache)
    assert (again.skipped, again.digest) == (False, first.digest)
    for blob, digest in damaged.items():
        assert Digest.of(blob.read_bytes()) == digest


@pytest.mark.parametrize("form", ["../cache", "there/../cache", "link/../../other/cache"])
def test_a_cache_whose_path_goes_up(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Its interpreter has to run from there, and finds another prefix than a path with `..`."""
    here = tmp_path / "here"
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (here / "there").mkdir(parents=True)
    (here / "link").symlink_to(tmp_path / "elsewhere/deep")
    monkeypatch.chdir(here)
    assert not builder.build(cache=Path(form), work=Path("../work")).skipped
    meant = {"../cache": "cache", "there/../cache": "here/cache"}.get(form, "other/cache")
    assert (tmp_path / meant / "interpreters").is_dir()


def test_blobs_that_were_only_touched_are_read_and_found_good(own_cache: Builder) -> None:
    first = own_cache.build()
    for layer in first.layers:
        os.utime(own_cache.layout / "blobs/sha256" / layer.digest.hex)
    assert own_cache.build().skipped


def test_another_uv_installs_again(own_cache: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = own_cache.build()
    for module in ("build_inputs", "build_record"):
        monkeypatch.setattr(f"mr_bundler.{module}.uv_identity", lambda: "uv 99.0")
    events: list[Event] = []
    again = own_cache.build(report=events.append)
    (recalled,) = (event for event in events if isinstance(event, PhaseFinished) and event.phase == "recall")
    assert recalled.detail == {"known": 1, "new": 1}, "the interpreter is not uv's"
    assert (again.skipped, again.digest) == (False, first.digest)
