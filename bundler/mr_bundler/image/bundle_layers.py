"""Turn a composed environment into packed layers: bytecode, the bundle's own files, tar and compression.

A layer that an earlier build packed from the same files is taken from the cache, bytecode and all; the files of the
others are brought to disk first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.audit.path_rules import directories_of
from mr_bundler.cache import BuildCache, CachedLayer
from mr_bundler.environment.bytecode import Compiled, bytecode_identity, compile_sources, is_source, source_of
from mr_bundler.environment.compose import Composition
from mr_bundler.environment.leaks import Needle, judge_leaks, refuse_leaks
from mr_bundler.environment.parts import OWN, file_entry
from mr_bundler.environment.tree import remove_files, write_file
from mr_bundler.image.image import PackedLayer
from mr_bundler.image.layers import LayerPlan, plan_layers
from mr_bundler.image.pack import layer_key, pack_layer
from mr_bundler.parallel import Check, run_tasks
from mr_core.bundle_config import BundleConfig, Contents
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import BuildError
from mr_core.events import Cancel, Level, Notice, Phase, Reporter, Unit
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, Entry, FileEntry, dump_entries
from mr_core.store import BlobFile

_MANY_BYTES = 256 << 20  # a layer this large keeps several threads of the compressor busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A CPython 3.12 that runs on this machine.

    Attributes:
        python: Its executable.
        version: Its exact version.
        identity: Changes when its bytecode might.
    """

    python: Path
    version: str
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLayers:
    """All layers of a bundle.

    Attributes:
        layers: In the order of the image.
        config: The bundle config, which the last one holds.
        owned: Everything in them by owner, bytecode and the bundle's own files included.
    """

    layers: tuple[PackedLayer, ...]
    config: BundleConfig
    owned: Mapping[str, Sequence[Entry]]


@dataclass(slots=True)
class _Layer:
    """A layer on its way: what it is made of, and what is known about it by now."""

    plan: LayerPlan
    key: str
    known: CachedLayer | None = None
    cached: bool = False
    bytecode: tuple[FileEntry, ...] = ()

    @property
    def sources(self) -> list[list[FileEntry]]:
        return [
            [entry for entry in part if isinstance(entry, FileEntry) and is_source(entry.path)]
            for part in self.plan.parts
        ]


def bundle_layers(
    root: Path,
    composition: Composition,
    *,
    bring: Callable[[Collection[str]], None],
    own_files: Mapping[str, tuple[bytes, bool]],
    honest: Collection[str],
    compiler: Compiler,
    needles: Sequence[Needle],
    describe: Callable[[Contents], BundleConfig],
    cache: BuildCache,
    scratch: Path,
    jobs: int,
    step: Callable[[str], AbstractContextManager[None]],
    report: Reporter,
    cancel: Cancel,
) -> BundleLayers:
    """Return every layer packed, as a blob in the cache; the files of the tree that went into one are removed.

    Args:
        root: Where files of the environment come together.
        composition: What is in it.
        bring: Puts the files of some owners there.
        own_files: Content and executability by path of what the last layer holds beside what describes the bundle.
        honest: Sources whose bytecode may name directories of this machine as they do.
        compiler: Compiles bytecode.
        needles: Must not occur in bytecode.
        describe: Makes the bundle config once the contents are known.
        cache: Packed layers.
        scratch: Directory on the cache's filesystem for blobs while they are written.
        jobs: Processes and threads.
        step: Times a step.
        report: Gets the phases ``shim``, ``bytecode``, ``manifest`` and ``pack``.
        cancel: Stops at the next piece.
    """
    identity = bytecode_identity(compiler.identity)
    with step("layers"):
        layers = [_Layer(plan, layer_key(plan.entries, identity)) for plan in plan_layers(composition.owned)]
        with Phase(report, "layers", total=len(layers)) as phase:
            _recall(layers, cache, jobs, cancel)
            open_layers = [layer for layer in layers if layer.known is None]
            phase.detail = {"known": len(layers) - len(open_layers), "new": len(open_layers)}
        bring([owner for layer in open_layers for owner in layer.plan.owners])
    with step("shim"), Phase(report, "shim"):
        own = _Layer(_write_own(root, composition, own_files), "")
    with step("bytecode"):
        compiled = _compile(
            root,
            [*open_layers, own],
            compiler=compiler,
            needles=needles,
            jobs=jobs,
            report=report,
            cancel=cancel,
        )
        _refuse_bytecode_leaks(compiled, composition, honest, needles)
    with step("manifest"), Phase(report, "manifest"):
        config, own = _write_manifest(root, layers, own, describe)
        own.key = layer_key(own.plan.entries, identity)
    with step("pack"):
        layers.append(own)
        own.known = cache.load_layer(own.key)
        own.cached = own.known is not None
        _pack(root, layers, cache=cache, scratch=scratch, jobs=jobs, report=report, cancel=cancel)
    return BundleLayers(
        layers=tuple(_packed(layer, cache) for layer in layers), config=config, owned=_everything_owned(layers)
    )


