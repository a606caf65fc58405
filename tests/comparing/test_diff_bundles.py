"""``mr-bundle diff`` of bundles: what a client that has one fetches for the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.build import BuildResult
from mr_bundler.lock.lock import lock_path
from mr_core.platform import Target
from support.building import HERE, SERVER, Builder
from support.command import Ran
from support.published import Published
from support.registry import RealRegistry
from support.retouch import retouch
from support.wheels import Wheel

pytestmark = pytest.mark.xdist_group("comparing")
LARGE = Wheel(name="large", files={"large/__init__.py": "", "large/weights.bin": bytes(range(256)) * (40 << 10)})


def licensed(wheel: Wheel, licence: str) -> Wheel:
    """Return the wheel with a licence in its metadata."""
    text = f"Metadata-Version: 2.4\nName: {wheel.name}\nVersion: {wheel.version}\nLicense-Expression: {licence}\n"
    return replace(wheel, metadata=text)


@pytest.fixture
def versions(builder: Builder) -> tuple[BuildResult, BuildResult]:
    old = builder.build(
        LARGE, licensed(Wheel(name="part", version="1.0", files={"part/__init__.py": "x = 1\n"}), "MIT"),
        Wheel(name="gone", files={"gone.py": ""}),
    )  # fmt: skip
    new = builder.build(
        LARGE, licensed(Wheel(name="part", version="1.1", files={"part/__init__.py": "xyz = 1\n"}), "Apache-2.0"),
        replace(SERVER, version="1.1"),
    )  # fmt: skip
    return old, new


def blobs_of(layout: Path, result: BuildResult) -> dict[str, int]:
    """Return size by digest of everything an installer fetches."""
    manifest = json.loads((layout / "blobs" / "sha256" / result.digest.hex).read_bytes())
    return {blob["digest"]: blob["size"] for blob in (manifest["config"], *manifest["layers"])}


def test_two_versions(
    mr_bundle: Callable[..., Ran], builder: Builder, versions: tuple[BuildResult, BuildResult]
) -> None:
    old, new = versions
    places = [f"oci:{builder.layout}:{result.ref_name}" for result in versions]
    told = mr_bundle("diff", *places, "--json", "--check")
    assert told.status == 3, told.output
    found: dict[str, Any] = told.outcome
    have, want = blobs_of(builder.layout, old), blobs_of(builder.layout, new)
    assert found["fetch_bytes"] == sum(size for digest, size in want.items() if digest not in have)
    assert found["fetch_share"] == round(found["fetch_bytes"] / sum(want.values()), 4)
    assert 0 < found["fetch_share"] < 0.2
    assert {layer["name"] for layer in found["layers"]["shared"]} >= {"interpreter", "large"}
    assert [(item["name"], item["direction"]) for item in found["distributions"]] == [
        ("gone", "removed"),
        ("part", "newer"),
        ("tiny-server", "newer"),
    ]
    assert found["licences"] == [
        {"name": "gone", "old": "UNKNOWN", "new": ""},
        {"name": "part", "old": "MIT", "new": "Apache-2.0"},
    ]
    part = found["distributions"][1]
    assert part["new_bytes"] > part["old_bytes"] > 0
    assert [item["name"] for item in found["fields"]] == ["version"]
    assert found["installed_bytes"] == {"old": old.installed_bytes, "new": new.installed_bytes}
    assert found["files"]["same"] > 500
    assert found["unsaid"] == []
    shown = mr_bundle("diff", *places)
    assert shown.status == 0
    assert "a client that has A fetches" in shown.output
    assert "~ part 1.0 -> 1.1 (" in shown.output
    assert "part: MIT -> Apache-2.0" in shown.output
    assert mr_bundle("diff", places[0], places[0], "--check").output == "no difference\n"


def test_the_host_and_the_launch(mr_bundle: Callable[..., Ran], published: Published) -> None:
    builder, built = published.builder, published.built

    def label(value: dict[str, Any]) -> None:
        value["requires"]["glibc"] = "2.39"
        value["launch"]["options"]["model"] = "--model"
        value["license"] = "Apache-2.0"

    retouch(builder.layout, built.ref_name, label=label, new_name="relabelled")
    ran = mr_bundle("diff", f"oci:{builder.layout}:{built.ref_name}", f"oci:{builder.layout}:relabelled")
    assert "  launch.options.model: positional -> --model" in ran.output
    assert "  license: MIT -> Apache-2.0" in ran.output
    assert "  requires.glibc: 2.36 -> 2.39" in ran.output
    assert "\ndistributions\n" not in ran.output
    assert "not known: licences and sizes" in ran.output  # the copy has no papers


def test_a_lock_and_a_bundle(mr_bundle: Callable[..., Ran], builder: Builder) -> None:
    recipe = builder.recipe()
    built = builder.build(Wheel(name="part", files={"part.py": ""}))
    lock = builder.lock(recipe, [SERVER, Wheel(name="part", version="2.0", files={"part.py": ""})])
    lock_path(recipe, HERE).write_bytes(lock.dump())
    ran = mr_bundle("diff", f"oci:{builder.layout}:{built.ref_name}", recipe.directory, "--json")
    assert ran.status == 0, ran.output
    assert [(item["name"], item["old"], item["new"]) for item in ran.outcome["distributions"]] == [
        ("part", "1.0", "2.0")
    ]
    assert {item["name"] for item in ran.outcome["fields"]} <= {"python", "requires.glibc"}


def test_an_index_of_several_targets_and_a_registry(
    mr_bundle: Callable[..., Ran], builder: Builder, tmp_path: Path
) -> None:
    other = f"{HERE.platform}+cuda13"
    builder = replace(builder, targets=(f"{HERE}", other))
    builder.build()
    built = builder.build(target=Target.parse(other))
    place = f"oci:{builder.layout}:{built.ref_name}"
    refused = mr_bundle("diff", place, place)
    assert refused.status == 2
    assert other in refused.errors
    assert mr_bundle("diff", place, place, "--target", "darwin/arm64+metal").status == 4
    with RealRegistry(root=tmp_path / "registry") as registry:
        remote = f"docker://{registry.host}/bundles/tiny:1.0"
        insecure = ("--insecure-registry", registry.host)
        assert mr_bundle("push", place, remote, *insecure).status == 0
        same = mr_bundle("diff", place, remote, "--target", other, *insecure)
        assert (same.status, same.output) == (0, "no difference\n")
        by_digest = f"docker://{registry.host}/bundles/tiny@{built.digest}"
        told = mr_bundle("diff", by_digest, remote, "--target", other, "--json", *insecure)
        assert told.outcome["different"] is False
