"""All three papers of small bundles: valid, complete, and the same bytes whatever the order or the machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL

from mr_bundler.lock.lock import LockedWheel, VcsPin
from mr_bundler.papers.component import Component
from mr_bundler.papers.coverage import read_owners
from mr_bundler.papers.kinds import PAPER_KINDS
from mr_bundler.papers.licence_table import show_licences
from mr_bundler.recipe.recipe import Recipe
from mr_core.errors import BuildError, InvalidInputError, UnsupportedError
from mr_core.file_manifest import FileEntry
from support.papers import (
    PIN,
    SITE,
    SUBJECT,
    check_sbom,
    config_of,
    distribution,
    file_entry,
    own_component,
    papers_of,
    small_lock,
    small_recipe,
    standalone,
)

COMMIT = "254d153fdeb6f150edd4fc5a54f9828638481fa8"


def wheel(name: str, **fields: Any) -> LockedWheel:
    stem = name.replace("-", "_")
    return LockedWheel(name=name, version="1.0", file=f"{stem}-1.0-py3-none-any.whl", sha256="a" * 64, **fields)


WHEELS = (
    wheel("tiny-server"),
    wheel("tiny-kernels", url="https://example.org/files/tiny_kernels-1.0-py3-none-any.whl"),
    wheel("from-git", vcs=VcsPin(url="https://example.org/from-git", commit=COMMIT, subdirectory="python")),
    wheel("from-disk", url="file:///home/somebody/from_disk-1.0-py3-none-any.whl"),
)


def components() -> list[Component]:
    return [
        distribution(
            "tiny-server",
            "tiny_server-1.0.dist-info/licenses/LICENSE",
            requires=["tiny-kernels", "from-git", "from-disk", "torch"],
            licence="MIT",
            licence_source="License",
            stated="MIT License",
            links=(("vcs", "https://example.org/x.git"), ("website", "https://example.org/")),
            author="Ann Author",
            summary="A tiny server",
        ),
        distribution("tiny-kernels", "tiny_kernels.libs/libgomp-24e2ab19.so.1", stated="BSD License"),
        distribution("from-git", licence="LicenseRef-NVIDIA-Proprietary", licence_source="Classifier"),
        distribution("from-disk", "from_disk.libs/libgomp-24e2ab19.so.1"),
        Component(
            kind="interpreter",
            name="python",
            entries=[file_entry(path) for path in ("bin/python3.12", "lib/libssl.so.3", "lib/libcrypto.so.3")],
        ),
        Component(kind="prebuild", name="kernels", entries=[file_entry(f"{SITE}/kernels/a.metallib")]),
        own_component(),
    ]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path / "recipe")


def test_the_sbom_is_valid_and_says_who_is_who(recipe: Recipe) -> None:
    papers = papers_of(recipe, components(), small_lock(recipe, *WHEELS))
    document = check_sbom(papers["sbom"].content)
    found = {item["bom-ref"]: item for item in document["components"]}
    assert {reference: item["type"] for reference, item in found.items()} == {
        "pkg:pypi/tiny-server@1.0": "library",
        "pkg:pypi/from-disk@1.0": "library",
        f"pkg:pypi/from-git@1.0?vcs_url=git%2Bhttps:%2F%2Fexample.org%2Ffrom-git%40{COMMIT}": "library",
        f"pkg:pypi/tiny-kernels@1.0?checksum=sha256:{'a' * 64}&download_url="
        "https:%2F%2Fexample.org%2Ffiles%2Ftiny_kernels-1.0-py3-none-any.whl": "library",
        f"pkg:generic/cpython@3.12.14?checksum=sha256:{PIN.sha256}&download_url="
        "https:%2F%2Fexample.org%2F20260814%2Fcpython-3.12.14%252B20260814-x86_64-unknown-linux-gnu-"
        "install_only_stripped.tar.gz": "platform",
        "library:openssl": "library",
        "prebuild:kernels": "library",
    }
    server = found["pkg:pypi/tiny-server@1.0"]
    assert server["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert server["licenses"] == [{"expression": "MIT", "acknowledgement": "declared"}]
    properties = {item["name"]: item["value"] for item in server["properties"]}
    assert properties["mr-backends:absent-requirement"] == "torch"
    assert properties["mr-backends:wheel"] == "tiny_server-1.0-py3-none-any.whl"
    kernels = next(item for reference, item in found.items() if "tiny-kernels" in reference)
    assert kernels["licenses"] == [{"license": {"name": "BSD License", "acknowledgement": "declared"}}]
    assert [item["bom-ref"] for item in kernels["components"]] == ["library:tiny-kernels/libgomp"]
    library = file_entry(f"{SITE}/tiny_kernels.libs/libgomp-24e2ab19.so.1")
    assert kernels["components"][0]["hashes"] == [{"alg": "SHA-256", "content": library.sha256}]
    depends = {item["ref"]: item["dependsOn"] for item in document["dependencies"]}
    assert len(depends["pkg:pypi/tiny-server@1.0"]) == 3
    assert "pkg:pypi/tiny-server@1.0" in depends["bundle"]
    references = {
        "bundle",
        *found,
        *(inner["bom-ref"] for item in found.values() for inner in item.get("components", [])),
    }
    assert set(depends) == references
    assert all(set(others) <= references for others in depends.values())


def test_every_file_stands_in_the_sbom_once(recipe: Recipe) -> None:
    parts = components()
    papers = papers_of(recipe, parts, small_lock(recipe, *WHEELS))
    owners = read_owners(papers["sbom"].content)
    expected = {entry.path for part in parts for entry in part.entries} | {".mr/files.jsonl", ".mr/bundle.json"}
    assert set(owners) == expected
    assert owners["lib/libssl.so.3"] == "library:openssl"
    assert owners["bin/mr-serve"] == owners[".mr/files.jsonl"] == "bundle"
    root = json.loads(papers["sbom"].content)["metadata"]["component"]
    stated = {item["name"]: item["value"] for item in root["properties"]}
    assert stated["mr-backends:files"] == str(len(owners))
    assert stated["mr-backends:files-digest"] == str(config_of(recipe, parts).contents.digest)
    assert root["hashes"][0]["content"] == SUBJECT.digest.hex


def test_package_urls_are_canonical(recipe: Recipe) -> None:
    document = check_sbom(papers_of(recipe, components(), small_lock(recipe, *WHEELS))["sbom"].content)
    addresses = [item["purl"] for item in document["components"] if "purl" in item]
    assert len(addresses) == 5
    for text in [*addresses, document["metadata"]["component"]["purl"]]:
        parsed = PackageURL.from_string(text)
        assert PackageURL.from_string(parsed.to_string()) == parsed
        if parsed.type == "generic":
            assert parsed.qualifiers["download_url"] == PIN.url


def test_files_that_do_not_add_up_are_refused(recipe: Recipe) -> None:
    parts = components()
    lock = small_lock(recipe, *WHEELS)
    config = config_of(recipe, parts)
    for wrong in (
        parts[1:],
        [*parts, parts[0]],
        [*parts, Component(kind="prebuild", name="x", entries=parts[0].entries)],
    ):
        with pytest.raises(BuildError, match=r"Cannot write the SBOM: components own [0-9]+ files"):
            papers_of(recipe, wrong, lock, config=config)
    swapped = [replace(parts[0], entries=[*parts[0].entries[1:], parts[1].entries[0]]), *parts[1:]]
    with pytest.raises(BuildError, match="of them different"):
        papers_of(recipe, swapped, lock, config=config)


def test_neither_order_nor_machine_changes_a_byte(recipe: Recipe, tmp_path: Path) -> None:
    lock = small_lock(recipe, *WHEELS)
    first = papers_of(recipe, components(), lock)
    shuffled = [
        replace(part, entries=random.Random(3).sample(part.entries, len(part.entries))) for part in components()
    ]
    random.Random(4).shuffle(shuffled)
    elsewhere = replace(standalone(), prefix=tmp_path, identity="other")
    second = papers_of(
        small_recipe(tmp_path / "another"),
        shuffled,
        lock,
        interpreter=elsewhere,
        config=config_of(recipe, components()),
    )
    assert {kind: paper.content for kind, paper in first.items()} == {
        kind: paper.content for kind, paper in second.items()
    }
    everything = b"".join(paper.content for paper in first.values())
    for telling in (str(tmp_path).encode(), b"/somewhere", b"/home/somebody"):
        assert telling not in everything


def test_another_bundle_has_another_serial_number(recipe: Recipe) -> None:
    lock = small_lock(recipe, *WHEELS)
    numbers = {
        json.loads(papers_of(recipe, components(), lock, subject=subject)["sbom"].content)["serialNumber"]
        for subject in (SUBJECT, SUBJECT, replace(SUBJECT, digest=replace(SUBJECT.digest, hex="0" * 64)))
    }
    assert len(numbers) == 2


def check_descriptor(value: dict[str, Any]) -> None:
    """Check a ResourceDescriptor v1 as its protobuf definition has it: known names, plain digests, some identity."""
    assert set(value) <= {"uri", "digest", "name", "downloadLocation", "mediaType", "content", "annotations"}
    assert value.get("uri") or value.get("digest") or value.get("content")
    for key in ("uri", "name", "downloadLocation", "mediaType"):
        assert isinstance(value.get(key, ""), str)
        assert value.get(key) != ""
    for algorithm, digest in value.get("digest", {}).items():
        length = {"sha256": 64, "gitCommit": 40}[algorithm]
        assert re.fullmatch(rf"[0-9a-f]{{{length}}}", digest)
    if "downloadLocation" in value:
        assert value["downloadLocation"].startswith(("https://", "git+https://"))


def check_statement(value: dict[str, Any]) -> dict[str, Any]:
    """Check an in-toto Statement v1 with SLSA provenance v1, and return its predicate."""
    assert set(value) == {"_type", "subject", "predicateType", "predicate"}
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    for subject in value["subject"]:
        check_descriptor(subject)
        assert subject["digest"]
    predicate: dict[str, Any] = value["predicate"]
    assert set(predicate) == {"buildDefinition", "runDetails"}
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    required = {"buildType", "externalParameters"}
    assert required <= set(definition) <= required | {"internalParameters", "resolvedDependencies"}
    assert {"builder"} <= set(details) <= {"builder", "metadata", "byproducts"}
    assert set(details["builder"]) <= {"id", "version", "builderDependencies"}
    for uri in (definition["buildType"], details["builder"]["id"]):
        assert re.fullmatch(r"[a-z][a-z0-9+.-]*:\S+", uri)
    assert all(isinstance(text, str) for pair in details["builder"]["version"].items() for text in pair)
    for descriptor in (*definition["resolvedDependencies"], *details.get("byproducts", [])):
        check_descriptor(descriptor)
    return predicate


def test_provenance_names_every_input_with_its_digest(recipe: Recipe) -> None:
    lock = small_lock(recipe, *WHEELS)
    statement = json.loads(papers_of(recipe, components(), lock)["provenance"].content)
    predicate = check_statement(statement)
    assert statement["subject"] == [
        {"name": "tiny-1.0 linux/amd64+cpu", "digest": {"sha256": SUBJECT.digest.hex}},
    ]
    parameters = predicate["buildDefinition"]["externalParameters"]
    assert parameters["recipe"] == {"sha256": hashlib.sha256(recipe.raw).hexdigest()}
    assert parameters["lock"] == {"sha256": hashlib.sha256(lock.dump()).hexdigest()}
    inputs = {item["name"]: item for item in predicate["buildDefinition"]["resolvedDependencies"]}
    assert set(inputs) == {
        "recipe.toml",
        "lock.toml",
        PIN.file,
        *(item.file for item in WHEELS),
        "from-git (source)",
    }
    assert inputs[PIN.file]["downloadLocation"] == PIN.url
    assert all(inputs[item.file]["digest"] == {"sha256": item.sha256} for item in WHEELS)
    assert inputs["from-git (source)"] == {
        "name": "from-git (source)",
        "uri": f"git+https://example.org/from-git@{COMMIT}",
        "digest": {"gitCommit": COMMIT},
        "annotations": {"subdirectory": "python"},
    }


def test_provenance_of_a_relocated_python_does_not_name_the_archive_it_did_not_use(recipe: Recipe) -> None:
    host = replace(standalone("3.12.1"), source="host", identity=f"cpython 3.12.1 (host) {'c' * 64}")
    papers = papers_of(recipe, components(), small_lock(recipe, *WHEELS), interpreter=host)
    predicate = check_statement(json.loads(papers["provenance"].content))
    found = [item for item in predicate["buildDefinition"]["resolvedDependencies"] if "cpython" in item["name"]]
    assert found == [
        {"name": "cpython 3.12.1 (host)", "uri": "pkg:generic/cpython@3.12.1", "digest": {"sha256": "c" * 64}}
    ]
    assert "pkg:generic/cpython@3.12.1" in [
        item["bom-ref"] for item in check_sbom(papers["sbom"].content)["components"]
    ]


def test_the_licence_report_counts_and_names_the_unknown(recipe: Recipe) -> None:
    lock = small_lock(recipe, *WHEELS)
    recipe = dataclasses.replace(recipe, licences={"from-disk": "0BSD"})
    content = papers_of(recipe, components(), lock)["licences"].content
    report = json.loads(content)
    assert report["counts"] == {"MIT": 1, "UNKNOWN": 1, "LicenseRef-NVIDIA-Proprietary": 1, "0BSD": 1}
    assert report["unknown"] == ["tiny-kernels"]
    server = next(item for item in report["distributions"] if item["name"] == "tiny-server")
    assert server["files"] == [f"{SITE}/tiny_server-1.0.dist-info/licenses/LICENSE"]
    assert [(item["name"], item.get("in", "")) for item in report["libraries"]] == [
        ("openssl", ""),
        ("libgomp", "from-disk"),
        ("libgomp", "tiny-kernels"),
    ]
    shown = show_licences(content).splitlines()
    assert shown[0] == "tiny 1.0 for linux/amd64+cpu"
    assert shown[-1] == "unknown: tiny-kernels"
    assert any(re.fullmatch(r"tiny-kernels +1\.0 +UNKNOWN +says: BSD License", line) for line in shown)
    assert any(re.fullmatch(r"from-disk +1\.0 +0BSD +recipe", line) for line in shown)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", InvalidInputError),
        (b"[]", InvalidInputError),
        (b'{"format":1}', InvalidInputError),
        (b'{"format":2}', UnsupportedError),
    ],
)
def test_reports_that_cannot_be_shown(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="Cannot read licence report"):
        show_licences(content)


def test_a_hostile_report_is_shown_without_escapes() -> None:
    item = {"name": "\x1b[31mx", "version": "1", "licence": "\u202e", "source": "", "stated": "", "files": []}
    report = {
        "format": 1, "backend": "b\x07", "version": "1", "target": "t", "distributions": [item], "interpreter": [],
        "libraries": [], "counts": {"\x1b": 1}, "unknown": ["\x9b"],
    }  # fmt: skip
    assert all(line.isprintable() for line in show_licences(json.dumps(report).encode()).split("\n"))


def test_every_kind_has_its_own_type(recipe: Recipe) -> None:
    papers = papers_of(recipe, components(), small_lock(recipe, *WHEELS))
    assert {kind: paper.artifact_type for kind, paper in papers.items()} == dict(PAPER_KINDS)
    assert papers["provenance"].annotations == {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}


def test_a_bundle_of_vllms_size_has_papers_of_a_sensible_size(recipe: Recipe) -> None:
    """198 distributions and 58,000 files with paths as long as those of torch and nvidia wheels (74 letters)."""
    parts: list[Component] = [own_component()]
    for number in range(198):
        name = f"distribution-{number:03}"
        entries = [
            FileEntry(
                path=f"{SITE}/{name}/include/module/inner/header_{index:05}.h", mode=0o644, size=1, sha256="b" * 64
            )
            for index in range(294)
        ]
        parts.append(replace(distribution(name), entries=entries))
    assert sum(len(part.entries) for part in parts) > 58_000
    papers = papers_of(recipe, parts, small_lock(recipe))
    assert len(papers["sbom"].content) < 8_000_000
    assert len(read_owners(papers["sbom"].content)) == config_of(recipe, parts).contents.count + 2
    assert len(papers["provenance"].content) < 200_000
    assert len(papers["licences"].content) < 200_000