def _recall(layers: Sequence[_Layer], cache: BuildCache, jobs: int, cancel: Cancel) -> None:
    """Look every layer up in the cache."""

    def task(layer: _Layer) -> Callable[[Check], None]:
        def run(check: Check) -> None:
            check()
            layer.known = cache.load_layer(layer.key)
            if layer.known is not None:
                layer.cached, layer.bytecode = True, layer.known.bytecode

        return run

    run_tasks([task(layer) for layer in layers], jobs=jobs, cancel=cancel)


def _write_own(root: Path, composition: Composition, own_files: Mapping[str, tuple[bytes, bool]]) -> LayerPlan:
    taken = composition.entries
    entries: list[Entry] = []
    for path, (content, executable) in own_files.items():
        if path in taken:
            raise BuildError(f"Cannot write `{path}`: a wheel brings a file of this name")
        write_file(root, path, content, executable=executable)
        entries.append(file_entry(path, content, executable=executable))
    return LayerPlan(name="bundle", owners=(OWN,), parts=(tuple(entries),))


def _compile(
    root: Path,
    layers: Sequence[_Layer],
    *,
    compiler: Compiler,
    needles: Sequence[Needle],
    jobs: int,
    report: Reporter,
    cancel: Cancel,
) -> Compiled:
    """Compile what no cached layer holds, and give every layer its bytecode."""
    owners = [sources for layer in layers for sources in layer.sources]
    with Phase(report, "bytecode", total=sum(map(len, owners))) as phase:
        compiled = compile_sources(
            root,
            owners,
            python=compiler.python,
            needles=[needle.text for needle in needles],
            jobs=jobs,
            cancel=cancel,
            progress=phase.progress,
        )
        phase.detail = {"compiled": len(compiled.entries), "failed": len(compiled.failed)}
    for path, reason in compiled.failed.items():
        report(Notice(code="not-compiled", message=f"`{path}` is not Python 3.12: {reason}", level=Level.DETAIL))
    home = {source.path: layer for layer in layers for sources in layer.sources for source in sources}
    made: dict[str, list[FileEntry]] = {layer.plan.name: [] for layer in layers}
    for entry in compiled.entries:
        made[home[compiled.sources[entry.path]].plan.name].append(entry)
    for layer in layers:
        layer.bytecode = tuple(made[layer.plan.name])
    return compiled


def _refuse_bytecode_leaks(
    compiled: Compiled, composition: Composition, honest: Collection[str], needles: Sequence[Needle]
) -> None:
    unchanged = [path for path, source in compiled.sources.items() if source in composition.unchanged]
    found = {path: indexes for path, indexes in compiled.needles.items() if compiled.sources[path] not in honest}
    refuse_leaks(judge_leaks(found, needles, unchanged=unchanged))


