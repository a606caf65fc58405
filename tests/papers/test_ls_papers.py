"""``mr-bundle ls``: bundles and their papers in layouts and a real registry, and one paper printed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.listing import choose_bundle, list_bundles, list_papers, read_paper
from mr_bundler.papers.papers import Paper
from mr_core.bundle_config import ANNOTATION_BACKEND, ANNOTATION_BYTES, ANNOTATION_TARGET
from mr_core.digest import Digest
from mr_core.errors import InvalidInputError, NotFoundError, UsageError
from mr_core.layout import LayoutStore
from mr_core.manifest import (
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    Manifest,
    make_index,
    make_manifest,
    parse_document,
)
from mr_core.memory import BytesStream
from mr_core.platform import Target
from mr_core.referrers import attach
from mr_core.store import Store
from support.need import need
from support.papers import check_sbom, distribution, own_component, papers_of, small_lock, small_recipe
from support.registry import RealRegistry
from support.remote_blob import connect
from support.small_image import small_image

TARGETS = ("linux/amd64+cpu", "linux/amd64+cuda13")


def write_bundle(store: Store, name: str, target: str, papers: dict[str, Paper]) -> Descriptor:
    """Write an image that looks like a bundle for ``target``, with its papers, and return its entry."""
    image = small_image(f"{name} {target}")
    for descriptor, content in image.blobs:
        store.put_blob(descriptor, BytesStream(content))
    bare = parse_document(image.manifest)
    assert isinstance(bare, Manifest)
    notes = {ANNOTATION_BACKEND: "tiny", ANNOTATION_TARGET: target, ANNOTATION_BYTES: "1000"}
    raw = make_manifest(bare.config, bare.layers, notes).raw
    store.put_document(raw, MEDIA_MANIFEST)
    entry = Descriptor(
        media_type=MEDIA_MANIFEST,
        digest=Digest.of(raw),
        size=len(raw),
        annotations=notes,
        platform=Target.parse(target).platform,
    )
    for paper in papers.values():
        attach(
            store,
            entry,
            artifact_type=paper.artifact_type,
            media_type=paper.media_type,
            content=paper.content,
            annotations=paper.annotations,
        )
    return entry


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, Paper]:
    recipe = small_recipe(tmp_path / "recipe")
    parts = [
        distribution("tiny-server", licence="MIT", licence_source="License", summary="caf\u00e9 \x9b[31m"),
        own_component(),
    ]
    return papers_of(recipe, parts, small_lock(recipe))


def write_versions(store: Store, papers: dict[str, Paper]) -> None:
    """Write one version with two targets, and one that is a single manifest without papers."""
    entries = [write_bundle(store, "tiny-1.0", target, papers) for target in TARGETS]
    store.put_document(make_index(tuple(entries), {}).raw, MEDIA_INDEX, name="tiny-1.0")
    single = write_bundle(store, "tiny-2.0", TARGETS[0], {})
    raw = store.read_document(single)
    store.put_document(raw, MEDIA_MANIFEST, name="tiny-2.0")


@pytest.fixture
def layout(tmp_path: Path, papers: dict[str, Paper]) -> LayoutStore:
    store = LayoutStore(tmp_path / "layout", create=True)
    write_versions(store, papers)
    return store


@pytest.fixture(scope="module")
def registry() -> Iterator[RealRegistry]:
    with RealRegistry() as running:
        yield running


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [need("mr-bundle"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def outcome(*arguments: str) -> dict[str, Any]:
    ran = run(*arguments, "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    last: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    found: dict[str, Any] = last
    return found


def test_many_versions_are_listed_and_papers_are_no_bundles(layout: LayoutStore) -> None:
    found = [(bundle.name, bundle.target) for bundle in list_bundles(layout, "")]
    assert found == [("tiny-1.0", TARGETS[0]), ("tiny-1.0", TARGETS[1]), ("tiny-2.0", TARGETS[0])]
    index = (layout.path / "index.json").read_text()
    assert '"sha256-' in index  # the lists of papers have names there
    assert {bundle.installed_bytes for bundle in list_bundles(layout, "tiny-2.0")} == {1000}


def test_a_digest_is_listed_under_itself(layout: LayoutStore) -> None:
    bundle = list_bundles(layout, "tiny-1.0")[1]
    found = [(found.name, found.target) for found in list_bundles(layout, bundle.digest)]
    assert found == [(bundle.digest, TARGETS[1])]
    paper = list_papers(layout, list_bundles(layout, "tiny-1.0")[0])[0]
    assert list_bundles(layout, paper.digest) == []


def test_attestations_of_other_builders_are_no_bundles(layout: LayoutStore) -> None:
    first = list_bundles(layout, "tiny-2.0")[0]
    raw = layout.read_document(layout.resolve(first.digest))
    known = {"mediaType": MEDIA_MANIFEST, "digest": first.digest, "size": len(raw)}
    entries = [
        {**known, "platform": {"os": "linux", "architecture": "amd64"}},
        {**known, "platform": {"os": "unknown", "architecture": "unknown"}},
        known,
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": entries}).encode()
    layout.put_document(index, MEDIA_INDEX, name="foreign")
    assert len(list_bundles(layout, "foreign")) == 1


def test_endless_indexes_are_refused(layout: LayoutStore) -> None:
    raw = make_index((), {}).raw
    for depth in range(6):
        inner = {"mediaType": MEDIA_INDEX, "digest": str(Digest.of(raw)), "size": len(raw)}
        inner["platform"] = {"os": "linux", "architecture": "amd64"}
        layout.put_document(raw, MEDIA_INDEX, name=f"nested-{depth}")
        raw = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [inner]}).encode()
    assert list_bundles(layout, "nested-2") == []
    with pytest.raises(InvalidInputError, match="nested"):
        list_bundles(layout, "nested-5")


def test_papers_are_listed_and_read(layout: LayoutStore, papers: dict[str, Paper]) -> None:
    first, second, bare = list_bundles(layout, "")
    listed = list_papers(layout, first)
    assert [(paper.kind, paper.size) for paper in listed] == [(kind, len(papers[kind].content)) for kind in papers]
    assert list_papers(layout, bare) == []
    assert read_paper(layout, second, "sbom") == papers["sbom"].content
    with pytest.raises(NotFoundError, match=r"Cannot find the paper `sbom` of `tiny-2\.0`"):
        read_paper(layout, bare, "sbom")


def test_papers_of_others_keep_their_type(layout: LayoutStore, papers: dict[str, Paper]) -> None:
    first = list_bundles(layout, "tiny-1.0")[0]
    subject = layout.resolve(first.digest)
    attach(layout, subject, artifact_type="application/vnd.example.signature", media_type="text/plain", content=b"x")
    other = {"in-toto.io/predicate-type": "https://example.org/test-result"}
    attach(
        layout,
        subject,
        artifact_type=papers["provenance"].artifact_type,
        media_type="application/vnd.in-toto+json",
        content=b"{}",
        annotations=other,
    )
    kinds = [paper.kind for paper in list_papers(layout, first)]
    assert kinds == ["sbom", "provenance", "licences", "application/vnd.example.signature", other.popitem()[1]]
    assert read_paper(layout, first, "provenance") == papers["provenance"].content
    attach(
        layout, subject, artifact_type=papers["sbom"].artifact_type, media_type=papers["sbom"].media_type, content=b"{}"
    )
    with pytest.raises(InvalidInputError, match="2 are attached"):
        read_paper(layout, first, "sbom")


def test_choosing_one_bundle(layout: LayoutStore) -> None:
    bundles = list_bundles(layout, "")
    assert choose_bundle(bundles, TARGETS[1], "x").target == TARGETS[1]
    assert choose_bundle(bundles[2:], "", "x").name == "tiny-2.0"
    with pytest.raises(UsageError, match="3 fit"):
        choose_bundle(bundles, "", "x")
    with pytest.raises(NotFoundError, match="Cannot find a bundle for `darwin/arm64\\+metal`"):
        choose_bundle(bundles, "darwin/arm64+metal", "x")


def test_the_command_on_a_layout(layout: LayoutStore, papers: dict[str, Paper]) -> None:
    place = f"oci:{layout.path}"
    assert run("ls", place).stdout.count("tiny-") == 3
    shown = run("ls", "--papers", place).stdout
    assert shown.count("sbom") == 2
    assert shown.count("no papers") == 1
    found = outcome("ls", "--papers", "--target", TARGETS[1], place)
    assert [bundle["target"] for bundle in found["bundles"]] == [TARGETS[1]]
    assert [paper["kind"] for paper in found["papers"]] == ["sbom", "provenance", "licences"]
    one = (f"{place}:tiny-1.0", "--target", TARGETS[0])
    printed = run("ls", "--show", "sbom", *one)
    assert all(line.isprintable() for line in printed.stdout.splitlines())
    assert json.loads(printed.stdout) == check_sbom(papers["sbom"].content)
    assert "caf\u00e9" in printed.stdout
    assert "tiny-server" in run("ls", "--show", "licences", *one).stdout
    assert outcome("ls", "--show", "licences", *one)["content"] == json.loads(papers["licences"].content)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--show", "sbom"), 2),
        (("--show", "sbom", "--target", "darwin/arm64+metal"), 4),
        (("--target", "nonsense"), 2),
        (("--papers", "--show", "sbom"), 2),
        (("--show", "nonsense"), 2),
    ],
)
def test_wrong_wishes(layout: LayoutStore, arguments: tuple[str, ...], status: int) -> None:
    ran = run("ls", *arguments, f"oci:{layout.path}")
    assert ran.returncode == status
    assert "Traceback" not in ran.stderr


def test_the_command_on_a_registry(registry: RealRegistry, papers: dict[str, Paper], tmp_path: Path) -> None:
    store = connect(registry.host, "papers/tiny")
    write_versions(store, papers)
    store.close()
    place = f"docker://{registry.host}/papers/tiny:tiny-1.0"
    found = outcome("ls", "--papers", "--insecure-registry", registry.host, place)
    assert len(found["papers"]) == 6
    shown = run("ls", "--show", "provenance", "--target", TARGETS[0], "--insecure-registry", registry.host, place)
    assert json.loads(shown.stdout) == json.loads(papers["provenance"].content)
