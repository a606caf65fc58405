"""Bundles that parallel jobs push by digest are joined into the index that one build of all targets gives."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mr_bundler.join import join_index
from mr_core.bundle_index import bundle_entry, bundle_index
from mr_core.digest import Digest
from mr_core.errors import AccessDeniedError, InvalidInputError, NotFoundError
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_INDEX, MEDIA_MANIFEST, Manifest, make_index, parse_document
from mr_core.memory import BytesStream, MemoryStore
from mr_core.store import Store
from mr_core.transfer import transfer
from support.need import need
from support.registry import RealRegistry
from support.remote_blob import connect
from support.small_bundle import ARM, CPU, METAL, small_bundle, walk, write_bundles
from support.small_image import SmallImage, small_image

BUNDLES = [small_bundle(target) for target in (METAL, ARM, CPU)]
WHOLE = MemoryStore()
STRANGE = dataclasses.replace(BUNDLES[0], manifest=BUNDLES[0].manifest.replace(METAL.encode(), b"windows/amd64+cpu"))
INDEX = write_bundles(WHOLE, "all", BUNDLES, papers=False)


def put(store: Store, bundle: SmallImage, *, name: str = "") -> str:
    """Write one bundle, with its index when a name is given; return the manifest's digest."""
    for blob, content in bundle.blobs:
        store.put_blob(blob, BytesStream(content))
    store.put_document(bundle.manifest, MEDIA_MANIFEST)
    if name:
        store.put_document(bundle.index, MEDIA_INDEX, name=name)
    return str(bundle.manifest_descriptor.digest)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from mr_bundler.cli import run; run()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


# --- the index


def test_an_index_is_sorted_and_says_what_its_manifests_say() -> None:
    raw = WHOLE.read_document(INDEX)
    value = json.loads(raw)
    key = "io.mr-backends.target"
    assert [entry["annotations"][key] for entry in value["manifests"]] == [METAL, CPU, ARM]
    assert value["manifests"][0]["platform"] == {"architecture": "arm64", "os": "darwin"}
    for entry in value["manifests"]:
        manifest = json.loads(WHOLE.read_document(WHOLE.resolve(entry["digest"])))
        assert entry["annotations"] == manifest["annotations"]
    title = "org.opencontainers.image.title"
    assert value["annotations"][title] == value["annotations"]["io.mr-backends.backend"] == "tiny"


def entries(bundles: Sequence[SmallImage]) -> list[Manifest]:
    documents = [parse_document(bundle.manifest) for bundle in bundles]
    return [document for document in documents if isinstance(document, Manifest)]


@pytest.mark.parametrize(
    ("bundles", "text"),
    [
        ([], "no bundle was named"),
        ([BUNDLES[0], small_bundle(METAL, text="other")], f"both for `{METAL}`"),
        ([BUNDLES[0], small_bundle(CPU, version="1.1")], "is version `1.0`, sha256:[0-9a-f]* is `1.1`"),
        ([BUNDLES[0], small_bundle(CPU, backend="other")], "is backend `tiny`"),
        ([small_image("no bundle")], "no annotation `io.mr-backends.backend`"),
        ([STRANGE], "not a target"),
    ],
    ids=["none", "twice", "version", "backend", "stranger", "target"],
)
def test_what_makes_no_index(bundles: list[SmallImage], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text.replace("+", r"\+")):
        bundle_index([bundle_entry(manifest) for manifest in entries(bundles)])


def test_the_same_bundle_twice_is_one_entry() -> None:
    made = bundle_index([bundle_entry(manifest) for manifest in entries([*BUNDLES, BUNDLES[0]])])
    assert made.raw == WHOLE.read_document(INDEX)


# --- joining


def test_a_joined_index_has_the_bytes_of_a_whole_build(store: Store) -> None:
    """Members may be digests, names of indexes, and may come in any order."""
    first = put(store, BUNDLES[2])
    put(store, BUNDLES[0], name="metal")
    third = put(store, BUNDLES[1])
    joined = join_index(store, "1.0", [first, "metal", third])
    assert joined.digest == INDEX.digest
    assert store.read_document(store.resolve("1.0")) == WHOLE.read_document(INDEX)
    assert set(walk(store, "1.0")) == set(walk(WHOLE, "all"))
    assert join_index(store, "1.0", [third, first, "metal"]).digest == INDEX.digest  # again: nothing changes


