"""Know a build that would change nothing before doing it: the key of a whole build, and what came of it last time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mr_bundler
import mr_core
import mr_shim
from mr_bundler.bundle_papers import has_papers
from mr_bundler.cache import BuildCache
from mr_bundler.environment.slim import SlimSaving
from mr_bundler.image.image import find_target
from mr_bundler.image.pack import compressor_identity
from mr_bundler.lock.lock import Lock
from mr_bundler.recipe.recipe import Recipe
from mr_bundler.result import AllowedFinding, AuditSummary, BuildOptions, BuildResult, BuiltLayer, BuiltPaper
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.errors import BundleError
from mr_core.layout import LayoutStore
from mr_core.platform import Target

_KIND = "builds"


def build_key(
    recipe: Recipe, target: Target, lock: Lock, *, options: BuildOptions, environ: Mapping[str, str], created: str
) -> str:
    """Return a digest of everything that decides a bundle, except which interpreter is found where none is pinned.

    Args:
        recipe: Its text counts, its place does not.
        target: One of the recipe.
        lock: Of this target.
        options: Where the interpreter is to come from, and how strict the audit is.
        environ: May name the interpreter too.
        created: Time in the image config.
    """
    facts = [
        tool_identity(),
        compressor_identity(),
        hashlib.sha256(recipe.raw).hexdigest(),
        hashlib.sha256(lock.dump()).hexdigest(),
        str(target),
        str(options.python_from or environ.get("MR_PYTHON_FROM", "")),
        str(options.python_archive or ""),
        options.strict,
        created,
    ]
    return hashlib.sha256(dump_json(facts)).hexdigest()


@functools.cache
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
    """Return the last build of ``key`` when its bundle and papers lie complete in ``layout``, under its name."""
    record = cache.load_record(_KIND, key)
    if record is None:
        return None
    try:
        result = _result(record["result"])
        store = LayoutStore(layout)
        top = store.resolve(result.ref_name)
        entry = find_target(store, result.ref_name, str(result.target))
        if entry is None or entry.digest != result.digest or not has_papers(store, result.digest, result.papers):
            return None
    except (BundleError, KeyError, TypeError, ValueError):
        return None
    for layer in result.layers:
        cache.touch_blob(layer.digest)
    return Remembered(
        result=dataclasses.replace(result, index_digest=top.digest, skipped=True, steps=()),
        interpreter=record["interpreter"],
        pinned=record["pinned"],
    )


def remember(cache: BuildCache, key: str, result: BuildResult, *, interpreter: str, pinned: bool) -> None:
    """Keep what a build gave."""
    value = _plain(dataclasses.replace(result, steps=()))
    cache.save_record(_KIND, key, {"result": value, "interpreter": interpreter, "pinned": pinned})


def _plain(value: Any) -> Any:
    match value:
        case Digest() | Target():
            return str(value)
        case tuple():
            return [_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        case _:
            return value


def _result(value: Mapping[str, Any]) -> BuildResult:
    """Read what `_plain` made of a result; every layer comes from the cache now."""
    layers = [
        BuiltLayer(
            **{
                **layer,
                "digest": Digest.parse(layer["digest"]),
                "distributions": tuple(layer["distributions"]),
                "cached": True,
            }
        )
        for layer in value["layers"]
    ]
    audit = value["audit"]
    return BuildResult(
        **{
            **value,
            "digest": Digest.parse(value["digest"]),
            "index_digest": Digest.parse(value["index_digest"]),
            "target": Target.parse(value["target"]),
            "layers": tuple(layers),
            "audit": AuditSummary(**{**audit, "allowed": tuple(AllowedFinding(**item) for item in audit["allowed"])}),
            "slim": tuple(SlimSaving(**item) for item in value["slim"]),
            "papers": tuple(
                BuiltPaper(**{**paper, "digest": Digest.parse(paper["digest"])}) for paper in value["papers"]
            ),
            "steps": (),
        }
    )
