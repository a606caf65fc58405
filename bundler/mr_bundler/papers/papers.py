"""Write all papers of a bundle: a pure step at the end of a build, after the manifest whose digest they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mr_bundler.interpreter import Interpreter
from mr_bundler.lock.lock import Lock
from mr_bundler.papers.component import Component, wheel_address
from mr_bundler.papers.kinds import PAPER_KINDS, PREDICATE_ANNOTATION, PREDICATE_TYPE, PaperKind
from mr_bundler.papers.libraries import split_libraries
from mr_bundler.papers.licences import with_licences, write_licences
from mr_bundler.papers.provenance import write_provenance
from mr_bundler.papers.requirements import require
from mr_bundler.papers.sbom import write_sbom
from mr_bundler.recipe.recipe import Recipe
from mr_core.bundle_config import BundleConfig
from mr_core.manifest import Descriptor

__all__ = ["Component", "Paper", "write_papers"]

_NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A document about a bundle, to be attached to its manifest with `mr_core.referrers.attach`."""

    kind: PaperKind
    artifact_type: str
    media_type: str
    content: bytes = field(repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)


def write_papers(
    *,
    config: BundleConfig,
    subject: Descriptor,
    components: Sequence[Component],
    recipe: Recipe,
    lock: Lock,
    interpreter: Interpreter,
    compiler: str,
    created: str,
    builder: str,
) -> tuple[Paper, ...]:
    """Return the bill of materials, the provenance and the licence report; equal arguments give equal bytes.

    Args:
        config: Of the bundle.
        subject: The bundle's manifest.
        components: Together they own every file of the bundle, each file once; bytecode belongs to who owns its source.
            Libraries grafted into the interpreter or vendored in wheels need not be told apart.
        recipe: What was built; licences it states come before those the distributions state.
        lock: Of the target.
        interpreter: What the bundle really holds.
        compiler: Exact version of the CPython that compiled the bytecode.
        created: When the image counts as created, ``YYYY-MM-DDTHH:MM:SSZ``.
        builder: Name and version of this tool, as in the bundle config.

    Raises:
        BuildError: when the components do not own every file of the bundle exactly once.
    """
    complete = [_completed(component, lock, interpreter) for component in components]
    parts = [split_libraries(component) for component in with_licences(complete, recipe.licences)]
    distributions = {
        part.component.name: part.component.metadata
        for part in parts
        if part.component.kind == "distribution" and part.component.metadata is not None
    }
    graph = require(recipe.target(config.target).requirements, distributions, config.target, config.python_version)
    sbom = write_sbom(config, subject.digest, parts, graph, created=created, builder=builder)
    provenance = write_provenance(
        config,
        subject.digest,
        recipe=recipe.raw,
        lock=lock,
        interpreter=interpreter,
        compiler=compiler,
        created=created,
        builder=builder,
    )
    return (
        _paper("sbom", sbom),
        _paper("provenance", provenance, {PREDICATE_ANNOTATION: PREDICATE_TYPE}),
        _paper("licences", write_licences(config, subject.digest, parts)),
    )


def _completed(component: Component, lock: Lock, interpreter: Interpreter) -> Component:
    """Return a component with what the lock and the interpreter know of its origin."""
    if component.kind == "interpreter":
        named = replace(component, name="cpython", version=interpreter.version)
        pin = lock.python
        return named if interpreter.source == "host" else replace(named, file=pin.file, sha256=pin.sha256, url=pin.url)
    wheel = next((wheel for wheel in lock.packages if wheel.name == component.name), None)
    if component.kind != "distribution" or wheel is None:
        return component
    return replace(component, version=wheel.version, file=wheel.file, sha256=wheel.sha256, url=wheel_address(wheel))


def _paper(kind: PaperKind, content: bytes, annotations: Mapping[str, str] = _NO_ANNOTATIONS) -> Paper:
    media_type = PAPER_KINDS[kind]
    return Paper(kind=kind, artifact_type=media_type, media_type=media_type, content=content, annotations=annotations)
