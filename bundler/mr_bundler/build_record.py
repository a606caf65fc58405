"""Know a build that would change nothing before doing it: the key of a whole build, and what came of it last time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mr_bundler
import mr_core
import mr_shim
from mr_bundler.cache import BuildCache
from mr_bundler.image import find_target
from mr_bundler.lock import Lock
from mr_bundler.pack import compressor_identity
from mr_bundler.recipe import Recipe
from mr_bundler.result import BuildResult, BuiltLayer
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.errors import BundleError, NotFoundError
from mr_core.layout import LayoutStore
from mr_core.platform import Target

_KIND = "builds"


def build_key(recipe: Recipe, target: Target, lock: Lock, *, python: tuple[str, ...], created: str) -> str:
    """Return a digest of everything that decides a bundle, except which interpreter is found where none is pinned.

    Args:
        recipe: Its fields count, its place does not.
        target: One of the recipe.
        lock: Of this target.
        python: Where the interpreter is to come from, when the caller says.
        created: Time in the image config.
    """
    facts = [
        tool_identity(),
        compressor_identity(),
        [recipe.backend, recipe.summary, recipe.homepage, recipe.license, recipe.api],
        [recipe.probe.to_json(), recipe.launch.to_json(), recipe.target(target).requires.to_json()],
        [list(recipe.slim.remove), list(recipe.slim.keep)],
        hashlib.sha256(lock.dump()).hexdigest(),
        list(python),
        created,
    ]
    return hashlib.sha256(dump_json(facts)).hexdigest()


def tool_identity() -> str:
    """Return a digest of this tool's own code: during development its version does not change with it."""
    digest = hashlib.sha256()
    for package in (mr_bundler, mr_core, mr_shim):
        folder = Path(next(iter(package.__path__)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An earlier build of the same key whose bundle lies in the layout still.

    Attributes:
        interpreter: Identity of its interpreter.
        pinned: Whether that came from the lock's pinned archive, so that no other can be meant now.
    """

    result: BuildResult
    interpreter: str
    pinned: bool


def recall(cache: BuildCache, key: str, layout: Path) -> Remembered | None:
    """Return the last build of ``key`` when its bundle lies complete in ``layout``, under its name."""
    record = cache.load_record(_KIND, key)
    if record is None:
        return None
    try:
        result = _result(record["result"])
        store = LayoutStore(layout)
        top = store.resolve(result.ref_name)
        entry = find_target(store, result.ref_name, str(result.target))
    except (NotFoundError, BundleError, KeyError, TypeError):
        return None
    if entry is None or entry.digest != result.digest:
        return None
    return Remembered(
        result=dataclasses.replace(result, index_digest=top.digest, skipped=True, steps=()),
        interpreter=record["interpreter"],
        pinned=record["pinned"],
    )


def remember(cache: BuildCache, key: str, result: BuildResult, *, interpreter: str, pinned: bool) -> None:
    """Keep what a build gave."""
    value: dict[str, Any] = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    value |= {name: str(value[name]) for name in ("digest", "index_digest", "target")}
    value |= {"layers": [_layer_value(layer) for layer in result.layers], "steps": []}
    cache.save_record(_KIND, key, {"result": value, "interpreter": interpreter, "pinned": pinned})


def _layer_value(layer: BuiltLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "distributions": list(layer.distributions),
        "digest": str(layer.digest),
        "size": layer.size,
        "bytes": layer.bytes,
    }


def _result(value: Mapping[str, Any]) -> BuildResult:
    layers = tuple(
        BuiltLayer(
            name=layer["name"],
            distributions=tuple(layer["distributions"]),
            digest=Digest.parse(layer["digest"]),
            size=layer["size"],
            bytes=layer["bytes"],
            cached=True,
        )
        for layer in value["layers"]
    )
    return BuildResult(
        digest=Digest.parse(value["digest"]),
        index_digest=Digest.parse(value["index_digest"]),
        ref_name=value["ref_name"],
        version=value["version"],
        target=Target.parse(value["target"]),
        installed_bytes=value["installed_bytes"],
        file_count=value["file_count"],
        layers=layers,
        compressed_bytes=value["compressed_bytes"],
    )
