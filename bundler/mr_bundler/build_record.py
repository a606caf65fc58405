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
from mr_bundler.image.image import find_target, is_intact
from mr_bundler.image.pack import compressor_identity
from mr_bundler.lock.lock import Lock
from mr_bundler.recipe.recipe import Recipe
from mr_bundler.result import AllowedFinding, AuditSummary, BuildOptions, BuildResult, BuiltLayer, BuiltPaper
from mr_bundler.wheels.uv_process import uv_identity
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import BundleError
from mr_core.layout import LayoutStore
from mr_core.manifest import Descriptor, Manifest, parse_document
from mr_core.platform import Target

_KIND = "builds"


def build_key(
    recipe: Recipe,
    target: Target,
    lock: Lock,
    *,
    options: BuildOptions,
    environ: Mapping[str, str],
    created: str,
    compiler: str,
) -> str:
    """Return a digest of everything that decides a bundle, except which interpreter is found where none is pinned.

    Args:
        recipe: Its text counts, its place does not.
        target: One of the recipe.
        lock: Of this target.
        options: Where the interpreter is to come from, and how strict the audit is.
        environ: May name the interpreter too.
        created: Time in the image config.
        compiler: What compiles bytecode when that is not the bundle's own interpreter, else empty.
    """
    facts = [
        tool_identity(),
        compressor_identity(),
        uv_identity(),
        compiler,
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
    """Return the last build of ``key`` when its bundle and papers lie complete in ``layout``, under its name.

    What was written to since then is read whole: a blob of the right size need not have the right bytes.
    """
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
        if not _has_bytes(store, entry, record["stamps"]):
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


def remember(cache: BuildCache, key: str, result: BuildResult, *, layout: Path, interpreter: str, pinned: bool) -> None:
    """Keep what a build gave."""
    value = _plain(dataclasses.replace(result, steps=()))
    blobs = [layout / "blobs" / layer.digest.algorithm / layer.digest.hex for layer in result.layers]
    stamps = {place.name: _stamp(place) for place in blobs}
    cache.save_record(_KIND, key, {"result": value, "stamps": stamps, "interpreter": interpreter, "pinned": pinned})


def _has_bytes(store: LayoutStore, entry: Descriptor, stamps: Mapping[str, Any]) -> bool:
    """Whether the blobs of a bundle are what they should be: unchanged since they were written, or read again."""
    document = parse_document(store.read_document(entry), entry.media_type)
    if not isinstance(document, Manifest):
        return False
    return all(
        stamps.get(blob.digest.hex) == _stamp(store.blob_file(blob).path) or is_intact(store, blob)
        for blob in (document.config, *document.layers)
    )


def _stamp(place: Path) -> list[int]:
    """Return what tells a changed file from an unchanged one without reading it; nobody can set the change time."""
    with host_errors("read", place):
        status = place.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


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