def _write_manifest(
    root: Path, layers: Sequence[_Layer], own: _Layer, describe: Callable[[Contents], BundleConfig]
) -> tuple[BundleConfig, _Layer]:
    """Write the file manifest and the bundle config, and return the bundle's own layer with them."""
    everything = [entry for layer in (*layers, own) for entry in (*layer.plan.entries, *layer.bytecode)]
    manifest = dump_entries(everything)
    contents = Contents(
        digest=Digest.of(manifest),
        size=len(manifest),
        count=len(everything),
        directories=len(directories_of([entry.path for entry in everything])),
        bytes=sum(entry.size for entry in everything if isinstance(entry, FileEntry)),
    )
    config = describe(contents)
    files = {FILES_PATH: manifest, BUNDLE_PATH: config.dump()}
    for path, content in files.items():
        write_file(root, path, content)
    entries = (*own.plan.parts[0], *(file_entry(path, content) for path, content in files.items()))
    plan = LayerPlan(name=own.plan.name, owners=own.plan.owners, parts=(entries,))
    return config, _Layer(plan, "", bytecode=own.bytecode)


def _pack(
    root: Path,
    layers: Sequence[_Layer],
    *,
    cache: BuildCache,
    scratch: Path,
    jobs: int,
    report: Reporter,
    cancel: Cancel,
) -> None:
    """Pack what the cache does not have, the largest layers first."""
    waiting = {layer.plan.name: _bytes(layer) for layer in layers if layer.known is None}
    # A piece of tar is a little more than its files: headers, padding.
    with Phase(report, "pack", total=sum(waiting.values()), unit=Unit.BYTES) as phase:
        lock = threading.Lock()
        done = 0

        def progress(size: int) -> None:
            nonlocal done
            with lock:
                done += size
                phase.progress(done)

        def task(layer: _Layer) -> Callable[[Check], None]:
            def run(check: Check) -> None:
                layer.known, blob = pack_layer(
                    root,
                    layer.plan.entries,
                    layer.bytecode,
                    scratch=scratch,
                    threads=jobs if waiting[layer.plan.name] >= _MANY_BYTES else 1,
                    check=check,
                    progress=progress,
                )
                cache.save_layer(layer.key, layer.known, blob)
                # Not needed any more: here it costs less than at the end, when nothing else is left to do.
                remove_files(root, [entry.path for entry in (*layer.plan.entries, *layer.bytecode)])

            return run

        todo = sorted((layer for layer in layers if layer.known is None), key=lambda item: -waiting[item.plan.name])
        run_tasks([task(layer) for layer in todo], jobs=jobs, cancel=cancel)
        phase.detail = {"packed": len(todo), "cached": len(layers) - len(todo)}


def _bytes(layer: _Layer) -> int:
    return sum(entry.size for entry in (*layer.plan.entries, *layer.bytecode) if isinstance(entry, FileEntry))


def _everything_owned(layers: Sequence[_Layer]) -> dict[str, list[Entry]]:
    """Return what is in the layers by owner; bytecode belongs to the owner of its source."""
    owned: dict[str, list[Entry]] = {}
    for layer in layers:
        homes: dict[str, str] = {}
        for owner, entries in zip(layer.plan.owners, layer.plan.parts, strict=True):
            owned[owner] = list(entries)
            homes |= {entry.path: owner for entry in entries}
        for entry in layer.bytecode:
            owned[homes[source_of(entry.path)]].append(entry)
    return owned


def _packed(layer: _Layer, cache: BuildCache) -> PackedLayer:
    if layer.known is None:
        raise BuildError(f"Cannot find layer `{layer.plan.name}`: it was not packed")
    blob = cache.blob_path(layer.known.digest)
    with host_errors("read", blob):
        return PackedLayer(
            plan=layer.plan,
            blob=BlobFile(path=blob, size=layer.known.size),
            digest=layer.known.digest,
            diff_id=layer.known.diff_id,
            bytes=layer.known.bytes,
            cached=layer.cached,
        )
