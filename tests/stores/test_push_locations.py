"""Where `push`, `copy` and `index` write, what they say about places that cannot be used, and what they count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mr_bundler.join import join_index
from mr_core.bundle_index import bundle_name
from mr_core.errors import InvalidInputError, NotFoundError, UnavailableError
from mr_core.events import BlobFinished, Event, Outcome, PhaseFinished, PhaseStarted
from mr_core.layout import LayoutStore
from mr_core.location import parse_location
from mr_core.memory import MemoryStore
from mr_core.open_store import open_store
from mr_core.transfer import transfer
from support.registry import RealRegistry
from support.remote_blob import connect
from support.small_bundle import CPU, METAL, small_bundle, write_bundles
from support.small_image import small_image
from support.wire import FaultProxy

BUNDLES = [small_bundle(target) for target in (METAL, CPU)]


@pytest.fixture
def layout(tmp_path: Path) -> LayoutStore:
    layout = LayoutStore(tmp_path / "layout", create=True)
    write_bundles(layout, "tiny-1.0", BUNDLES)
    return layout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", "from mr_bundler.cli import run; run()"]
    return subprocess.run([*start, *arguments], capture_output=True, text=True, check=False)


# --- names in layouts


def test_a_layout_gets_backend_and_version_as_the_name(
    layout: LayoutStore, plain_registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    remote = connect(plain_registry.host, repository)
    transfer(layout, "tiny-1.0", remote, "v1")
    source = f"docker://{plain_registry.host}/{repository}:v1"
    mirror = tmp_path / "mirror"
    words = [source, f"oci:{mirror}", "--insecure-registry", plain_registry.host]
    ran = run("copy", *words, "--target", CPU)
    assert ran.returncode == 0, ran.stderr
    assert f"oci:{mirror}:tiny-1.0" in ran.stdout
    assert LayoutStore(mirror).resolve("tiny-1.0").digest != remote.resolve("v1").digest
    alone = str(BUNDLES[0].manifest_descriptor.digest)
    transfer(remote, alone, lone := LayoutStore(tmp_path / "lone", create=True), "")
    assert str(lone.resolve("tiny-1.0").digest) == alone
    assert bundle_name({}) == ""
    remote.close()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--target", "linux/amd64+cuda13"], 4, "targets there"),
        (["--mount-from", "a/b"], 2, "only registries"),
    ],
)
def test_a_copy_that_fails_leaves_no_empty_layout(
    layout: LayoutStore, tmp_path: Path, words: list[str], status: int, told: str
) -> None:
    ran = run("copy", f"oci:{layout.path}", f"oci:{tmp_path}/mirror", *words)
    assert (ran.returncode, told in ran.stderr) == (status, True), ran.stderr
    assert not (tmp_path / "mirror").exists()


def test_what_has_no_name_is_refused_before_anything_is_made(
    plain_registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    remote = connect(plain_registry.host, repository)
    small_image().write(remote, "v1")
    place = f"docker://{plain_registry.host}/{repository}:v1"
    ran = run("copy", place, f"oci:{tmp_path}/mirror", "--insecure-registry", plain_registry.host)
    assert ran.returncode == 2
    assert f"hint: name it: `oci:{tmp_path}/mirror:NAME`" in ran.stderr
    assert not (tmp_path / "mirror").exists()
    remote.close()


def test_a_layout_is_made_by_its_first_write(layout: LayoutStore, tmp_path: Path) -> None:
    store, name = open_store(parse_location(f"oci:{tmp_path}/new:x"))
    assert isinstance(store, LayoutStore)
    assert store.names() == ()
    with pytest.raises(NotFoundError):
        store.resolve("x")
    assert not (tmp_path / "new").exists()
    transfer(layout, "tiny-1.0", store, name)
    assert LayoutStore(tmp_path / "new").resolve("x").digest == store.resolve("x").digest
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InvalidInputError, match=r"holds `mine\.txt`"):
        open_store(parse_location(f"oci:{tmp_path}/full"))


# --- tags in registries


@pytest.mark.parametrize("command", ["push", "copy"])
def test_a_registry_needs_a_tag(
    layout: LayoutStore, plain_registry: RealRegistry, repository: str, command: str
) -> None:
    place = f"docker://{plain_registry.host}/{repository}"
    ran = run(command, f"oci:{layout.path}", place, "--insecure-registry", plain_registry.host)
    assert ran.returncode == 2
    assert "it names no tag" in ran.stderr
    assert f"hint: name one: `{place}:1.0`" in ran.stderr
    remote = connect(plain_registry.host, repository)
    with pytest.raises(NotFoundError):
        remote.resolve("latest")
    remote.close()
    spelled = run(command, f"oci:{layout.path}", f"{place}:latest", "--insecure-registry", plain_registry.host)
    assert spelled.returncode == 0, spelled.stderr
    read = run("copy", place, f"oci:{layout.path}-again", "--insecure-registry", plain_registry.host)
    assert read.returncode == 0, read.stderr


def test_an_index_needs_a_tag(layout: LayoutStore, plain_registry: RealRegistry, repository: str) -> None:
    place = f"docker://{plain_registry.host}/{repository}"
    insecure = ["--insecure-registry", plain_registry.host]
    pushed = run("push", f"oci:{layout.path}", place, "--by-digest", *insecure)
    assert pushed.returncode == 0, pushed.stderr
    ran = run("index", place, *pushed.stdout.split(), *insecure)
    assert ran.returncode == 2
    assert f"hint: name one: `{place}:1.0`" in ran.stderr
    assert run("index", f"{place}:1.0", *pushed.stdout.split(), *insecure).returncode == 0


@pytest.mark.parametrize("member", ["sha256:00", "docker://a.example/b:1", "not a tag", "md5:00"])
def test_members_are_parsed_before_anything_is_asked(proxy: FaultProxy, repository: str, member: str) -> None:
    remote = connect(proxy.host, repository)
    with pytest.raises(InvalidInputError, match=r"sha256:00|neither a digest nor a tag"):
        join_index(remote, "1.0", ["fine", member])
    assert proxy.seen == []
    remote.close()
    with pytest.raises(InvalidInputError):
        join_index(MemoryStore(), "1.0", ["sha256:00"])


# --- errors and words


def test_an_unreachable_destination_is_not_called_absent(layout: LayoutStore) -> None:
    events: list[Event] = []
    nowhere = connect("127.0.0.1:1", "a/b")
    with pytest.raises(UnavailableError, match=r"^Cannot use `127\.0\.0\.1:1/a/b:v1`: .*refuses connections"):
        transfer(layout, "tiny-1.0", nowhere, "v1", report=events.append)
    nowhere.close()
    subjects = [event.subject for event in events if isinstance(event, PhaseStarted)]
    outcomes = [event.outcome for event in events if isinstance(event, PhaseFinished)]
    assert subjects == [layout.describe(), "docker://127.0.0.1:1/a/b"]
    assert outcomes == [Outcome.DONE, Outcome.FAILED]


def test_a_registry_without_the_tag_says_so(plain_registry: RealRegistry, repository: str) -> None:
    remote = connect(plain_registry.host, repository)
    with pytest.raises(NotFoundError, match=r"^Cannot find `"):
        remote.resolve("absent")
    remote.close()


def test_a_missing_blob_is_not_found(layout: LayoutStore, plain_registry: RealRegistry, repository: str) -> None:
    gone = BUNDLES[1].blobs[2][0].digest
    (layout.path / "blobs/sha256" / gone.hex).unlink()
    place = f"docker://{plain_registry.host}/{repository}:1.0"
    ran = run("push", f"oci:{layout.path}", place, "--insecure-registry", plain_registry.host)
    assert ran.returncode == 4, ran.stderr
    assert str(gone) in ran.stderr


@pytest.mark.parametrize("kind", ["layout", "registry"])
def test_what_was_sent_is_not_called_fetched(
    layout: LayoutStore, plain_registry: RealRegistry, repository: str, tmp_path: Path, kind: str
) -> None:
    place = f"docker://{plain_registry.host}/{repository}:1.0" if kind == "registry" else f"oci:{tmp_path}/x"
    ran = run("push", f"oci:{layout.path}", place, "-v", "--insecure-registry", plain_registry.host)
    assert ran.returncode == 0, ran.stderr
    assert "fetched" not in ran.stderr
    assert len([line for line in ran.stderr.splitlines() if line.endswith(" sent")]) > 5
    assert not BlobFinished(digest="x", total=1).sent


def test_quiet_json_is_one_line(layout: LayoutStore, tmp_path: Path) -> None:
    ran = run("push", f"oci:{layout.path}", f"oci:{tmp_path}/x", "-q", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    (line,) = ran.stdout.splitlines()
    assert (json.loads(line)["event"], json.loads(line)["seq"]) == ("result", 1)
    failed = run("push", f"oci:{layout.path}:absent", f"oci:{tmp_path}/x", "-q", "--json")
    (line,) = failed.stdout.splitlines()
    assert (failed.returncode, json.loads(line)["event"]) == (4, "error")
    assert len(run("push", f"oci:{layout.path}", f"oci:{tmp_path}/y", "--json").stdout.splitlines()) > 5


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# no archive\n" * 100)
    ran = run("ls", str(tmp_path / "README.md"))
    assert ran.returncode == 3
    assert "mr-bundle export" in ran.stderr
