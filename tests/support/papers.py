"""Components of bundles for tests of papers: a real environment, and small invented ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from mr_bundler.environment.wheel_record import InstalledDistribution
from mr_bundler.interpreter import Interpreter
from mr_bundler.lock.lock import Lock, LockedWheel, inputs_digest, platform_floor
from mr_bundler.lock.python_pin import PythonPin
from mr_bundler.papers.metadata import DistributionMetadata, read_metadata
from mr_bundler.papers.papers import Component, Paper, write_papers
from mr_bundler.recipe.recipe import Recipe, load_recipe
from mr_core.bundle_config import BundleConfig, Contents
from mr_core.digest import Digest
from mr_core.file_manifest import Entry, FileEntry, dump_entries
from mr_core.manifest import MEDIA_MANIFEST, Descriptor
from mr_core.platform import Target
from support.recipe_files import RECIPE, write_recipe

MLX_LM_RECIPE = Path(__file__).parents[2] / "recipes" / "mlx-lm"
TARGET = Target.parse("linux/amd64+cpu")
CREATED = "2026-11-20T00:00:00Z"
BUILDER = "mr-bundle 0.1.0"
SITE = "lib/python3.12/site-packages"
SUBJECT = Descriptor(media_type=MEDIA_MANIFEST, digest=Digest.of(b"a manifest"), size=10)
PIN = PythonPin(
    version="3.12.14",
    build="20260814",
    file="cpython-3.12.14+20260814-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz",
    url="https://example.org/20260814/cpython-3.12.14%2B20260814-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz",
    sha256="5" * 64,
)


@dataclass(frozen=True, kw_only=True)
class MlxLm:
    """The environment of the mlx-lm recipe, without bytecode and our own files."""

    lock: Lock
    tree: Path
    entries: Mapping[str, Entry]
    distributions: Sequence[InstalledDistribution]
    interpreter: Interpreter
    interpreter_entries: Mapping[str, Entry]

    def components(self) -> list[Component]:
        found = [
            Component(
                kind="distribution",
                name=item.name,
                entries=[self.entries[path] for path in item.files if path in self.entries],
                metadata=read_metadata(self.tree / item.place),
            )
            for item in self.distributions
        ]
        found.append(Component(kind="interpreter", name="cpython", entries=list(self.interpreter_entries.values())))
        return found

    def everything(self) -> list[Entry]:
        recorded = {path for item in self.distributions for path in item.files}
        return [
            *(entry for path, entry in self.entries.items() if path in recorded),
            *self.interpreter_entries.values(),
        ]


def file_entry(path: str, content: str = "") -> FileEntry:
    return FileEntry(path=path, mode=0o644, size=len(content), sha256=Digest.of((content or path).encode()).hex)


def distribution(name: str, *paths: str, requires: Sequence[str] = (), **fields: Any) -> Component:
    """Return a component with a METADATA and some more files below site-packages."""
    stem = name.replace("-", "_")
    all_paths = (f"{stem}-1.0.dist-info/METADATA", f"{stem}/__init__.py", *paths)
    metadata = DistributionMetadata(name=name, version="1.0", requires=tuple(requires), **fields)
    entries = [file_entry(f"{SITE}/{path}") for path in all_paths]
    return Component(kind="distribution", name=name, version="1.0", entries=entries, metadata=metadata)


def own_component() -> Component:
    """Return what this project puts into every bundle."""
    paths = (".mr/recipe.toml", ".mr/lock.toml", ".mr/shim/mr_shim/__init__.py", "bin/mr-serve")
    return Component(kind="bundle", name="(bundle)", entries=[file_entry(path) for path in paths])


def standalone(version: str = "3.12.14") -> Interpreter:
    """Return an interpreter from the archive of `PIN`; where it lies must not matter."""
    return Interpreter(
        prefix=Path("/somewhere/on/this/machine"),
        version=version,
        source="python-build-standalone 20260814",
        identity="an identity",
        glibc="2.17",
        tree={},
    )


def small_recipe(directory: Path) -> Recipe:
    return load_recipe(write_recipe(directory, RECIPE))


def small_lock(recipe: Recipe, *wheels: LockedWheel, pin: PythonPin = PIN, target: Target = TARGET) -> Lock:
    item = recipe.target(target)
    return Lock(
        backend=recipe.backend,
        version="1.0",
        target=target,
        requires=platform_floor(item.requires),
        exclude_newer=recipe.exclude_newer,
        python=pin,
        packages=tuple(sorted(wheels, key=lambda wheel: wheel.name)),
        inputs=inputs_digest(recipe, item),
    )


def config_of(
    recipe: Recipe, components: Sequence[Component], *, target: Target = TARGET, python: str = "3.12.14"
) -> BundleConfig:
    """Return the bundle config of a bundle that holds exactly these components' files."""
    entries = [entry for component in components for entry in component.entries]
    manifest = dump_entries(entries)
    return BundleConfig(
        backend=recipe.backend,
        version="1.0",
        target=target,
        summary=recipe.summary,
        homepage=recipe.homepage,
        license=recipe.license,
        python_version=python,
        python_source="python-build-standalone 20260814",
        contents=Contents(
            digest=Digest.of(manifest),
            size=len(manifest),
            count=len(entries),
            directories=1,
            bytes=sum(entry.size for entry in entries if isinstance(entry, FileEntry)),
        ),
        probe=recipe.probe,
        launch=recipe.launch,
        builder=BUILDER,
    )


def papers_of(recipe: Recipe, components: Sequence[Component], lock: Lock, **changes: Any) -> dict[str, Paper]:
    """Write all papers and return them by kind."""
    arguments: dict[str, Any] = {
        "config": config_of(recipe, components),
        "subject": SUBJECT,
        "components": components,
        "recipe": recipe,
        "lock": lock,
        "interpreter": standalone(),
        "compiler": "3.12.14",
        "created": CREATED,
        "builder": BUILDER,
    }
    return {paper.kind: paper for paper in write_papers(**{**arguments, **changes})}


def check_sbom(content: bytes) -> dict[str, Any]:
    """Judge an SBOM by the official schema of CycloneDX 1.6, and return it.

    The validator takes a millisecond for each file, so of a component's many occurrences, all of which have the same
    form, it sees the first ones.
    """
    document: dict[str, Any] = json.loads(content)
    thinned = json.loads(content)
    for component in (thinned["metadata"]["component"], *_all(thinned["components"])):
        occurrences = component.get("evidence", {}).get("occurrences", [])
        assert all(set(item) == {"location"} and isinstance(item["location"], str) for item in occurrences)
        del occurrences[5:]
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(thinned))
    assert problem is None, str(problem)[:2000]
    return document


def _all(components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*components, *(inner for outer in components for inner in outer.get("components", []))]
