"""Attach the papers of a bundle that was just written, and see whether those of an earlier one are still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mr_bundler.environment.parts import INTERPRETER, OWN, Part
from mr_bundler.interpreter import Interpreter
from mr_bundler.lock.lock import Lock
from mr_bundler.papers.component import Component
from mr_bundler.papers.papers import write_papers
from mr_bundler.recipe.recipe import Recipe
from mr_bundler.result import BuiltPaper
from mr_core.bundle_config import BundleConfig
from mr_core.digest import Digest
from mr_core.events import Cancel, Phase, Reporter
from mr_core.file_manifest import Entry
from mr_core.manifest import Descriptor, Manifest, parse_document
from mr_core.referrers import attach, referrers
from mr_core.store import Store


def attach_papers(
    store: Store,
    subject: Descriptor,
    *,
    config: BundleConfig,
    owned: Mapping[str, Sequence[Entry]],
    parts: Mapping[str, Part],
    recipe: Recipe,
    lock: Lock,
    interpreter: Interpreter,
    created: str,
    report: Reporter,
    cancel: Cancel,
) -> tuple[BuiltPaper, ...]:
    """Write the papers of the bundle ``subject`` and attach them in place of others of their kinds.

    Args:
        store: Where the bundle is.
        subject: Its manifest.
        config: Its bundle config.
        owned: All its files by owner, bytecode and the bundle's own files included.
        parts: What it was composed of.
        recipe: What was built.
        lock: Of the target.
        interpreter: What is in it.
        created: When the image counts as created.
        report: Gets the phase ``papers``.
        cancel: Stops between two papers.
    """
    with Phase(report, "papers") as phase:
        papers = write_papers(
            config=config,
            subject=subject,
            components=[_component(owner, entries, parts, config) for owner, entries in owned.items()],
            recipe=recipe,
            lock=lock,
            interpreter=interpreter,
            created=created,
            builder=config.builder,
        )
        attached = [
            BuiltPaper(
                kind=paper.kind,
                digest=attach(
                    store,
                    subject,
                    artifact_type=paper.artifact_type,
                    media_type=paper.media_type,
                    content=paper.content,
                    annotations=paper.annotations,
                    replace=True,
                    cancel=cancel,
                ).digest,
                size=len(paper.content),
            )
            for paper in papers
        ]
        phase.detail = {"papers": len(attached), "bytes": sum(paper.size for paper in attached)}
    return tuple(attached)


def has_papers(store: Store, subject: Digest, papers: Sequence[BuiltPaper]) -> bool:
    """Whether these papers are attached to the bundle ``subject``, and all of their bytes are there.

    Raises:
        BundleError: when the list of papers, or one of them, cannot be read.
    """
    attached = {entry.digest: entry for entry in referrers(store, subject)}
    for paper in papers:
        entry = attached.get(paper.digest)
        if entry is None:
            return False
        document = parse_document(store.read_document(entry), entry.media_type)
        if not isinstance(document, Manifest) or not all(store.has_blob(blob) for blob in document.layers):
            return False
    return True


def _component(owner: str, entries: Sequence[Entry], parts: Mapping[str, Part], config: BundleConfig) -> Component:
    if owner == INTERPRETER:
        return Component(kind="interpreter", name="cpython", entries=entries)
    if owner == OWN:
        return Component(kind="bundle", name=config.backend, version=config.version, entries=entries)
    if owner.startswith("("):
        return Component(kind="prebuild", name=owner.strip("()").removeprefix("prebuild "), entries=entries)
    return Component(kind="distribution", name=owner, entries=entries, metadata=parts[owner].metadata)
