"""Bundles as one file: what is in it, who reads it, and what is left when it cannot be written."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from pathlib import Path

import pytest

from mr_bundler.export.oci_archive import export_archive
from mr_core.archive import ArchiveSource
from mr_core.digest import Digest
from mr_core.errors import CancelledError, HostError, IntegrityError, NotFoundError, UsageError
from mr_core.events import Cancel, Event, PhaseFinished, PhaseProgress
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_MANIFEST, Descriptor, Manifest, parse_document
from mr_core.memory import BytesStream, MemoryStore
from mr_core.referrer_index import fallback_name
from mr_core.referrers import read_referrer, referrers
from mr_core.registry import RegistryStore
from mr_core.transfer import transfer
from mr_installer import Installer
from support.bundles import BACKEND, NEXT, TARGET, Bundles
from support.invariants import check_invariants
from support.layout_bundle import NAME, entry, manifest
from support.need import need
from support.registry import RealRegistry
from support.small_image import small_image

PROGRAM = str(Path(sys.executable).with_name("mr-bundle"))


def members(path: Path) -> list[str]:
    with tarfile.open(path, "r:") as tar:
        return tar.getnames()


def mr_bundle(
    *arguments: str | Path, cwd: Path | None = None, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, check=False, stdout=stdout, stderr=subprocess.PIPE, timeout=60, cwd=cwd)


def test_the_same_bytes_from_a_layout_a_registry_and_an_archive(
    layout: LayoutStore, remote: RegistryStore, tmp_path: Path
) -> None:
    first = export_archive(layout, NAME, tmp_path / "first.tar")
    transfer(layout, NAME, remote, "any-tag")
    export_archive(remote, "any-tag", tmp_path / "second.tar")
    export_archive(remote, str(layout.resolve(NAME).digest), tmp_path / "third.tar")
    export_archive(ArchiveSource(tmp_path / "first.tar"), "", tmp_path / "fourth.tar")
    stream = io.BytesIO()
    assert export_archive(layout, "", stream).path == ""
    content = (tmp_path / "first.tar").read_bytes()
    assert len(content) == first.bytes
    assert first.digest == layout.resolve(NAME).digest
    for other in ("second.tar", "third.tar", "fourth.tar"):
        assert (tmp_path / other).read_bytes() == content, other
    assert stream.getvalue() == content


def test_it_holds_what_the_name_needs_and_nothing_else(bundles: Bundles, layout: LayoutStore, tmp_path: Path) -> None:
    transfer(LayoutStore(bundles.layout), f"{BACKEND}-{NEXT}", layout, "other")
    export_archive(layout, NAME, tmp_path / "x.tar")
    names = members(tmp_path / "x.tar")
    assert names[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]
    main = manifest(layout)
    bare = {layout.resolve(NAME).digest, main.digest, main.config.digest, *(layer.digest for layer in main.layers)}
    papers = {layout.resolve(fallback_name(main.digest)).digest}
    for paper in referrers(layout, main.digest):
        artifact = parse_document(layout.read_document(paper))
        assert isinstance(artifact, Manifest)
        papers |= {paper.digest, artifact.config.digest, *(blob.digest for blob in artifact.layers)}
    assert len(papers) >= 4
    found = [Digest("sha256", name.rpartition("/")[2]) for name in names[4:]]
    assert len(found) == len(set(found))
    assert set(found) == bare | papers
    export_archive(layout, NAME, tmp_path / "bare.tar", papers=False)
    assert {Digest("sha256", name.rpartition("/")[2]) for name in members(tmp_path / "bare.tar")[4:]} == bare
    source = ArchiveSource(tmp_path / "x.tar")
    (own,) = referrers(source, main.digest, artifact_type="text/licences")
    assert read_referrer(source, own) == b"MIT\n"


def test_it_installs_and_goes_on_to_a_registry(
    layout: LayoutStore, registry: RealRegistry, remote: RegistryStore, tmp_path: Path
) -> None:
    archive = tmp_path / "x.tar"
    exported = mr_bundle("export", f"oci:{layout.path}:{NAME}", "-o", archive)
    assert exported.returncode == 0, exported.stderr
    assert f"oci-archive:{archive}:{NAME}" in exported.stdout.decode()
    Installer(tmp_path / "root").install(BACKEND, source=f"oci-archive:{archive}")
    check_invariants(tmp_path / "root")
    place = remote.describe().removeprefix("docker://")
    pushed = mr_bundle("push", archive, f"docker://{place}:1.0", "--insecure-registry", registry.host, "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout.splitlines()[-1])["digest"] == str(layout.resolve(NAME).digest)
    assert [paper.digest for paper in referrers(remote, entry(layout).digest)] == [
        paper.digest for paper in referrers(layout, entry(layout).digest)
    ]


def test_other_programs_read_it(layout: LayoutStore, tmp_path: Path) -> None:
    archive, copied = tmp_path / "x.tar", tmp_path / "copied"
    export_archive(layout, NAME, archive)
    command = ["copy", "-q", "--all", "--preserve-digests", f"oci-archive:{archive}:{NAME}", f"oci:{copied}:y"]
    subprocess.run([need("skopeo"), *command], check=True, capture_output=True)
    assert LayoutStore(copied).resolve("y").digest == layout.resolve(NAME).digest
    (tmp_path / "out").mkdir()
    subprocess.run([need("bsdtar"), "-xf", archive, "-C", tmp_path / "out"], check=True)
    assert LayoutStore(tmp_path / "out").resolve(NAME).digest == layout.resolve(NAME).digest
    # Without papers it holds one name, and so programs that cannot be told a name read it.
    export_archive(layout, NAME, archive, papers=False, overwrite=True)
    place = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))  # podman refuses a run root of more than 50 characters
    storage = ["--root", f"{place}/r", "--runroot", f"{place}/rr", "--tmpdir", f"{place}/t", "--storage-driver", "vfs"]
    options = [*storage, "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
    try:
        loaded = subprocess.run(
            [need("podman"), *options, "load", "-q", "-i", archive], check=False, capture_output=True, text=True
        )
        assert loaded.returncode == 0, loaded.stderr
        assert NAME in loaded.stdout
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_targets(layout: LayoutStore, tmp_path: Path) -> None:
    export_archive(layout, NAME, tmp_path / "x.tar", targets=[TARGET])
    assert ArchiveSource(tmp_path / "x.tar").resolve("").digest == layout.resolve(NAME).digest
    with pytest.raises(NotFoundError, match="darwin"):
        export_archive(layout, NAME, tmp_path / "y.tar", targets=["darwin/arm64+metal"])
    assert not (tmp_path / "y.tar").exists()


def test_a_file_that_is_there_stays(layout: LayoutStore, tmp_path: Path) -> None:
    place = tmp_path / "x.tar"
    place.write_text("mine")
    link = tmp_path / "link.tar"
    link.symlink_to("x.tar")
    for path in (place, link):
        with pytest.raises(UsageError, match="there is a file of this name"):
            export_archive(layout, NAME, path)
    assert place.read_text() == "mine"
    export_archive(layout, NAME, link, overwrite=True)
    assert link.is_symlink()
    assert members(place)[0] == "oci-layout"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(HostError, match="no regular file"):
        export_archive(layout, NAME, fifo, overwrite=True)
    with pytest.raises(HostError, match="no regular file"):
        export_archive(layout, NAME, tmp_path, overwrite=True)


def test_a_circle_of_links_is_no_place(layout: LayoutStore, tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).symlink_to(other)
    for path in (tmp_path / "a", tmp_path / "a" / "x.tar"):
        with pytest.raises(HostError):
            export_archive(layout, NAME, path, overwrite=True)
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_the_umask_says_who_may_read_it(layout: LayoutStore, tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        export_archive(layout, NAME, tmp_path / "x.tar")
    finally:
        os.umask(before)
    assert (tmp_path / "x.tar").stat().st_mode & 0o7777 == mode


def test_nothing_is_left_of_an_export_that_failed(layout: LayoutStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    cancel = Cancel()

    def stop(event: Event) -> None:
        if isinstance(event, PhaseProgress):
            cancel.set()

    with pytest.raises(CancelledError):
        export_archive(layout, NAME, folder / "x.tar", report=stop, cancel=cancel)
    assert list(folder.iterdir()) == []
    (folder / "x.tar").write_text("old")
    layer = max(manifest(layout).layers, key=lambda item: item.size)
    blob = layout.path / "blobs/sha256" / layer.digest.hex
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(IntegrityError, match=layer.digest.hex):
        export_archive(layout, NAME, folder / "x.tar", overwrite=True)
    assert [place.name for place in folder.iterdir()] == ["x.tar"]
    assert (folder / "x.tar").read_text() == "old"


@pytest.mark.root
def test_a_full_disk(layout: LayoutStore, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)
    try:
        with pytest.raises(HostError, match="no space left"):
            export_archive(layout, NAME, disk / "x.tar")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_progress_adds_up(layout: LayoutStore, tmp_path: Path) -> None:
    events: list[Event] = []
    done = export_archive(layout, NAME, tmp_path / "x.tar", report=events.append)
    progress = [event for event in events if isinstance(event, PhaseProgress)]
    assert progress[-1].done == progress[-1].total == done.bytes == (tmp_path / "x.tar").stat().st_size
    assert [event.phase for event in events if isinstance(event, PhaseFinished)] == ["inspect", "export"]


def test_the_command(layout: LayoutStore, tmp_path: Path) -> None:
    source = f"oci:{layout.path}:{NAME}"
    done = mr_bundle("export", source, "--json", cwd=tmp_path)
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["path"] == f"{NAME}.tar"
    assert outcome["bytes"] == (tmp_path / f"{NAME}.tar").stat().st_size
    streamed = mr_bundle("export", source, "-o", "-")
    assert streamed.stdout == (tmp_path / f"{NAME}.tar").read_bytes()
    assert b"export" in streamed.stderr
    assert mr_bundle("export", source, cwd=tmp_path).returncode == 2
    refused = mr_bundle("export", source, "-o", "-", "--json")
    assert refused.returncode == 2
    assert json.loads(refused.stdout.splitlines()[-1])["hint"]
    assert mr_bundle("export", f"oci:{layout.path}:nothing", "-o", tmp_path / "y.tar").returncode == 4
    assert mr_bundle("export", source, "--target", "beos/x86+cpu").returncode == 2
    assert not (tmp_path / "y.tar").exists()
    cut = subprocess.run(
        ["bash", "-c", '"$0" export "$1" -o - -q | head -c 1000 | wc -c; echo ${PIPESTATUS[0]}', PROGRAM, source],
        check=True,
        capture_output=True,
        text=True,
    )
    assert cut.stdout.split() == ["1000", "9"]
    assert "broken pipe" in cut.stderr
    assert "Traceback" not in cut.stderr


def test_a_terminal_is_no_place_for_an_archive(layout: LayoutStore) -> None:
    ours, theirs = pty.openpty()
    try:
        done = mr_bundle("export", f"oci:{layout.path}:{NAME}", "-o", "-", stdout=theirs)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2
    assert b"it is a terminal" in done.stderr


def test_what_is_no_bundle_keeps_its_name(tmp_path: Path) -> None:
    store = MemoryStore()
    small_image().write(store, "v1")
    assert export_archive(store, "v1", tmp_path / "x.tar").name == "v1"
    assert ArchiveSource(tmp_path / "x.tar").resolve("v1").digest == store.resolve("v1").digest


def test_memory_does_not_grow_with_the_bundle(tmp_path: Path) -> None:
    size = 300 << 20
    layout = LayoutStore(tmp_path / "layout", create=True)
    place = layout.path / "blobs/sha256/new"
    with place.open("wb") as file:
        file.truncate(size)
    with place.open("rb") as file:
        digest = Digest.of_file(file)
    place.rename(place.with_name(digest.hex))
    config = small_image().blobs[0]
    layout.put_blob(config[0], BytesStream(config[1]))
    layer = Descriptor(media_type="application/x", digest=digest, size=size)
    value = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": config[0].to_json(),
        "layers": [layer.to_json()],
    }
    layout.put_document(json.dumps(value).encode(), MEDIA_MANIFEST, name="large")
    code = """
        import sys
        from pathlib import Path
        from mr_bundler.export.oci_archive import export_archive
        from mr_core.layout import LayoutStore

        with open("/dev/null", "wb") as nowhere:
            done = export_archive(LayoutStore(Path(sys.argv[1])), "large", nowhere)
        print(done.bytes, Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(layout.path)], check=True, capture_output=True, text=True
    )
    written, peak = map(int, done.stdout.split())
    assert written > size
    assert peak < 100 << 10


