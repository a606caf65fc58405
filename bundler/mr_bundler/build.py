"""Build a bundle: recipe and lock in, an image in an OCI layout out. The same input gives the same bytes everywhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from mr_bundler.audit.judge import AuditReport
from mr_bundler.audit_gate import audit_environment
from mr_bundler.build_inputs import check_inputs, choose_compiler, part_keys, plan_build_needles, promised_requirements
from mr_bundler.build_record import Remembered, build_key, recall, remember
from mr_bundler.bundle_papers import attach_papers
from mr_bundler.cache import BuildCache, default_cache, true_place
from mr_bundler.environment.assembly import Assembly
from mr_bundler.environment.compose import Composition, compose
from mr_bundler.environment.examine_parts import Examination
from mr_bundler.environment.leaks import Needle, find_leaks, refuse_leaks
from mr_bundler.environment.modules import check_modules
from mr_bundler.environment.prebuild import run_prebuild, steps_for
from mr_bundler.environment.shim_files import own_files
from mr_bundler.environment.tree import build_directory, tree_of
from mr_bundler.image.bundle_layers import BundleLayers, Compiler, bundle_layers
from mr_bundler.image.destination import check_destination
from mr_bundler.image.image import creation_time, forget_papers, make_image, name_image, reference_name, store_image
from mr_bundler.interpreter import Interpreter, prepare_interpreter
from mr_bundler.interpreter.contents import EXECUTABLE
from mr_bundler.interpreter.host_search import locate_host_python
from mr_bundler.lock.lock import Lock
from mr_bundler.recipe.recipe import Recipe, SlimRules
from mr_bundler.recipe.steps import PrebuildStep
from mr_bundler.result import BuildOptions, BuildResult, BuildStep, BuiltLayer, built_layer, summarised
from mr_core import __version__
from mr_core.bundle_config import BundleConfig, Contents, HostRequirements
from mr_core.events import Cancel, Level, Notice, Phase, Reporter, SafeReporter, discard
from mr_core.file_manifest import BUNDLE_PATH
from mr_core.layout import LayoutStore
from mr_core.platform import Platform, Target

__all__ = ["BuildOptions", "BuildResult", "BuildStep", "BuiltLayer", "build_bundle"]


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
        report: Gets the phases ``interpreter``, ``recall``, ``wheels``, ``scripts``, ``examine``, ``prebuild NAME``,
            ``slim``, ``audit``, ``layers``, ``shim``, ``bytecode``, ``manifest``, ``pack``, ``image`` and ``papers``;
            those that have nothing to do are left out.
        cancel: Stops at the next piece of work.

    Raises:
        InvalidInputError: the lock belongs to another state of the recipe, or is not complete; or the layout's place
            holds something else.
        UsageError: the options contradict each other.
        BuildError: a step failed, or the audit found something that the recipe does not allow.
        IntegrityError, UnavailableError, NotFoundError, UnsupportedError: from fetching.
        HostError: this machine stands in the way.
        CancelledError: asked to stop.
    """
    check_inputs(recipe, target, lock, options=options, environ=environ)
    build = _Build(
        recipe=recipe,
        target=target,
        lock=lock,
        options=options,
        environ=environ,
        created=creation_time(environ, lock.exclude_newer),
        cache=true_place(options.cache or default_cache(environ)),
        jobs=options.jobs or os.cpu_count() or 1,
        report=SafeReporter(report),
        cancel=cancel or Cancel(),
    )
    return build.run()


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
    requires: HostRequirements = field(default_factory=HostRequirements)

    def run(self) -> BuildResult:
        kept = BuildCache(self.cache)
        prebuild = steps_for(self.recipe.prebuild, self.target)
        with contextlib.ExitStack() as stack:
            stack.enter_context(kept.in_use(report=self.report, cancel=self.cancel))
            foreign = None if self.target.platform == Platform.host() else locate_host_python(environ=self.environ)
            key = build_key(
                self.recipe,
                self.target,
                self.lock,
                options=self.options,
                environ=self.environ,
                created=self.created,
                compiler="" if foreign is None else foreign.version,
            )
            remembered = recall(kept, key, self.options.layout) if self.options.use_cache else None
            if remembered is not None and remembered.pinned:
                return self._up_to_date(remembered)
            if remembered is None:  # else it is a layout, and may be one that can only be read
                check_destination(self.options.layout, reference_name(self.recipe.backend, self.lock.version))
            with self._step("interpreter"):
                interpreter = self._prepare()
            if remembered is not None and remembered.interpreter == interpreter.identity:
                return self._up_to_date(remembered)
            scratch = stack.enter_context(build_directory(self.cache / "tmp"))
            work = self.options.work
            place = scratch if work is None else stack.enter_context(build_directory(true_place(work)))
            cache = kept if self.options.use_cache else BuildCache(scratch / "cache")
            compiler = choose_compiler(interpreter, foreign)
            assembly = self._assembly(interpreter, compiler, cache, place, scratch)
            composition = self._compose(assembly, steps=prebuild)
            own = own_files(self.recipe.raw, self.lock.dump())
            leaks = find_leaks({path: content for path, (content, _) in own.items()}, assembly.examination.needles)
            composition = replace(composition, leaks=(*composition.leaks, *leaks))
            audit = self._audit(composition, assembly)
            packed = self._layers(composition, assembly, audit, compiler, own=own, scratch=scratch)
            said = {leak.what for leak in leaks}  # the recipe says so itself, and allows it
            needles = [needle for needle in assembly.examination.needles if needle.what not in said]
            result = self._write(packed, assembly, composition, audit, compiler=compiler, needles=needles)
            if self.options.use_cache:
                pinned = interpreter.source != "host"
                remember(
                    kept,
                    key,
                    result,
                    layout=self.options.layout,
                    interpreter=interpreter.identity,
                    pinned=pinned,
                )
            return result

    def _up_to_date(self, remembered: Remembered) -> BuildResult:
        self.report(Notice(code="up-to-date", message=f"`{remembered.result.ref_name}` is up to date"))
        steps = steps_for(self.recipe.prebuild, self.target)
        if steps:
            shown = ", ".join(f"`{step.name}`" for step in steps)
            text = f"Steps of the recipe were not run again: {shown}; `--no-cache` runs them"
            self.report(Notice(code="prebuild-not-run", message=text))
        return remembered.result

    def _prepare(self) -> Interpreter:
        interpreter = prepare_interpreter(
            self.lock.python,
            self.target,
            cache=self.cache,
            python_from=self.options.python_from,
            python_archive=self.options.python_archive,
            fallback=not self.options.require_pinned,
            environ=self.environ,
            report=self.report,
            cancel=self.cancel,
        )
        self.requires = promised_requirements(self.recipe, self.target, interpreter, report=self.report)
        return interpreter

    def _assembly(
        self, interpreter: Interpreter, compiler: Compiler, cache: BuildCache, place: Path, scratch: Path
    ) -> Assembly:
        lasting, passing = plan_build_needles(
            interpreter, cache=self.cache, places=(place, scratch), environ=self.environ
        )
        return Assembly(
            lock=self.lock,
            interpreter=interpreter,
            python=compiler.python,
            root=tree_of(place),
            scratch=place,
            examination=Examination(
                needles=(*lasting, *passing), jobs=self.jobs, report=self.report, cancel=self.cancel
            ),
            keys=part_keys(self.lock, interpreter, lasting),
            cache=cache,
            wheels=self.cache,
        )

    def _compose(self, assembly: Assembly, *, steps: Sequence[PrebuildStep]) -> Composition:
        """Return the environment, slimmed and whole."""
        if not steps:
            with self._step("recall"):
                assembly.recall()
        with self._step("wheels"):
            assembly.complete()
        if steps:
            with self._step("prebuild"):
                self._run_prebuild(assembly, steps)
        with self._step("slim"), Phase(self.report, "slim") as phase:
            composition = compose(assembly.parts, self.recipe.slim)
            savings = composition.slim.savings
            phase.detail = {
                "files": sum(saving.files for saving in savings),
                "bytes": sum(saving.bytes for saving in savings),
            }
        if composition.slim.unused:
            text = f"These slim rules match nothing: {', '.join(composition.slim.unused)}"
            self.report(Notice(code="slim-unused", message=text, level=Level.WARNING))
        return composition

    def _run_prebuild(self, assembly: Assembly, steps: Sequence[PrebuildStep]) -> None:
        """Let the recipe's own steps add to the whole environment, as it is before slimming."""
        composition = compose(assembly.parts, SlimRules())
        assembly.bring(list(assembly.parts), composition)
        epoch = str(int(datetime.fromisoformat(self.created).timestamp()))
        for step in steps:
            part = run_prebuild(
                step,
                assembly.root,
                python=assembly.root / EXECUTABLE,
                epoch=epoch,
                scratch=assembly.scratch,
                examination=assembly.examination,
            )
            assembly.add(part)

    def _audit(self, composition: Composition, assembly: Assembly) -> AuditReport:
        with self._step("audit"):
            report = audit_environment(
                composition,
                assembly.parts,
                recipe=self.recipe,
                target=self.target,
                requires=self.requires,
                strict=self.options.strict,
                report=self.report,
            )
            check_modules(composition.entries, self.recipe.launch, self.recipe.probe, roots=composition.import_roots)
        return report

    def _layers(
        self,
        composition: Composition,
        assembly: Assembly,
        audit: AuditReport,
        compiler: Compiler,
        *,
        own: Mapping[str, tuple[bytes, bool]],
        scratch: Path,
    ) -> BundleLayers:
        return bundle_layers(
            assembly.root,
            composition,
            bring=lambda owners: assembly.bring(owners, composition),
            own_files=own,
            honest={finding.path for finding, _ in audit.allowed if finding.kind == "leaked-path"},
            compiler=compiler,
            needles=assembly.examination.needles,
            describe=lambda contents: self._config(assembly.interpreter, contents),
            cache=assembly.cache,
            scratch=scratch,
            jobs=self.jobs,
            step=self._step,
            report=self.report,
            cancel=self.cancel,
        )

    def _config(self, interpreter: Interpreter, contents: Contents) -> BundleConfig:
        return BundleConfig(
            backend=self.recipe.backend,
            version=self.lock.version,
            target=self.target,
            summary=self.recipe.summary,
            homepage=self.recipe.homepage,
            license=self.recipe.license,
            python_version=interpreter.version,
            python_source=interpreter.source,
            requires=self.requires,
            contents=contents,
            probe=self.recipe.probe,
            launch=self.recipe.launch,
            api=self.recipe.api,
            distributions={package.name: package.version for package in self.lock.packages},
            builder=f"mr-bundle {__version__}",
        )

    def _write(
        self,
        packed: BundleLayers,
        assembly: Assembly,
        composition: Composition,
        audit: AuditReport,
        *,
        compiler: Compiler,
        needles: Sequence[Needle],
    ) -> BuildResult:
        """Write blobs, manifest, papers and index in this order; the name appears last."""
        config, layers = packed.config, packed.layers
        refuse_leaks(find_leaks({BUNDLE_PATH: config.dump()}, needles))
        image = make_image(config, layers, created=self.created)
        store = LayoutStore(self.options.layout, create=True, cancel=self.cancel)
        try:
            with self._step("image"), Phase(self.report, "image", str(self.options.layout)):
                store_image(store, image, layers, jobs=self.jobs, report=self.report, cancel=self.cancel)
            with self._step("papers"):
                papers = attach_papers(
                    store,
                    image.entry,
                    config=config,
                    owned=packed.owned,
                    parts=assembly.parts,
                    recipe=self.recipe,
                    lock=self.lock,
                    interpreter=assembly.interpreter,
                    compiler=compiler.version,
                    needles=needles,
                    created=self.created,
                    report=self.report,
                    cancel=self.cancel,
                )
            index = name_image(store, image, config)
        except BaseException:
            forget_papers(store, image)
            raise
        return BuildResult(
            digest=image.manifest.digest,
            index_digest=index.digest,
            ref_name=reference_name(config.backend, config.version),
            version=config.version,
            target=config.target,
            installed_bytes=config.contents.bytes,
            file_count=config.contents.count,
            layers=tuple(built_layer(layer) for layer in layers),
            compressed_bytes=sum(layer.blob.size for layer in layers),
            audit=summarised(audit),
            slim=tuple(sorted(composition.slim.savings, key=lambda saving: -saving.bytes)),
            papers=papers,
            steps=tuple(self.steps),
        )

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.cancel.check()
        begin = time.monotonic()
        yield
        self.steps.append(BuildStep(name=name, seconds=round(time.monotonic() - begin, 3)))
