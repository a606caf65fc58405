"""The image for Docker's model runner: what its extractor demands, and that it holds the bundle's tree."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mr_bundler.export.model_runner import model_runner_tag, write_model_runner
from mr_bundler.export.reroot import RerootedLayer, check_tree, reroot_layer
from mr_core.bundle_config import ANNOTATION_MADE_FROM, ANNOTATION_TARGET, LABEL, parse_bundle_config
from mr_core.compression import open_compressor
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.errors import AccessDeniedError, BundleError, CancelledError, IntegrityError, NotFoundError, UsageError
from mr_core.events import BlobFinished, Cancel, Event, Notice, Outcome, PhaseFinished, PhaseProgress
from mr_core.file_manifest import RECEIPT_PATH, UNLISTED
from mr_core.layout import LayoutStore
from mr_core.manifest import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER_GZIP,
    MEDIA_LAYER_ZSTD,
    MEDIA_MANIFEST,
    Descriptor,
    Index,
    make_index,
    parse_document,
)
from mr_core.memory import BytesStream, MemoryStore
from mr_core.platform import Platform
from mr_core.registry import RegistryStore
from mr_core.store import Source
from mr_core.transfer import transfer
from mr_installer import Installer
from support.bundles import BACKEND, GOOD, NEXT, TARGET, Bundles
from support.go_extractor import RefusedError, extract, install
from support.layout_bundle import NAME, entry, manifest
from support.need import need

HOST = Platform.host()
Tree = dict[str, tuple[int, str]]


def tree_of(place: Path) -> Tree:
    """Mode and digest, or link target, of everything below ``place``; directories end in a slash."""
    found = {}
    for folder, names, files in os.walk(place):
        for name in [*names, *files]:
            path = Path(folder, name)
            key = str(path.relative_to(place))
            if path.is_symlink():
                found[key] = (0, os.readlink(path))
            elif path.is_dir():
                found[f"{key}/"] = (path.stat().st_mode & 0o7777, "")
            else:
                found[key] = (path.stat().st_mode & 0o7777, hashlib.sha256(path.read_bytes()).hexdigest())
    return found


@pytest.fixture(scope="module")
def release(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The tree as the installer makes it, without what it writes itself."""
    root = tmp_path_factory.mktemp("release")
    Installer(root).install(BACKEND, source=bundles.source(GOOD), probe=False)
    (place,) = (root / BACKEND / "releases").iterdir()
    tree = tree_of(place)
    assert RECEIPT_PATH in tree
    return {
        path: facts for path, facts in tree.items() if path not in UNLISTED - {".mr/files.jsonl", ".mr/bundle.json"}
    }


