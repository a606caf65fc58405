"""``mr-bundle push --also model-runner`` writes the image of the existing host daemon beside the bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mr_bundler.cache import LOCK
from mr_core.errors import NotFoundError
from mr_core.flock import try_lock
from mr_core.manifest import LAYER_COMPRESSION, Index, Manifest, parse_document
from support.bundles import GOOD, Bundles, build_small_bundles
from support.registry import RealRegistry
from support.remote_blob import connect
from support.small_image import small_image
from support.wire import FaultProxy


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    return build_small_bundles(shared / "small-bundles")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of every command here; temporary files of their own would lie in ``scratch`` beside it."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("MR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def command(source: str, place: str, host: str, *arguments: str) -> list[str]:
    start = [sys.executable, "-c", "from mr_bundler.cli import run; run()", "push", "--insecure-registry", host]
    return [*start, source, place, "--also", "model-runner", *arguments]


def push(bundles: Bundles, place: str, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = command(bundles.source(GOOD), place, host, *arguments)
    return subprocess.run(whole, capture_output=True, text=True, check=False)


def test_both_images_are_there_afterwards(bundles: Bundles, plain_registry: RealRegistry, repository: str) -> None:
    place = f"docker://{plain_registry.host}/{repository}"
    ran = push(bundles, f"{place}:1.0", plain_registry.host, "--json")
    assert ran.returncode == 0, ran.stdout
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["model_runner"]["name"] == "tiny-1.0"
    assert result["model_runner"]["blobs_pushed"] > 0
    assert result["model_runner"]["bytes_pushed"] > 0
    remote = connect(plain_registry.host, repository)
    assert str(remote.resolve("1.0").digest) == result["digest"]
    runner = remote.resolve("tiny-1.0")
    assert str(runner.digest) == result["model_runner"]["digest"]
    index = parse_document(remote.read_document(runner))
    assert isinstance(index, Index)
    manifest = parse_document(remote.read_document(index.manifests[0]))
    assert isinstance(manifest, Manifest)
    assert {LAYER_COMPRESSION[layer.media_type] for layer in manifest.layers} == {"gzip"}
    assert all(remote.has_blob(layer) for layer in manifest.layers)
    again = push(bundles, f"{place}:1.0", plain_registry.host)
    assert again.returncode == 0, again.stderr
    assert "0 blobs sent" in again.stdout
    assert "tiny-1.0: image for the model runner" in again.stdout
    assert again.stdout.splitlines()[-1].strip() == "was there already"
    remote.close()


def test_the_second_image_has_its_own_count(bundles: Bundles, plain_registry: RealRegistry, repository: str) -> None:
    place = f"docker://{plain_registry.host}/{repository}"
    first = push(bundles, f"{place}:1.0", plain_registry.host)
    counts = [line for line in first.stdout.splitlines() if "blobs sent" in line]
    assert len(counts) == 2, first.stdout
    assert not any(line.strip().startswith("0 blobs") for line in counts)


def test_a_failed_rewrite_says_that_the_bundle_is_there(
    bundles: Bundles, plain_registry: RealRegistry, repository: str, cache: Path
) -> None:
    cache.write_text("no directory")
    place = f"docker://{plain_registry.host}/{repository}:1.0"
    ran = push(bundles, place, plain_registry.host)
    assert ran.returncode == 9, ran.stderr
    assert f"the bundle itself is published as `{place}`" in ran.stderr
    remote = connect(plain_registry.host, repository)
    assert str(remote.resolve("1.0").digest) in ran.stderr
    remote.close()


def test_the_two_tags_must_differ(bundles: Bundles, plain_registry: RealRegistry, repository: str) -> None:
    ran = push(bundles, f"docker://{plain_registry.host}/{repository}:tiny-1.0", plain_registry.host)
    assert ran.returncode == 2
    assert "has that tag" in ran.stderr
    remote = connect(plain_registry.host, repository)
    with pytest.raises(NotFoundError):
        remote.resolve("tiny-1.0")
    remote.close()


def test_an_unused_directory_is_not_needed(bundles: Bundles, tmp_path: Path) -> None:
    ran = push(bundles, f"oci:{tmp_path}/x:1.0", "127.0.0.1:1")
    assert ran.returncode == 0, ran.stderr
    assert sorted(place.name for place in tmp_path.iterdir()) == ["cache", "scratch", "x"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_tag_that_means_something_else_is_known_before_anything_is_sent(
    bundles: Bundles, plain_registry: RealRegistry, proxy: FaultProxy, repository: str
) -> None:
    remote = connect(plain_registry.host, repository)
    theirs = small_image("theirs")
    theirs.write(remote, "tiny-1.0")
    place = f"docker://{proxy.host}/{repository}:1.0"
    ran = push(bundles, place, proxy.host)
    assert ran.returncode == 8, ran.stderr
    assert "`tiny-1.0`" in ran.stderr
    assert "--overwrite" in ran.stderr
    assert (proxy.count("POST"), proxy.count("PUT")) == (0, 0)
    with pytest.raises(NotFoundError):
        remote.resolve("1.0")
    assert push(bundles, place, proxy.host, "--overwrite").returncode == 0
    assert remote.resolve("tiny-1.0").digest != theirs.index_descriptor.digest
    remote.close()


def test_a_killed_push_leaves_nothing_that_the_next_does_not_remove(
    bundles: Bundles, plain_registry: RealRegistry, proxy: FaultProxy, repository: str, cache: Path
) -> None:
    """The rewritten layers lie in the cache, and the cache cannot be pruned while they do."""
    place = f"docker://{proxy.host}/{repository}:1.0"
    running: list[subprocess.Popen[str]] = []
    locked: list[bool] = []

    def strike(moment: str, number: int) -> None:
        upload = (proxy.seen[number - 1].method, moment) == ("POST", "answered")
        if upload and list(cache.glob("tmp/*/model-runner-*/*")) and not locked:
            locked.append(try_lock(cache / LOCK) is None)
            running[0].kill()

    proxy.watch = strike
    whole = command(bundles.source(GOOD), place, proxy.host)
    running.append(subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True))
    assert running[0].wait(60) == -9
    assert locked == [True]
    (left,) = cache.glob("tmp/mr-build-*")
    again = push(bundles, place, proxy.host)
    assert again.returncode == 0, again.stderr
    assert not left.exists()
    assert list((cache / "tmp").iterdir()) == []
    assert list(cache.with_name("scratch").iterdir()) == []
