"""``mr-bundle push --also model-runner`` writes the image of the existing host daemon beside the bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mr_core.errors import NotFoundError
from mr_core.manifest import LAYER_COMPRESSION, Index, Manifest, parse_document
from support.bundles import GOOD, Bundles, build_small_bundles
from support.registry import RealRegistry
from support.remote_blob import connect


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    return build_small_bundles(shared / "small-bundles")


def push(bundles: Bundles, place: str, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from mr_bundler.cli import run; run()", "push", "--insecure-registry", host]
    command += [bundles.source(GOOD), place, "--also", "model-runner", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_both_images_are_there_afterwards(bundles: Bundles, plain_registry: RealRegistry, repository: str) -> None:
    place = f"docker://{plain_registry.host}/{repository}"
    ran = push(bundles, f"{place}:1.0", plain_registry.host, "--json")
    assert ran.returncode == 0, ran.stdout
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["model_runner"]["name"] == "tiny-1.0"
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
    assert sorted(place.name for place in tmp_path.iterdir()) == ["x"]