def test_a_name_is_moved_only_with_overwrite(store: Store) -> None:
    members = [put(store, bundle) for bundle in BUNDLES]
    before = join_index(store, "1.0", members[:2])
    with pytest.raises(AccessDeniedError, match="already names"):
        join_index(store, "1.0", members)
    assert store.resolve("1.0").digest == before.digest
    assert join_index(store, "1.0", members, overwrite=True).digest == INDEX.digest


def test_a_member_that_is_not_there(store: Store) -> None:
    member = put(store, BUNDLES[0])
    with pytest.raises(NotFoundError):
        join_index(store, "1.0", [member, f"sha256:{'0' * 64}"])
    with pytest.raises(NotFoundError):
        store.resolve("1.0")


def test_a_member_whose_blob_is_gone(tmp_path: Path) -> None:
    layout = LayoutStore(tmp_path / "layout", create=True)
    members = [put(layout, bundle) for bundle in BUNDLES]
    gone = BUNDLES[1].blobs[2][0].digest
    (layout.path / "blobs/sha256" / gone.hex).unlink()
    with pytest.raises(NotFoundError, match=f"has no blob {gone}") as caught:
        join_index(layout, "1.0", members)
    assert caught.value.hint == "push that target again"
    assert layout.names() == ()


def test_members_that_are_no_bundles() -> None:
    store = MemoryStore()
    small_image().write(store, "plain")
    with pytest.raises(InvalidInputError, match="no annotation"):
        join_index(store, "1.0", ["plain"])
    put(store, BUNDLES[0], name="metal")
    store.put_document(make_index((store.resolve("metal"),), {}).raw, MEDIA_INDEX, name="nested")
    with pytest.raises(InvalidInputError, match="index itself"):
        join_index(store, "1.0", ["nested"])


# --- the commands