@pytest.fixture(scope="module")
def image(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> LayoutStore:
    """The rewritten image in a layout."""
    layout = LayoutStore(tmp_path_factory.mktemp("image") / "layout", create=True)
    scratch = tmp_path_factory.mktemp("scratch")
    write_model_runner(LayoutStore(bundles.layout), NAME, layout, NAME, scratch=scratch)
    assert list(scratch.iterdir()) == []
    return layout


def test_the_host_daemon_installs_it(image: LayoutStore, release: Tree, tmp_path: Path) -> None:
    place = tmp_path / "model-runner" / BACKEND
    install(image.path, NAME, BACKEND, place, system=HOST.os, architecture=HOST.architecture)
    assert tree_of(place) == release
    code = "import sys, tiny_server; print(tiny_server.__version__, sys.prefix)"
    ran = subprocess.run([place / "bin/python3", "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == [GOOD, str(place)]


def test_umoci_unpacks_the_same_tree(image: LayoutStore, release: Tree, tmp_path: Path) -> None:
    command = ["copy", "-q", "--all", "--preserve-digests", f"oci:{image.path}:{NAME}", f"oci:{tmp_path}/copy:x"]
    subprocess.run([need("skopeo"), *command], check=True, capture_output=True)
    unpack = ["raw", "unpack", "--image", f"{tmp_path}/copy:x", str(tmp_path / "out")]
    subprocess.run([need("umoci"), *unpack], check=True, capture_output=True)
    assert os.listdir(tmp_path / "out") == [BACKEND]
    assert tree_of(tmp_path / "out" / BACKEND) == release


def test_what_its_documents_say(image: LayoutStore, bundles: Bundles) -> None:
    source = LayoutStore(bundles.layout)
    old, new = manifest(source), manifest(image)
    index = parse_document(image.read_document(image.resolve(NAME)))
    assert isinstance(index, Index)
    (only,) = index.manifests
    assert only.platform == HOST
    assert only.annotations[ANNOTATION_MADE_FROM] == f"1 {old.digest}"
    assert {layer.media_type for layer in new.layers} == {MEDIA_LAYER_GZIP}
    assert len(new.layers) == len(old.layers)
    before, after = (json.loads(store.read_blob(doc.config)) for store, doc in ((source, old), (image, new)))
    assert after["config"]["Labels"] == before["config"]["Labels"]
    assert parse_bundle_config(after["config"]["Labels"][LABEL].encode()).version == GOOD
    assert after["config"]["Entrypoint"] == [f"/{BACKEND}/bin/mr-serve"]
    assert after["history"] == before["history"]
    for layer, diff_id in zip(new.layers, after["rootfs"]["diff_ids"], strict=True):
        blob = (image.path / "blobs/sha256" / layer.digest.hex).read_bytes()
        # RFC 1952: no name and no comment, no time, and nothing about the machine
        assert blob[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
        content = gzip.decompress(blob)
        assert str(Digest.of(content)) == diff_id
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            names = [member.name for member in tar]
        assert names[0] == BACKEND
        assert names == sorted(names, key=str.encode)


def test_equal_distributions_keep_equal_layers(bundles: Bundles, tmp_path: Path) -> None:
    source, layout = LayoutStore(bundles.layout), LayoutStore(tmp_path / "layout", create=True)
    for version in (GOOD, NEXT):
        write_model_runner(source, f"{BACKEND}-{version}", layout, version, scratch=tmp_path / "scratch")
    old, new = ([layer.digest for layer in manifest(layout, version).layers] for version in (GOOD, NEXT))
    before, after = ([item.digest for item in manifest(source, f"{BACKEND}-{v}").layers] for v in (GOOD, NEXT))
    shared = [first == second for first, second in zip(before, after, strict=True)]
    assert any(shared)
    assert [first == second for first, second in zip(old, new, strict=True)] == shared


def test_it_goes_to_a_registry_under_its_tag(layout: LayoutStore, remote: RegistryStore, tmp_path: Path) -> None:
    transfer(layout, NAME, remote, "1.0")
    first = write_model_runner(remote, "1.0", remote, scratch=tmp_path / "scratch")
    assert remote.resolve(f"{BACKEND}-{GOOD}").digest == first.index.digest
    events: list[Event] = []
    again = write_model_runner(layout, NAME, remote, scratch=tmp_path / "scratch", report=events.append)
    assert again.index.digest == first.index.digest
    assert [event.code for event in events if isinstance(event, Notice)] == ["model-runner-present"]
    assert not any(isinstance(event, PhaseProgress) for event in events)
    with pytest.raises(AccessDeniedError, match="not made from this bundle"):
        write_model_runner(layout, NAME, remote, "1.0", scratch=tmp_path / "scratch")
    assert remote.resolve("1.0").digest == layout.resolve(NAME).digest
    events.clear()
    write_model_runner(layout, NAME, remote, overwrite=True, scratch=tmp_path / "scratch", report=events.append)
    blobs = [event for event in events if isinstance(event, BlobFinished)]
    assert blobs
    assert {event.outcome for event in blobs} == {Outcome.SKIPPED}  # the same bytes again
    assert remote.resolve(f"{BACKEND}-{GOOD}").digest == first.index.digest
    progress = [event for event in events if isinstance(event, PhaseProgress) and event.phase == "rewrite"]
    assert progress[-1].done == progress[-1].total == sum(layer.size for layer in manifest(layout).layers)
    phases = [event.phase for event in events if isinstance(event, PhaseFinished)]
    assert phases == ["rewrite", "inspect", "blobs", "publish"]


def test_one_entry_for_each_platform(layout: LayoutStore, tmp_path: Path) -> None:
    """Several targets are in one image; accelerators of one platform are not."""
    main, scratch = manifest(layout), tmp_path / "scratch"

    def bundle_for(target: str) -> Descriptor:
        image = json.loads(layout.read_blob(main.config))
        label = {**json.loads(image["config"]["Labels"][LABEL]), "target": target}
        image["config"]["Labels"][LABEL] = dump_json(label).decode()
        config = dump_json(image)
        blob = Descriptor(media_type=MEDIA_CONFIG, digest=Digest.of(config), size=len(config))
        layout.put_blob(blob, BytesStream(config))
        raw = dump_json({**json.loads(main.raw), "config": blob.to_json()})
        layout.put_document(raw, MEDIA_MANIFEST)
        annotations = {ANNOTATION_TARGET: target}
        return Descriptor(media_type=MEDIA_MANIFEST, digest=Digest.of(raw), size=len(raw), annotations=annotations)

    targets = ["darwin/arm64+metal", TARGET, f"{HOST}+cuda13"]
    index = make_index((*(bundle_for(target) for target in targets),), {})
    layout.put_document(index.raw, MEDIA_INDEX, name="several")
    with pytest.raises(UsageError, match="cannot tell accelerators apart") as caught:
        write_model_runner(layout, "several", MemoryStore(), "x", scratch=scratch)
    assert "--target" in caught.value.hint
    with pytest.raises(NotFoundError, match="beos"):
        write_model_runner(layout, "several", MemoryStore(), "x", scratch=scratch, targets=["beos/x86+cpu"])
    assert not scratch.exists()
    written = write_model_runner(layout, "several", layout, "both", scratch=scratch, targets=targets[:2])
    both = parse_document(layout.read_document(written.index))
    assert isinstance(both, Index)
    assert [str(item.platform) for item in both.manifests] == ["darwin/arm64", str(HOST)]
    layers = [json.loads(layout.read_document(item))["layers"] for item in both.manifests]
    assert layers[0] == layers[1]
    alone = write_model_runner(layout, str(main.digest), layout, "alone", scratch=scratch)
    assert isinstance(parse_document(layout.read_document(alone.index)), Index)
    place = tmp_path / "installed" / BACKEND
    install(layout.path, "both", BACKEND, place, system=HOST.os, architecture=HOST.architecture)
    assert (place / "bin/python3").exists()


def test_nothing_is_written_when_it_fails(layout: LayoutStore, tmp_path: Path) -> None:
    scratch, store = tmp_path / "scratch", LayoutStore(tmp_path / "out", create=True)
    cancel = Cancel()

    def stop(event: Event) -> None:
        if isinstance(event, PhaseProgress):
            cancel.set()

    with pytest.raises(CancelledError):
        write_model_runner(layout, NAME, store, "x", scratch=scratch, report=stop, cancel=cancel)
    layer = max(manifest(layout).layers, key=lambda item: item.size)
    blob = layout.path / "blobs/sha256" / layer.digest.hex
    content = bytearray(blob.read_bytes())
    content[-200] ^= 1
    blob.write_bytes(content)
    with pytest.raises(IntegrityError):
        write_model_runner(layout, NAME, store, "x", scratch=scratch)
    assert list(scratch.iterdir()) == []
    assert store.names() == ()
    assert list((tmp_path / "out/blobs/sha256").iterdir()) == []


def test_tags() -> None:
    config = parse_bundle_config(
        dump_json(
            {
                "format": 1,
                "backend": "vllm-metal",
                "version": "0.3.0+local!1",
                "target": TARGET,
                "contents": {"digest": f"sha256:{'0' * 64}", "size": 0, "count": 1, "directories": 0, "bytes": 1},
                "probe": {"imports": ["large"]},
                "launch": {"module": "large", "options": {"model": "--model"}},
            }
        )
    )
    assert model_runner_tag(config) == "vllm-metal-0.3.0-local-1"


# One layer at a time.


def layer_of(*members: tuple[str, str]) -> bytes:
    """A tar of directories (``/`` at the end), links (``-> target``) and files, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.mode = 0o644
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            elif content.startswith("-> "):
                member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, content[3:]
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return buffer.getvalue()


def reroot(tar: bytes, scratch: Path, root: str = "tiny") -> tuple[RerootedLayer, bytes]:
    """Rewrite a layer, and return it with its new tar."""
    compressor = open_compressor("zstd", size=len(tar))
    blob = compressor.compress(tar) + compressor.finish()
    descriptor = Descriptor(media_type=MEDIA_LAYER_ZSTD, digest=Digest.of(blob), size=len(blob))
    store = MemoryStore()
    store.put_blob(descriptor, BytesStream(blob))
    source: Source = store
    layer = reroot_layer(source, descriptor, Digest.of(tar), root=root, scratch=scratch, most_bytes=1 << 20)
    return layer, gzip.decompress(layer.blob.path.read_bytes())


LONG = "d" * 120
ODD = [
    ("backend/", ""),
    ("backend/empty", ""),
    (f"backend/{LONG}/", ""),
    (f"backend/{LONG}/{LONG}/", ""),
    (f"backend/{LONG}/{LONG}/{'f' * 200}", "long"),
    ("backend/link", f"-> {LONG}/{LONG}/{'f' * 200}"),
    ("backend/ünïcode ☃", "snow"),
    ("backend/ünïcode link", "-> ünïcode ☃"),
]


@pytest.mark.parametrize("root", ["t", "tiny", "a-much-longer-name-of-a-backend"])
def test_odd_names_survive(root: str, tmp_path: Path) -> None:
    _, tar = reroot(layer_of(*ODD), tmp_path, root)
    (tmp_path / "out").mkdir()
    extract(tar, tmp_path / "out")
    expected = {}
    for name, content in ODD[1:]:
        key = name.removeprefix("backend/")
        if key.endswith("/"):
            expected[key] = (0o755, "")
        elif content.startswith("-> "):
            expected[key] = (0, content[3:])
        else:
            expected[key] = (0o644, hashlib.sha256(content.encode()).hexdigest())
    assert tree_of(tmp_path / "out" / root) == expected
    subprocess.run([need("bsdtar"), "-xf", "-", "-C", tmp_path / "out"], input=tar, check=True)  # nothing strange in it
    assert tree_of(tmp_path / "out" / root) == expected


def test_the_same_layer_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (reroot(layer_of(*ODD), tmp_path)[0] for _ in range(2))
    assert (first.descriptor, first.diff_id) == (second.descriptor, second.diff_id)
    other = reroot(layer_of(*ODD), tmp_path, "other")[0]
    assert other.descriptor != first.descriptor


HARD_LINK = tarfile.TarInfo("backend/hard")
HARD_LINK.type, HARD_LINK.linkname = tarfile.LNKTYPE, "backend/a"
FIFO = tarfile.TarInfo("backend/fifo")
FIFO.type = tarfile.FIFOTYPE


def with_member(member: tarfile.TarInfo) -> bytes:
    return layer_of(("backend/", ""), ("backend/a", "x"))[: 3 * 512] + member.tobuf() + bytes(1024)


def with_global_header() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as tar:
        member = tarfile.TarInfo("backend")
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    return buffer.getvalue()


BROKEN: dict[str, Callable[[], bytes]] = {
    "a hard link": lambda: with_member(HARD_LINK),
    "a FIFO": lambda: with_member(FIFO),
    "a global header": with_global_header,
    "a whiteout": lambda: layer_of(("backend/", ""), ("backend/.wh.a", "")),
    "an absolute path": lambda: layer_of(("/backend/", "")),
    "an escaping path": lambda: layer_of(("backend/", ""), ("backend/../x", "")),
    "another top directory": lambda: layer_of(("elsewhere/", "")),
    "an absolute link": lambda: layer_of(("backend/", ""), ("backend/a", "-> /etc/passwd")),
    "an escaping link": lambda: layer_of(("backend/", ""), ("backend/a", "-> ../../etc/passwd")),
    "a link out of the top directory": lambda: layer_of(("backend/", ""), ("backend/a", "-> ../b")),
    "a link twice": lambda: layer_of(("backend/", ""), ("backend/a", "-> b"), ("backend/a", "-> b")),
    "a file twice": lambda: layer_of(("backend/", ""), ("backend/a", "1"), ("backend/a", "2")),
    "a child before its parent": lambda: layer_of(("backend/", ""), ("backend/d/a", "-> b"), ("backend/d/", "")),
    "no end": lambda: layer_of(("backend/", ""))[:512],
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_the_daemon_cannot_take_is_never_written(what: str, tmp_path: Path) -> None:
    """The extractor above refuses each of these (so its rules bite), and so does the rewriting."""
    tar = BROKEN[what]()
    (tmp_path / "out").mkdir()
    if what != "another top directory":  # the daemon notices that only after the last layer
        with pytest.raises((RefusedError, tarfile.TarError)):
            extract(tar, tmp_path / "out")
    with pytest.raises(BundleError):
        check_tree([reroot(tar, tmp_path)[0]])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("backend/a", "1"), ("backend/a", "1")),
        (("backend/a", "-> b"), ("backend/a", "-> b")),
        (("backend/a", "1"), ("backend/a", "-> b")),
        (("backend/a/", ""), ("backend/a", "-> b")),
    ],
)
def test_layers_must_not_meet(first: tuple[str, str], second: tuple[str, str], tmp_path: Path) -> None:
    tars = [layer_of(("backend/", ""), member) for member in (first, second)]
    layers = [reroot(tar, tmp_path)[0] for tar in tars]
    with pytest.raises(BundleError, match="two layers hold `a`"):
        check_tree(layers)
    (tmp_path / "out").mkdir()
    extract(tars[0], tmp_path / "out")
    with pytest.raises((RefusedError, FileExistsError)):
        extract(tars[1], tmp_path / "out")


def test_directories_may_repeat(tmp_path: Path) -> None:
    members = [(("backend/", ""), ("backend/d/", ""), (f"backend/d/{name}", name)) for name in ("a", "b")]
    check_tree([reroot(layer_of(*each), tmp_path)[0] for each in members])
    (tmp_path / "out").mkdir()
    for each in members:
        extract(layer_of(*each), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out/backend/d")) == ["a", "b"]


def test_what_the_daemon_refuses_on_top(image: LayoutStore, layout: LayoutStore, tmp_path: Path) -> None:
    """A bundle as it is (zstd layers), a lone manifest, an entry without platform, two entries for one platform."""

    def refused(name: str, match: str, where: LayoutStore = image) -> None:
        place = tmp_path / match / BACKEND
        with pytest.raises(RefusedError, match=match):
            install(where.path, name, BACKEND, place, system=HOST.os, architecture=HOST.architecture)

    good = entry(image)
    refused(NAME, "media type of a layer", layout)
    image.put_document(image.read_document(good), MEDIA_MANIFEST, name="lone")
    refused("lone", "no index on top")
    bare = Descriptor(media_type=good.media_type, digest=good.digest, size=good.size)
    image.put_document(make_index((good, bare), {}).raw, MEDIA_INDEX, name="bare")
    refused("bare", "without platform")
    image.put_document(make_index((good, good), {}).raw, MEDIA_INDEX, name="double")
    refused("double", "2 entries")