def test_a_pipe_by_name_is_pointed_to_the_dash(layout: LayoutStore) -> None:
    """The link behind `/dev/stdout` leads to `pipe:[…]`, which is no path."""
    program = [sys.executable, "-c", "from mr_bundler.cli import run; run()"]
    command = [*program, "export", f"oci:{layout.path}:{NAME}", "-o", "/dev/stdout"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 9, ran.stderr
    assert "`/dev/stdout`: it is no regular file" in ran.stderr
    assert "`-o -`" in ran.stderr
    assert ran.stdout == ""


def test_the_command_says_how_others_read_it(layout: LayoutStore, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from mr_bundler.cli import run; run()"]
    place = tmp_path / "x.tar"
    command = [*program, "export", f"oci:{layout.path}:{NAME}", "-o", str(place)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    whole, *_, last = ran.stdout.splitlines()
    assert "skopeo and podman" in last
    skopeo = need("skopeo")
    raw = subprocess.run([skopeo, "inspect", "--raw", whole], check=True, capture_output=True).stdout
    assert Digest.of(raw) == layout.resolve(NAME).digest
    bare = subprocess.run([skopeo, "inspect", "--raw", whole.rpartition(":")[0]], check=False, capture_output=True)
    assert bare.returncode != 0  # papers are entries too; else the advice can go
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    explained = subprocess.run([*program, "export", "--help"], check=True, capture_output=True, text=True).stdout
    assert "skopeo copy --all oci-archive:" in explained
    assert "podman pull oci-archive:" in explained
