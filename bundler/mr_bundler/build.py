"""Build a bundle: recipe and lock in, an image in an OCI layout out. The same input gives the same bytes everywhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mr_bundler.assemble import Assembled, Assembly
from mr_bundler.build_record import Remembered, build_key, recall, remember
from mr_bundler.bundle_layers import Compiler, bundle_layers
from mr_bundler.cache import BuildCache, default_cache
from mr_bundler.environment import build_directory, list_tree, tree_of
from mr_bundler.image import PackedLayer, creation_time, make_image, reference_name, write_image
from mr_bundler.interpreter import Interpreter, prepare_interpreter
from mr_bundler.interpreter.host_search import locate_host_python
from mr_bundler.leaks import Needle, plan_needles
from mr_bundler.lock import Lock, inputs_digest
from mr_bundler.recipe import Recipe
from mr_bundler.result import BuildOptions, BuildResult, BuildStep, BuiltLayer
from mr_bundler.uv import install_wheels
from mr_core import __version__
from mr_core.bundle_config import BundleConfig, Contents, HostRequirements
from mr_core.errors import InvalidInputError
from mr_core.events import Cancel, Notice, Phase, Reporter, SafeReporter, discard
from mr_core.platform import Platform, Target

__all__ = ["BuildOptions", "BuildResult", "BuildStep", "BuiltLayer", "build_bundle"]

_EXECUTABLE = "bin/python3.12"


def build_bundle(
    recipe: Recipe,
    target: Target,
    lock: Lock,
    *,
    options: BuildOptions,
    environ: Mapping[str, str] = os.environ,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> BuildResult:
    """Build one target and write it into the layout, beside other targets of the same version.

    The network is used for fetching the interpreter and wheels only. After a failure or a wish to stop, the layout
    names what it named before, and no temporary files are left.

    Args:
        recipe: What to build.
        target: One of its targets.
        lock: The lock of this target.
        options: Where to, and with what.
        environ: ``SOURCE_DATE_EPOCH``, ``MR_CACHE``, ``MR_PYTHON_FROM``, ``HOME`` and what fetching honours.
        report: Gets the phases ``interpreter``, ``wheels``, ``slim``, ``scripts``, ``audit``, ``shim``,
            ``bytecode``, ``manifest``, ``pack`` and ``image``.
        cancel: Stops at the next piece of work.

    Raises:
        InvalidInputError: the lock belongs to another state of the recipe.
        BuildError: a step failed, or the audit found something.
        IntegrityError, UnavailableError, NotFoundError, UnsupportedError: from fetching.
        HostError: this machine stands in the way.
        CancelledError: asked to stop.
    """
    _check_lock(recipe, target, lock)
    build = _Build(
        recipe=recipe,
        target=target,
        lock=lock,
        options=options,
        environ=environ,
        created=creation_time(environ, lock.exclude_newer),
        cache=options.cache or default_cache(environ),
        jobs=options.jobs or os.cpu_count() or 1,
        report=SafeReporter(report),
        cancel=cancel or Cancel(),
    )
    return build.run()


def _check_lock(recipe: Recipe, target: Target, lock: Lock) -> None:
    if (lock.backend, lock.target, lock.inputs) != (
        recipe.backend,
        target,
        inputs_digest(recipe, recipe.target(target)),
    ):
        raise InvalidInputError(
            f"Cannot build `{recipe.backend}` for `{target}`: the lock belongs to another state of the recipe",
            hint="run `mr-bundle lock`",
        )


@dataclass(slots=True, kw_only=True)
class _Build:
    """One build; the steps share these."""

    recipe: Recipe
    target: Target
    lock: Lock
    options: BuildOptions
    environ: Mapping[str, str]
    created: str
    cache: Path
    jobs: int
    report: Reporter
    cancel: Cancel
    steps: list[BuildStep] = field(default_factory=list)

    def run(self) -> BuildResult:
        kept = BuildCache(self.cache)
        key = build_key(self.recipe, self.target, self.lock, python=self._python_source(), created=self.created)
        remembered = recall(kept, key, self.options.layout) if self.options.use_cache else None
        if remembered is not None and remembered.pinned:
            return self._up_to_date(remembered)
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(build_directory(self.cache / "tmp"))
            work = self.options.work
            place = scratch if work is None else stack.enter_context(build_directory(work))
            root = tree_of(place)
            with self._step("interpreter"):
                interpreter = self._prepare(root)
            if remembered is not None and remembered.interpreter == interpreter.identity:
                return self._up_to_date(remembered)
            compiler = self._compiler(interpreter)
            needles = self._needles(place, scratch, interpreter)
            assembled = self._assemble(root, compiler, needles)
            packed = bundle_layers(
                root,
                assembled,
                compiler=compiler,
                needles=needles,
                describe=lambda contents: self._config(interpreter, contents),
                cache=kept if self.options.use_cache else BuildCache(scratch / "cache"),
                scratch=scratch,
                jobs=self.jobs,
                step=self._step,
                report=self.report,
                cancel=self.cancel,
            )
            with self._step("image"):
                result = self._write(packed.config, packed.layers)
            result = replace(result, steps=tuple(self.steps))
            if self.options.use_cache:
                pinned = interpreter.source != "host"
                remember(kept, key, result, interpreter=interpreter.identity, pinned=pinned)
            return result

    def _up_to_date(self, remembered: Remembered) -> BuildResult:
        self.report(Notice(code="up-to-date", message=f"`{remembered.result.ref_name}` is up to date"))
        return remembered.result

    def _python_source(self) -> tuple[str, ...]:
        named = self.options.python_from or self.environ.get("MR_PYTHON_FROM", "")
        return str(named), str(self.options.python_archive or "")

    def _prepare(self, root: Path) -> Interpreter:
        return prepare_interpreter(
            self.lock.python,
            self.target,
            destination=root,
            cache=self.cache,
            python_from=self.options.python_from,
            python_archive=self.options.python_archive,
            environ=self.environ,
            report=self.report,
            cancel=self.cancel,
        )

    def _compiler(self, interpreter: Interpreter) -> Compiler:
        """Return what compiles bytecode and installs wheels: the bundle's own interpreter where it runs here."""
        if self.target.platform == Platform.host():
            return Compiler(python=interpreter.prefix / _EXECUTABLE, identity=interpreter.identity)
        host = locate_host_python(environ=self.environ)
        return Compiler(python=host.executable, identity=f"cpython {host.version} (host)")

    def _needles(self, place: Path, scratch: Path, interpreter: Interpreter) -> tuple[Needle, ...]:
        home = self.environ.get("HOME") or "/"
        uv_cache = self.environ.get("UV_CACHE_DIR") or f"{self.environ.get('XDG_CACHE_HOME') or f'{home}/.cache'}/uv"
        paths: dict[str, list[Path | str]] = {
            "build directory": [place, scratch],
            "cache directory": [self.cache],
            "uv cache": [uv_cache],
        }
        if interpreter.source == "host":
            named = self.options.python_from
            paths["interpreter's source"] = [locate_host_python(named, environ=self.environ).prefix]
        return plan_needles(paths, home=home)

    def _assemble(self, root: Path, compiler: Compiler, needles: tuple[Needle, ...]) -> Assembled:
        before = list_tree(root)
        with self._step("wheels"):
            install_wheels(self.lock, prefix=root, python=compiler.python, report=self.report, cancel=self.cancel)
            assembly = Assembly(root, before, report=self.report, cancel=self.cancel)
        with self._step("slim"):
            assembly.slim(self.recipe.slim)
        with self._step("scripts"):
            assembly.write_scripts()
            assembly.check_modules(self.recipe.launch, self.recipe.probe)
        with self._step("audit"):
            return assembly.audit(needles, jobs=self.jobs)

    def _config(self, interpreter: Interpreter, contents: Contents) -> BundleConfig:
        requires = self.recipe.target(self.target).requires
        return BundleConfig(
            backend=self.recipe.backend,
            version=self.lock.version,
            target=self.target,
            summary=self.recipe.summary,
            homepage=self.recipe.homepage,
            license=self.recipe.license,
            python_version=interpreter.version,
            python_source=interpreter.source,
            requires=HostRequirements(
                glibc=_higher(requires.glibc, interpreter.glibc),
                macos=requires.macos,
                cuda_driver=requires.cuda_driver,
                cpu_features=requires.cpu_features,
            ),
            contents=contents,
            probe=self.recipe.probe,
            launch=self.recipe.launch,
            api=self.recipe.api,
            distributions={package.name: package.version for package in self.lock.packages},
            builder=f"mr-bundle {__version__}",
        )

    def _write(self, config: BundleConfig, layers: tuple[PackedLayer, ...]) -> BuildResult:
        image = make_image(config, layers, created=self.created)
        with Phase(self.report, "image", str(self.options.layout)):
            index = write_image(
                image,
                layers,
                layout=self.options.layout,
                config=config,
                jobs=self.jobs,
                report=self.report,
                cancel=self.cancel,
            )
        return BuildResult(
            digest=image.manifest.digest,
            index_digest=index.digest,
            ref_name=reference_name(config.backend, config.version),
            version=config.version,
            target=config.target,
            installed_bytes=config.contents.bytes,
            file_count=config.contents.count,
            layers=tuple(_built(layer) for layer in layers),
            compressed_bytes=sum(layer.blob.size for layer in layers),
        )

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.cancel.check()
        begin = time.monotonic()
        yield
        self.steps.append(BuildStep(name=name, seconds=round(time.monotonic() - begin, 3)))


def _built(layer: PackedLayer) -> BuiltLayer:
    return BuiltLayer(
        name=layer.plan.name,
        distributions=tuple(owner for owner in layer.plan.owners if not owner.startswith("(")),
        digest=layer.digest,
        size=layer.blob.size,
        bytes=layer.bytes,
        cached=layer.cached,
    )


def _higher(first: str, second: str) -> str:
    """Return the higher of two versions such as ``2.35``; empty text is the lowest."""
    return max(first, second, key=lambda text: [int(part) for part in text.split(".") if part])