def test_two_jobs_push_by_digest_at_once_and_one_joins_them(
    plain_registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    """The joined index equals that of a direct push of both, papers included, and skopeo reads it."""
    pair = [small_bundle(CPU, filler=300_000), small_bundle(METAL, filler=200_000)]
    whole = LayoutStore(tmp_path / "whole", create=True)
    write_bundles(whole, "tiny-1.0", pair)
    place, insecure = f"docker://{plain_registry.host}/{repository}", ["--insecure-registry", plain_registry.host]
    jobs = []
    for bundle in pair:
        layout = LayoutStore(tmp_path / bundle.manifest_descriptor.digest.hex, create=True)
        write_bundles(layout, "tiny-1.0", [bundle])
        command = [sys.executable, "-c", "from mr_bundler.cli import run; run()", "push", *insecure]
        command += [f"oci:{layout.path}", place, "--by-digest"]
        jobs.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    members = []
    for job, bundle in zip(jobs, pair, strict=True):
        output, said = job.communicate(timeout=60)
        assert job.returncode == 0, said
        assert output == f"{bundle.manifest_descriptor.digest}\n"
        members.append(output.strip())
    direct = connect(plain_registry.host, f"{repository}-direct")
    expected = transfer(whole, "tiny-1.0", direct, "1.0")
    remote = connect(plain_registry.host, repository)
    with pytest.raises(NotFoundError):
        remote.resolve("1.0")

    joined = run("index", *insecure, f"{place}:1.0", *members, "--json")
    assert joined.returncode == 0, joined.stdout
    result = json.loads(joined.stdout.splitlines()[-1])
    assert result["digest"] == str(expected.digest)
    assert result["bundles"] == {CPU: members[0], METAL: members[1]}
    assert remote.read_document(remote.resolve("1.0")) == direct.read_document(direct.resolve("1.0"))
    only_of_index = {key for key in walk(direct, "1.0") if key not in walk(remote, "1.0")}
    assert len(only_of_index) <= 2  # the note that the whole build attached to its index

    skopeo = need("skopeo")
    raw = subprocess.run(
        [skopeo, "inspect", "--tls-verify=false", "--raw", f"{place}:1.0"], capture_output=True, check=True
    )
    assert Digest.of(raw.stdout) == expected.digest
    copied = tmp_path / "copied"
    copy = [skopeo, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", f"{place}:1.0", f"oci:{copied}:x"]
    subprocess.run(copy, capture_output=True, check=True)
    assert LayoutStore(copied).resolve("x").digest == expected.digest
    for store in (direct, remote):
        store.close()


def test_push_by_digest_tells_everything_as_json(tmp_path: Path) -> None:
    layout = LayoutStore(tmp_path / "layout", create=True)
    write_bundles(layout, "tiny-1.0", BUNDLES)
    ran = run("push", f"oci:{layout.path}", f"oci:{tmp_path}/there", "--by-digest", "--target", CPU, "--json")
    assert ran.returncode == 0, ran.stdout
    result = json.loads(ran.stdout.splitlines()[-1])
    (bundle,) = result["bundles"]
    assert (bundle["digest"], bundle["target"]) == (str(BUNDLES[2].manifest_descriptor.digest), CPU)
    assert (bundle["papers"], bundle["blobs_pushed"]) == (3, 6)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["push", "SOURCE", "oci:TMP/x:name", "--by-digest"], 2, "it has a name"),
        (["push", "SOURCE", "docker://127.0.0.1:1/x:1.0", "--by-digest"], 2, "it has a name"),
        (["push", "SOURCE", "oci:TMP/x", "--by-digest", "--overwrite"], 2, "--overwrite"),
        (["push", "SOURCE", "oci:TMP/x", "--target", "nonsense"], 2, "not a target"),
        (["push", "SOURCE", "oci:TMP/x", "--target", "linux/amd64+cuda13"], 4, "targets there"),
        (["push", "SOURCE", "oci:TMP/x", "--also", "nonsense"], 2, "model-runner"),
        (["push", "SOURCE", "oci:TMP/x:y", "--also", "model-runner"], 3, "bundle"),
        (["push", "SOURCE", "oci:TMP/x:y", "--mount-from", "a/b"], 2, "only registries"),
        (["copy", "SOURCE", "oci-archive:TMP/x.tar"], 2, "can only be read"),
        (["copy", "oci:TMP/nowhere", "oci:TMP/x"], 4, "oci-layout"),
        (["index", "oci:TMP/x", "sha256:00"], 2, "names no tag"),
        (["index", "oci:TMP/x:y", "sha256:00"], 3, "sha256:00"),
        (["index", "oci:TMP/x:y"], 2, "MEMBER"),
    ],
)
def test_wrong_usage_is_named(tmp_path: Path, arguments: list[str], status: int, text: str) -> None:
    layout = LayoutStore(tmp_path / "layout", create=True)
    write_bundles(layout, "tiny-1.0", BUNDLES)
    named = [part.replace("SOURCE", f"oci:{layout.path}").replace("TMP", str(tmp_path)) for part in arguments]
    ran = run(*named)
    assert (ran.returncode, text in ran.stderr) == (status, True), ran.stderr


def test_copy_says_what_it_did(plain_registry: RealRegistry, repository: str, tmp_path: Path) -> None:
    layout = LayoutStore(tmp_path / "layout", create=True)
    write_bundles(layout, "tiny-1.0", BUNDLES)
    insecure = ["--insecure-registry", plain_registry.host]
    place = f"docker://{plain_registry.host}/{repository}"
    pushed = run("push", *insecure, f"oci:{layout.path}", f"{place}:1.0")
    assert "10 papers" in pushed.stdout
    copied = run("copy", *insecure, f"{place}:1.0", f"{place}-stable:1.0")
    assert copied.returncode == 0, copied.stderr
    assert "0 blobs sent (0 B), 11 mounted" in copied.stdout, copied.stdout
    narrow = run("copy", *insecure, f"{place}-stable:1.0", f"oci:{tmp_path}/one:x", "--target", ARM, "--no-papers")
    assert "3 blobs sent" in narrow.stdout
    assert "papers" not in narrow.stdout
    assert run("copy", *insecure, f"{place}:1.0", f"oci:{tmp_path}/one:x").returncode == 8
    assert run("copy", *insecure, f"{place}:1.0", f"oci:{tmp_path}/one:x", "--overwrite").returncode == 0


@pytest.mark.parametrize("command", ["push", "copy", "index"])
def test_help_teaches_with_an_example(command: str) -> None:
    ran = run(command, "--help")
    assert ran.returncode == 0
    assert f"mr-bundle {command} " in ran.stdout
    assert "docker://registry.example/" in ran.stdout
