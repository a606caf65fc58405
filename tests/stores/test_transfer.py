"""Copying bundles between stores, with other tools as judges."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mr_core.digest import Digest
from mr_core.errors import (
    AccessDeniedError,
    CancelledError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from mr_core.events import BlobFinished, Cancel, Event, Outcome, PhaseFinished, PhaseProgress, Reporter, discard
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_INDEX, MEDIA_MANIFEST, REF_NAME, Descriptor, make_index
from mr_core.memory import MemoryStore
from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.store import BlobStream, Store
from mr_core.transfer import TransferResult, transfer
from support.need import need
from support.registry import QUICK, RealRegistry
from support.small_image import describe, small_image
from support.wire import Fault, FaultProxy

IMAGE = small_image("push", filler=600_000)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutStore:
    layout = LayoutStore(tmp_path / "layout", create=True)
    IMAGE.write(layout, "x-1.0")
    return layout


@pytest.fixture
def proxy(plain_registry: RealRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(plain_registry.host) as proxy:
        yield proxy


def connect(registry: RealRegistry, repository: str, host: str = "") -> RegistryStore:
    host = host or registry.host
    options = registry.options(**({"insecure_hosts": frozenset({host})} if registry.mode != "tls" else {}))
    return RegistryStore(Reference.parse(f"{host}/{repository}"), options=options)


def check(store: Store, name: str = "x-1.0") -> None:
    """The whole image is in the store."""
    found = store.resolve(name)
    assert store.read_document(found) == IMAGE.index
    assert store.read_document(store.resolve(str(IMAGE.manifest_descriptor.digest))) == IMAGE.manifest
    for blob, content in IMAGE.blobs:
        assert store.read_blob(blob) == content


@pytest.mark.parametrize("mode", ["plain", "basic", "tls"])
def test_a_bundle_goes_to_a_registry_and_back_unchanged(
    layout: LayoutStore, tmp_path: Path, mode: str, repository: str, request: pytest.FixtureRequest
) -> None:
    registry: RealRegistry = request.getfixturevalue(f"{mode}_registry")
    remote = connect(registry, repository)
    sizes = sum(blob.size for blob, _ in IMAGE.blobs)
    result = transfer(layout, "x-1.0", remote, "v1")
    assert result == TransferResult(
        digest=IMAGE.index_descriptor.digest,
        media_type=MEDIA_INDEX,
        name="v1",
        documents=2,
        blobs_pushed=3,
        bytes_pushed=sizes,
        blobs_skipped=0,
        bytes_skipped=0,
    )
    check(remote, "v1")
    back = LayoutStore(tmp_path / "back", create=True)
    assert transfer(remote, "v1", back, "x-1.0").digest == result.digest
    check(back)
    archive = MemoryStore()
    assert transfer(remote, str(result.digest), archive, "x-1.0").digest == result.digest
    check(archive)
    remote.close()


def test_pushing_again_sends_nothing(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    first = connect(plain_registry, repository)
    transfer(layout, "x-1.0", first, "v1")
    again = connect(plain_registry, repository, proxy.host)
    events: list[Event] = []
    result = transfer(layout, "x-1.0", again, "v1", report=events.append)
    assert (result.blobs_pushed, result.bytes_pushed, result.blobs_skipped) == (0, 0, 3)
    assert proxy.count("POST") == 0
    assert proxy.count("PUT", "/blobs/") == 0
    assert {event.outcome for event in events if isinstance(event, BlobFinished)} == {Outcome.SKIPPED}
    for store in (first, again):
        store.close()


def test_progress_adds_up_to_the_whole(layout: LayoutStore) -> None:
    events: list[Event] = []
    transfer(layout, "x-1.0", MemoryStore(), "v1", report=events.append)
    progress = [event for event in events if isinstance(event, PhaseProgress)]
    assert progress[-1].done == progress[-1].total == sum(blob.size for blob, _ in IMAGE.blobs)
    phases = [event.phase for event in events if isinstance(event, PhaseFinished)]
    assert phases == ["inspect", "inspect", "blobs", "publish"]  # the source, then the destination


def test_blobs_come_before_manifests_before_indexes_before_the_tag(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    store = connect(plain_registry, repository, proxy.host)
    transfer(layout, "x-1.0", store, "v1")
    puts = [seen.path for seen in proxy.seen if seen.method == "PUT"]
    kinds = [re.sub(r".*/(uploads|manifests)/([^?]*).*", r"\1 \2", path) for path in puts]
    inner, outer = str(IMAGE.manifest_descriptor.digest), str(IMAGE.index_descriptor.digest)
    assert [kind.split()[0] for kind in kinds[:3]] == ["uploads"] * 3
    assert kinds[3:] == [f"manifests {inner}", f"manifests {outer}", "manifests v1"]
    store.close()


def test_the_tag_is_never_visible_before_everything_behind_it(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    """Fail at each write in turn: the tag is absent every time, and the next push completes."""
    watcher = connect(plain_registry, repository)
    for path, times in (("/blobs/uploads/", 99), ("/manifests/sha256", 99), ("/manifests/v1", 99)):
        store = connect(plain_registry, repository, proxy.host)
        proxy.faults = [Fault(method="PUT", path=path, status=500, times=times)]
        with pytest.raises(UnavailableError):
            transfer(layout, "x-1.0", store, "v1", retry=QUICK)
        with pytest.raises(NotFoundError):
            watcher.resolve("v1")
        store.close()
    proxy.faults = []
    store = connect(plain_registry, repository, proxy.host)
    transfer(layout, "x-1.0", store, "v1")
    check(watcher, "v1")
    for opened in (store, watcher):
        opened.close()


def test_a_tag_is_moved_only_with_overwrite_and_nothing_is_sent_before_that_is_known(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    store = connect(plain_registry, repository, proxy.host)
    small_image("old").write(store, "v1")
    before = proxy.count("POST")
    with pytest.raises(AccessDeniedError) as caught:
        transfer(layout, "x-1.0", store, "v1")
    assert "--overwrite" in caught.value.hint
    assert proxy.count("POST") == before
    transfer(layout, "x-1.0", store, "v1", overwrite=True)
    check(store, "v1")
    store.close()


def test_a_broken_upload_begins_again(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    store = connect(plain_registry, repository, proxy.host)
    proxy.faults = [
        Fault(method="PUT", path="/uploads/", reset_upload_at=300_000),
        Fault(method="PUT", path="/uploads/", reset_upload_at=100_000),
        Fault(method="POST", status=503),
    ]
    assert transfer(layout, "x-1.0", store, "v1", jobs=2, retry=QUICK).blobs_pushed == 3
    check(store, "v1")
    store.close()


def test_a_lost_reply_to_an_upload_is_no_failure(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    store = connect(plain_registry, repository, proxy.host)
    proxy.faults = [Fault(method="PUT", path="/uploads/", lose_reply=True, times=3)]
    transfer(layout, "x-1.0", store, "v1", retry=QUICK)
    check(store, "v1")
    store.close()


def test_a_broken_download_continues_while_copying(
    layout: LayoutStore, tmp_path: Path, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    direct = connect(plain_registry, repository)
    transfer(layout, "x-1.0", direct, "v1")
    source = connect(plain_registry, repository, proxy.host)
    proxy.faults = [Fault(path="/blobs/", reset_at=200_000, times=2), Fault(path="/blobs/", cut_at=50, times=2)]
    back = LayoutStore(tmp_path / "back", create=True)
    transfer(source, "v1", back, "x-1.0", retry=QUICK)
    check(back)
    for store in (direct, source):
        store.close()


def test_a_registry_that_gives_wrong_bytes_taints_nothing(
    layout: LayoutStore, tmp_path: Path, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    direct = connect(plain_registry, repository)
    transfer(layout, "x-1.0", direct, "v1")
    source = connect(plain_registry, repository, proxy.host)
    proxy.faults = [Fault(path="/blobs/", flip_at=20, times=99)]
    back = LayoutStore(tmp_path / "back", create=True)
    with pytest.raises(IntegrityError):
        transfer(source, "v1", back, "x-1.0", retry=QUICK)
    assert back.names() == ()
    assert not any(back.has_blob(blob) for blob, _ in IMAGE.blobs)
    for store in (direct, source):
        store.close()


def test_a_damaged_layout_is_not_published(layout: LayoutStore, plain_registry: RealRegistry, repository: str) -> None:
    path = layout.path / "blobs/sha256" / IMAGE.blobs[2][0].digest.hex
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    store = connect(plain_registry, repository)
    with pytest.raises(IntegrityError):
        transfer(layout, "x-1.0", store, "v1")
    with pytest.raises(NotFoundError):
        store.resolve("v1")
    store.close()


def test_one_failed_blob_stops_the_others(tmp_path: Path) -> None:
    layout = LayoutStore(tmp_path / "layout", create=True)
    IMAGE.write(layout, "x-1.0")
    (layout.path / "blobs/sha256" / IMAGE.blobs[1][0].digest.hex).unlink()

    class Endless(MemoryStore):
        """A store that takes the large blob only until it is told to stop."""

        def put_blob(
            self,
            descriptor: Descriptor,
            source: BlobStream,
            *,
            mount_from: Sequence[str] = (),
            report: Reporter = discard,
            cancel: Cancel | None = None,
        ) -> Outcome:
            if descriptor.size > 100_000:
                assert cancel is not None
                cancel.sleep(60)
            return super().put_blob(descriptor, source)

    begin = time.monotonic()
    with pytest.raises(NotFoundError, match=IMAGE.blobs[1][0].digest.hex):
        transfer(layout, "x-1.0", Endless(), "v1", jobs=3)
    assert time.monotonic() - begin < 10


def test_a_push_can_be_cancelled(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    cancel = Cancel()
    store = RegistryStore(
        Reference.parse(f"{proxy.host}/{repository}"),
        options=plain_registry.options(insecure_hosts=frozenset({proxy.host})),
        cancel=cancel,
    )
    proxy.faults = [Fault(method="POST", status=503, headers={"Retry-After": "50"}, times=99)]
    threading.Timer(0.3, cancel.set).start()
    begin = time.monotonic()
    with pytest.raises(CancelledError):
        transfer(layout, "x-1.0", store, "v1", cancel=cancel)
    assert time.monotonic() - begin < 10
    store.close()


def test_names_come_from_the_layout_when_none_is_given(layout: LayoutStore, tmp_path: Path) -> None:
    target = LayoutStore(tmp_path / "copy", create=True)
    assert transfer(layout, "", target, "").name == "x-1.0"
    assert target.resolve("").annotations == {REF_NAME: "x-1.0"}
    with pytest.raises(UsageError):
        transfer(layout, str(IMAGE.manifest_descriptor.digest), target, "")


def test_a_lone_manifest_and_a_nested_index_are_copied(layout: LayoutStore, tmp_path: Path) -> None:
    target = LayoutStore(tmp_path / "copy", create=True)
    lone = transfer(layout, str(IMAGE.manifest_descriptor.digest), target, "lone")
    assert (lone.media_type, lone.documents) == (MEDIA_MANIFEST, 1)
    entry = Descriptor(media_type=MEDIA_INDEX, digest=Digest.of(IMAGE.index), size=len(IMAGE.index))
    nested = make_index((entry,), {}).raw
    layout.put_document(nested, MEDIA_INDEX, name="nested")
    assert transfer(layout, "nested", target, "nested").documents == 3
    deep = make_index((describe(nested, MEDIA_INDEX),), {}).raw
    layout.put_document(deep, MEDIA_INDEX, name="deep")
    with pytest.raises(Exception, match="nested too deeply"):
        transfer(layout, "deep", target, "deep")


# --- other tools as judges


def test_skopeo_agrees_on_every_digest(
    layout: LayoutStore, tmp_path: Path, plain_registry: RealRegistry, repository: str
) -> None:
    skopeo = need("skopeo")
    ours = f"docker://{plain_registry.host}/{repository}"
    store = connect(plain_registry, repository)
    transfer(layout, "x-1.0", store, "v1")
    raw = subprocess.run(
        [skopeo, "inspect", "--tls-verify=false", "--raw", f"{ours}:v1"], capture_output=True, check=True
    )
    assert raw.stdout == IMAGE.index
    shown = subprocess.run([skopeo, "inspect", "--tls-verify=false", f"{ours}:v1"], capture_output=True, check=True)
    inspected = json.loads(shown.stdout)
    assert inspected["Digest"] == str(IMAGE.index_descriptor.digest)
    assert inspected["Layers"] == [str(blob.digest) for blob, _ in IMAGE.blobs[1:]]

    copy = [skopeo, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    back = tmp_path / "back"
    subprocess.run([*copy, f"{ours}:v1", f"oci:{back}:x-1.0"], capture_output=True, check=True)
    check(LayoutStore(back))
    subprocess.run([*copy, f"oci:{back}:x-1.0", f"{ours}-theirs:v1"], capture_output=True, check=True)
    theirs = connect(plain_registry, f"{repository}-theirs")
    check(theirs, "v1")
    for opened in (store, theirs):
        opened.close()


@pytest.mark.root
def test_podman_pulls_what_we_push(
    layout: LayoutStore, tmp_path: Path, plain_registry: RealRegistry, repository: str
) -> None:
    podman = need("podman")
    if os.geteuid() != 0:
        pytest.skip("podman is run as root here")
    store = connect(plain_registry, repository)
    transfer(layout, "x-1.0", store, "v1")
    store.close()
    registries = tmp_path / "registries.conf"
    registries.write_text(f'[[registry]]\nlocation = "{plain_registry.host}"\ninsecure = true\n')
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    reference = f"{plain_registry.host}/{repository}:v1"
    with tempfile.TemporaryDirectory(prefix="pod-") as scratch:
        base = [podman, "--root", f"{scratch}/root", "--runroot", f"{scratch}/run", "--tmpdir", f"{scratch}/tmp"]
        base += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(registries)}
        pull = [*base, "pull", "--quiet", "--signature-policy", str(policy), reference]
        pulled = subprocess.run(pull, env=environment, capture_output=True, text=True, check=False)
        assert pulled.returncode == 0, pulled.stderr
        show = [*base, "image", "inspect", "--format", '{{index .Labels "text"}} {{.Digest}}', reference]
        shown = subprocess.run(show, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split()[0] == "push"
    assert shown.stdout.split()[1] in {str(IMAGE.index_descriptor.digest), str(IMAGE.manifest_descriptor.digest)}
