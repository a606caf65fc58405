"""Bundles in real container engines: Docker's daemon, which is too old for zstd layers, and podman's service."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.export.engine import load_bundle
from mr_bundler.export.model_runner import write_model_runner
from mr_core.bundle_config import ANNOTATION_MADE_FROM, ANNOTATION_TARGET, LABEL, parse_bundle_config
from mr_core.compression import open_compressor
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.errors import (
    CancelledError,
    HostError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from mr_core.events import Cancel, Event, Outcome, PhaseFinished, PhaseProgress
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, FileEntry, LinkEntry, parse_entries
from mr_core.layout import LayoutStore
from mr_core.manifest import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER_ZSTD,
    MEDIA_MANIFEST,
    Descriptor,
    Index,
    make_index,
    parse_document,
)
from mr_core.memory import BytesStream, MemoryStore
from mr_core.platform import Platform, Target
from mr_core.registry import RegistryStore
from mr_core.transfer import transfer
from support.bundles import BACKEND, GOOD, NEXT, TARGET, Bundles
from support.engine import RunningEngine, docker_engine, podman_engine
from support.layout_bundle import NAME, entry, manifest
from support.need import need

docker = pytest.importorskip("docker")


@pytest.fixture(scope="module")
def dockerd() -> Iterator[RunningEngine]:
    with docker_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def podman() -> Iterator[RunningEngine]:
    with podman_engine() as engine:
        yield engine


@pytest.fixture(params=["dockerd", "podman"])
def engine(request: pytest.FixtureRequest) -> RunningEngine:
    """Each engine."""
    running: RunningEngine = request.getfixturevalue(request.param)
    return running


def forget(engine: RunningEngine) -> None:
    """Remove every image."""
    client = connect(engine)
    for image in client.images():
        client.remove_image(image["Id"], force=True)
    client.close()


def connect(engine: RunningEngine) -> Any:
    return docker.APIClient(base_url=engine.host, version="auto")


def tree_in_engine(engine: RunningEngine, image: str, place: str) -> dict[str, tuple[int, str]]:
    """Read a directory of an image back, from a container that never runs: mode and digest, or link target, by path."""
    client = connect(engine)
    container = client.create_container(image, command=["never"])["Id"]
    chunks, _ = client.get_archive(container, place)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if member.issym():
                found[path] = (0, member.linkname)
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                found[path] = (member.mode & 0o7777, hashlib.sha256(content.read()).hexdigest())
    client.remove_container(container)
    client.close()
    return found


def tree_of_bundle(found: dict[str, tuple[int, str]], listing: bytes) -> dict[str, tuple[int, str]]:
    """What the file manifest says about the paths it lists."""
    expected = {}
    for path, listed in parse_entries(listing).items():
        match listed:
            case FileEntry():
                expected[path] = (listed.mode, listed.sha256)
            case LinkEntry():
                expected[path] = (0, listed.link)
    assert found.keys() - expected.keys() == {FILES_PATH, BUNDLE_PATH}
    return expected


def read_member(layout: LayoutStore, path: str) -> bytes:
    """Return a file of the bundle's own layer, unpacked by another program."""
    blob = layout.path / "blobs/sha256" / manifest(layout).layers[-1].digest.hex
    unpacked = subprocess.run([need("zstd"), "-dcq", str(blob)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        content = tar.extractfile(f"backend/{path}")
        assert content is not None
        return content.read()


def test_it_is_in_the_engine_byte_for_byte(engine: RunningEngine, layout: LayoutStore) -> None:
    forget(engine)
    events: list[Event] = []
    done = load_bundle(layout, NAME, host=engine.host, report=events.append)
    main = manifest(layout)
    config = json.loads(layout.read_blob(main.config))
    assert done.image == str(main.config.digest)
    assert (done.tag, str(done.target), done.skipped) == (f"{BACKEND}:{GOOD}", TARGET, False)
    client = connect(engine)
    facts = client.inspect_image(done.tag)
    client.close()
    assert facts["Id"] == str(main.config.digest)
    assert facts["Config"]["Labels"] == config["config"]["Labels"]
    assert facts["Config"]["Entrypoint"] == config["config"]["Entrypoint"]
    assert facts["RootFS"]["Layers"] == config["rootfs"]["diff_ids"]
    found = tree_in_engine(engine, done.tag, "/backend")
    listing = read_member(layout, FILES_PATH)
    assert Digest.of(listing) == parse_bundle_config(facts["Config"]["Labels"][LABEL].encode()).contents.digest
    expected = tree_of_bundle(found, listing)
    assert {path: found[path] for path in expected} == expected
    progress = [event for event in events if isinstance(event, PhaseProgress)]
    assert progress[-1].done == progress[-1].total == done.bytes
    assert [event.phase for event in events if isinstance(event, PhaseFinished)] == ["inspect", "load"]


def test_what_the_engine_has_is_only_tagged(dockerd: RunningEngine, layout: LayoutStore) -> None:
    first = load_bundle(layout, NAME, host=dockerd.host)
    events: list[Event] = []
    again = load_bundle(layout, NAME, host=dockerd.host, tag="localhost:5000/some/name:x", report=events.append)
    assert (again.image, again.skipped, again.bytes) == (first.image, True, 0)
    assert events[-1] == PhaseFinished(phase="load", seconds=events[-1].seconds, outcome=Outcome.SKIPPED)  # type: ignore[union-attr]
    plain = load_bundle(layout, NAME, host=dockerd.host, tag="name-only")
    assert plain.tag == f"name-only:{GOOD}"
    client = connect(dockerd)
    for tag in ("localhost:5000/some/name:x", f"name-only:{GOOD}"):
        assert client.inspect_image(tag)["Id"] == first.image
    client.close()


def test_a_tag_moves_to_the_next_version(dockerd: RunningEngine, bundles: Bundles) -> None:
    source = LayoutStore(bundles.layout)
    first = load_bundle(source, NAME, host=dockerd.host, tag="moving:tag")
    second = load_bundle(source, f"{BACKEND}-{NEXT}", host=dockerd.host, tag="moving:tag")
    client = connect(dockerd)
    assert client.inspect_image("moving:tag")["Id"] == second.image != first.image
    client.close()


def test_from_a_registry_and_with_layers_that_state_no_size(
    dockerd: RunningEngine, layout: LayoutStore, remote: RegistryStore, tmp_path: Path
) -> None:
    transfer(layout, NAME, remote, "v1")
    rewritten = write_model_runner(remote, "v1", remote, "runner", scratch=tmp_path / "scratch")
    with pytest.raises(InvalidInputError, match="not the bundle"):
        load_bundle(remote, "runner", host=dockerd.host)
    index = parse_document(remote.read_document(rewritten.index))
    assert isinstance(index, Index)
    value = json.loads(remote.read_document(index.manifests[0]))
    del value["annotations"][ANNOTATION_MADE_FROM]  # any other bundle with gzip layers, which state no size
    remote.put_document(dump_json(value), MEDIA_MANIFEST, name="gzip")
    done = load_bundle(remote, "gzip", host=dockerd.host, tag="gzip:test")
    found = tree_in_engine(dockerd, "gzip:test", f"/{BACKEND}")
    expected = tree_of_bundle(found, read_member(layout, FILES_PATH))
    assert {path: found[path] for path in expected} == expected
    assert not done.skipped


def test_nothing_is_loaded_when_the_load_is_cut(engine: RunningEngine, layout: LayoutStore) -> None:
    forget(engine)
    cancel = Cancel()

    def stop(event: Event) -> None:
        if isinstance(event, PhaseProgress) and event.done > event.total // 4:
            cancel.set()

    with pytest.raises(CancelledError):
        load_bundle(layout, NAME, host=engine.host, report=stop, cancel=cancel)
    layer = max(manifest(layout).layers, key=lambda item: item.size)
    blob = layout.path / "blobs/sha256" / layer.digest.hex
    content = bytearray(blob.read_bytes())
    content[-100] ^= 1
    blob.write_bytes(content)
    with pytest.raises(IntegrityError):
        load_bundle(layout, NAME, host=engine.host)
    client = connect(engine)
    assert client.images(all=True) == []
    client.close()


def test_a_layer_that_lies_about_its_size(dockerd: RunningEngine, tmp_path: Path) -> None:
    """The header of a frame is no promise: what comes out is counted."""
    tar = layer_tar(b"x" * 100_000)
    honest = zstd_frame(tar)
    lying = bytearray(honest)
    # RFC 8878, 3.1.1.1: magic number, descriptor, then the content size in as many bytes as the descriptor says
    assert honest[4] >> 6 == 2
    assert int.from_bytes(honest[5:9], "little") == len(tar)
    lying[5:9] = (len(tar) + 512).to_bytes(4, "little")
    layout = image_of(tmp_path / "layout", bytes(lying), Digest.of(tar))
    with pytest.raises(IntegrityError):
        load_bundle(layout, "x", host=dockerd.host)


def test_the_target_fits_the_engine(dockerd: RunningEngine, layout: LayoutStore) -> None:
    here = entry(layout)

    def index(*targets: str) -> MemoryStore:
        store = MemoryStore()
        entries = [
            Descriptor(
                media_type=MEDIA_MANIFEST,
                digest=here.digest,
                size=here.size,
                annotations={**here.annotations, ANNOTATION_TARGET: target},
            )
            for target in targets
        ]
        store.put_document(make_index(tuple(entries), {}).raw, MEDIA_INDEX, name="v1")
        return store

    other = "linux/arm64" if str(Platform.host()) == "linux/amd64" else "linux/amd64"
    with pytest.raises(UnsupportedError, match=f"{other}.cpu") as caught:
        load_bundle(index("darwin/arm64+metal", f"{other}+cpu"), "v1", host=dockerd.host)
    assert "--target" in caught.value.hint
    with pytest.raises(UsageError, match="cuda13") as ambiguous:
        load_bundle(index(TARGET, f"{Platform.host()}+cuda13"), "v1", host=dockerd.host)
    assert "--target" in ambiguous.value.hint
    wanted = Target.parse(TARGET)
    assert load_bundle(layout, NAME, target=wanted, host=dockerd.host).target == wanted


def test_an_image_for_another_system_never_reaches_the_engine(dockerd: RunningEngine, layout: LayoutStore) -> None:
    """Docker 20.10 does not refuse one: it closes the connection after a panic."""
    main = manifest(layout)
    image = json.loads(layout.read_blob(main.config))
    label = {**json.loads(image["config"]["Labels"][LABEL]), "target": "darwin/arm64+metal"}
    image |= {"os": "darwin", "config": {"Labels": {LABEL: dump_json(label).decode()}}}
    config = dump_json(image)
    blob = Descriptor(media_type=MEDIA_CONFIG, digest=Digest.of(config), size=len(config))
    layout.put_blob(blob, BytesStream(config))
    layout.put_document(dump_json({**json.loads(main.raw), "config": blob.to_json()}), MEDIA_MANIFEST, name="darwin")
    with pytest.raises(UnsupportedError, match="images for linux only"):
        load_bundle(layout, "darwin", host=dockerd.host)


def test_the_engine_says_why_it_refuses(engine: RunningEngine, tmp_path: Path) -> None:
    content = b"no tar at all" * 1000
    layout = image_of(tmp_path / "layout", zstd_frame(content), Digest.of(content))
    with pytest.raises(HostError, match="tar"):
        load_bundle(layout, "x", host=engine.host)


# The library drops the socket that it could not connect, and leaves it to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_engine_and_no_library(layout: LayoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"unix://{tmp_path}/none.sock"
    with pytest.raises(UnavailableError, match="no such file or directory") as caught:
        load_bundle(layout, NAME, host=nowhere)
    assert nowhere in caught.value.message
    assert "--host" in caught.value.hint
    (tmp_path / "file.sock").touch()
    with pytest.raises(UnavailableError, match="connection refused"):
        load_bundle(layout, NAME, host=f"unix://{tmp_path}/file.sock")
    with pytest.raises(UnavailableError, match="gopher"):
        load_bundle(layout, NAME, host="gopher://x")
    with pytest.raises(InvalidInputError, match="UPPER"):
        load_bundle(layout, NAME, host=nowhere, tag="UPPER:x")
    for target in (None, Target.parse(TARGET)):
        with pytest.raises(NotFoundError, match="nothing is called `absent`"):
            load_bundle(layout, "absent", target=target, host=nowhere)
    with pytest.raises(NotFoundError, match="darwin"):
        load_bundle(layout, NAME, target=Target.parse("darwin/arm64+metal"), host=nowhere)
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(UnsupportedError, match="docker library is not installed") as missing:
        load_bundle(layout, NAME, host=nowhere)
    assert "mr-backends[build]" in missing.value.hint
    del caught
    gc.collect()


def test_the_command(dockerd: RunningEngine, layout: LayoutStore) -> None:
    program = str(Path(sys.executable).with_name("mr-bundle"))
    command = [program, "load", f"oci:{layout.path}:{NAME}", "--tag", "by-command:1"]
    run = subprocess.run([*command, "--host", dockerd.host, "--json"], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout.splitlines()[-1])
    assert outcome["event"] == "result"
    assert outcome["image"] == str(manifest(layout).config.digest)
    assert outcome["target"] == TARGET
    environment = {**os.environ, "DOCKER_HOST": dockerd.host}
    again = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert "was there already" in again.stdout
    environment["DOCKER_HOST"] = "unix:///nowhere.sock"
    down = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert down.returncode == 7
    assert "unix:///nowhere.sock" in down.stderr
    assert "hint: " in down.stderr


def test_memory_does_not_grow_with_a_layer(dockerd: RunningEngine, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    size = 150 << 20
    tar = layer_tar(bytes(size))
    layout = image_of(tmp_path / "layout", zstd_frame(tar), Digest.of(tar))
    code = """
        import sys
        from pathlib import Path
        from mr_bundler.export.engine import load_bundle
        from mr_core.layout import LayoutStore

        done = load_bundle(LayoutStore(Path(sys.argv[1])), "x", host=sys.argv[2])
        print(done.bytes, Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(layout.path), dockerd.host]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sent, peak = map(int, done.stdout.split())
    assert sent > size
    assert peak < 100 << 10


def layer_tar(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("backend/large")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zstd_frame(content: bytes) -> bytes:
    compressor = open_compressor("zstd", size=len(content), level=1)
    return compressor.compress(content) + compressor.finish()


def image_of(place: Path, blob: bytes, diff_id: Digest) -> LayoutStore:
    """A bundle, as far as its config goes, with one layer."""
    label = {
        "format": 1,
        "backend": "large",
        "version": "1",
        "target": TARGET,
        "contents": {"digest": f"sha256:{'0' * 64}", "size": 0, "count": 1, "directories": 0, "bytes": 1},
        "probe": {"imports": ["large"]},
        "launch": {"module": "large", "options": {"model": "--model"}},
    }
    platform = Target.parse(TARGET).platform
    config = dump_json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {"Labels": {LABEL: dump_json(label).decode()}},
            "rootfs": {"type": "layers", "diff_ids": [str(diff_id)]},
        }
    )
    layout = LayoutStore(place, create=True)
    described = []
    for content, media_type in ((config, MEDIA_CONFIG), (blob, MEDIA_LAYER_ZSTD)):
        descriptor = Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content))
        layout.put_blob(descriptor, BytesStream(content))
        described.append(descriptor.to_json())
    value = {"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": described[0], "layers": described[1:]}
    layout.put_document(dump_json(value), MEDIA_MANIFEST, name="x")
    return layout


def test_targets_of_one_platform_get_tags_of_their_own(dockerd: RunningEngine, layout: LayoutStore) -> None:
    main = entry(layout)
    other = dataclasses.replace(main, annotations={**main.annotations, ANNOTATION_TARGET: f"{Platform.host()}+cuda13"})
    layout.put_document(make_index((main, other), {}).raw, MEDIA_INDEX, name="several")
    wanted = Target.parse(TARGET)
    done = load_bundle(layout, "several", target=wanted, host=dockerd.host)
    assert done.tag == f"{BACKEND}:{GOOD}-{wanted.accelerator}"
    assert load_bundle(layout, "several", target=wanted, host=dockerd.host, tag="a:b").tag == "a:b"
    assert load_bundle(layout, NAME, target=wanted, host=dockerd.host).tag == f"{BACKEND}:{GOOD}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_usual_address_is_named(layout: LayoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no contexts of ours
    if Path("/var/run/docker.sock").exists():
        pytest.skip("an engine may listen there")
    with pytest.raises(UnavailableError, match=r"at `unix:///.*\.sock`"):
        load_bundle(layout, NAME)
    gc.collect()
