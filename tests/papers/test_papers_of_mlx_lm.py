"""Papers of the real mlx-lm environment: its committed lock, its wheels, and a relocated Python of this machine."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mr_bundler.papers.component import Component
from mr_bundler.papers.coverage import check_ownership, read_owners
from mr_bundler.papers.licence_table import show_licences
from mr_bundler.papers.licences import licences_of
from mr_bundler.papers.papers import Paper
from mr_bundler.recipe.recipe import Recipe, load_recipe
from mr_core.platform import Platform
from support.papers import MLX_LM_RECIPE, MlxLm, check_sbom, config_of, own_component, papers_of

pytestmark = pytest.mark.skipif(
    Platform.host() != Platform("linux", "amd64"), reason="the real tree is that of linux/amd64"
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(MLX_LM_RECIPE)


@pytest.fixture(scope="module")
def components(mlx_lm: MlxLm) -> list[Component]:
    return [*mlx_lm.components(), own_component()]


@pytest.fixture(scope="module")
def papers(mlx_lm: MlxLm, recipe: Recipe, components: list[Component]) -> dict[str, Paper]:
    config = config_of(recipe, components, target=mlx_lm.lock.target, python=mlx_lm.interpreter.version)
    return papers_of(recipe, components, mlx_lm.lock, interpreter=mlx_lm.interpreter, config=config)


def test_the_parts_share_out_every_file(mlx_lm: MlxLm, components: list[Component]) -> None:
    check_ownership(components, [*mlx_lm.everything(), *own_component().entries])


def test_no_distribution_is_without_a_licence(components: list[Component]) -> None:
    licences = licences_of(components)
    assert len(licences) == 38
    assert [name for name, licence in licences.items() if not licence] == []
    assert licences["jinja2"] == "BSD-3-Clause"  # says "BSD License", and ships the text
    assert licences["tokenizers"] == "Apache-2.0"
    assert licences["tqdm"] == "MPL-2.0 AND MIT"


def test_the_sbom_is_valid_and_owns_every_file_once(
    papers: dict[str, Paper], components: list[Component], mlx_lm: MlxLm
) -> None:
    document = check_sbom(papers["sbom"].content)
    owners = read_owners(papers["sbom"].content)
    expected = {entry.path for part in components for entry in part.entries}
    assert set(owners) == expected | {".mr/files.jsonl", ".mr/bundle.json"}
    assert len(owners) > 5_000
    for wheel in mlx_lm.lock.packages:
        item = next(
            item for item in document["components"] if item["bom-ref"] == f"pkg:pypi/{wheel.name}@{wheel.version}"
        )
        assert item["hashes"] == [{"alg": "SHA-256", "content": wheel.sha256}]


def test_grafted_and_vendored_libraries_are_components(papers: dict[str, Paper], mlx_lm: MlxLm) -> None:
    owners = read_owners(papers["sbom"].content)
    grafted = [path for path in mlx_lm.interpreter_entries if path.startswith("lib/lib") and "libpython" not in path]
    assert grafted  # libssl and the like: no Python of a distribution brings them
    assert all(owners[path].startswith("library:") for path in grafted)
    assert owners["bin/python3.12"] == f"pkg:generic/cpython@{mlx_lm.interpreter.version}"
    openblas = [path for path in owners if "numpy.libs/" in path]
    assert openblas
    assert all(owners[path].startswith("library:numpy/") for path in openblas)


def test_requirements_are_followed(papers: dict[str, Paper]) -> None:
    document = json.loads(papers["sbom"].content)
    short = {item["bom-ref"]: item["name"] for item in document["components"]}
    depends = {
        short.get(item["ref"], item["ref"]): {short[ref] for ref in item["dependsOn"] if ref in short}
        for item in document["dependencies"]
    }
    assert {"mlx-lm", "mlx", "cpython"} <= depends["bundle"]
    assert {"numpy", "transformers", "jinja2"} <= depends["mlx-lm"]
    assert "mlx" not in depends["mlx-lm"]  # asked for on macOS only; on Linux the recipe asks for it
    assert "mlx-cpu" in depends["mlx"]  # only through the recipe's extra: mlx[cpu]
    assert depends["jinja2"] == {"markupsafe"}
    reached, todo = set(), ["bundle"]
    while todo:
        name = todo.pop()
        reached.add(name)
        todo += depends.get(name, set()) - reached
    assert {item["name"] for item in document["components"]} <= reached


def test_provenance_has_every_wheel_of_the_lock(papers: dict[str, Paper], mlx_lm: MlxLm) -> None:
    statement = json.loads(papers["provenance"].content)
    inputs = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    digests = {item["digest"]["sha256"] for item in inputs}
    assert {wheel.sha256 for wheel in mlx_lm.lock.packages} < digests
    assert len(inputs) == len(mlx_lm.lock.packages) + 3


def test_the_report_names_licence_files_that_are_there(papers: dict[str, Paper], mlx_lm: MlxLm) -> None:
    report = json.loads(papers["licences"].content)
    assert report["unknown"] == []
    files = [path for item in (*report["distributions"], *report["interpreter"]) for path in item["files"]]
    assert len(files) > 40
    assert set(files) <= mlx_lm.entries.keys() | mlx_lm.interpreter_entries.keys()
    assert any(item["files"] for item in report["libraries"])
    shown = show_licences(papers["licences"].content)
    assert "jinja2" in shown
    assert "libraries inside of wheels: " in shown


def test_the_same_environment_gives_the_same_papers(
    papers: dict[str, Paper], mlx_lm: MlxLm, recipe: Recipe, components: list[Component]
) -> None:
    config = config_of(recipe, components, target=mlx_lm.lock.target, python=mlx_lm.interpreter.version)
    moved = replace(mlx_lm.interpreter, prefix=mlx_lm.tree)
    again = papers_of(recipe, components[::-1], mlx_lm.lock, interpreter=moved, config=config)
    assert {kind: paper.content for kind, paper in again.items()} == {
        kind: paper.content for kind, paper in papers.items()
    }
    assert str(mlx_lm.tree.parent).encode() not in b"".join(paper.content for paper in again.values())
