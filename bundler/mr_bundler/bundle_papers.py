"""Attach the papers of a bundle that was just written, and see whether those of an earlier one are still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mr_bundler.environment.leaks import Needle, find_leaks, refuse_leaks
from mr_bundler.environment.parts import INTERPRETER, OWN, Part
from mr_bundler.image.image import remove_damaged
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
from mr_core.layout import LayoutStore
from mr_core.manifest import Descriptor
from mr_core.referrers import attach, read_referrer, referrers
from mr_core.store import Store


def attach_papers(
    store: LayoutStore,
    subject: Descriptor,
    *,
    config: BundleConfig,
    owned: Mapping[str, Sequence[Entry]],
    parts: Mapping[str, Part],
    recipe: Recipe,
    lock: Lock,
    interpreter: Interpreter,
    compiler: str,
    needles: Sequence[Needle],
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
        compiler: Exact version of the CPython that compiled its bytecode.
        needles: Must not occur in papers.
        created: When the image counts as created.
        report: Gets the phase ``papers``.
        cancel: Stops between two papers.

    Raises:
        BuildError: a paper names a directory of this machine.
    """
    with Phase(report, "papers") as phase:
        papers = write_papers(
            config=config,
            subject=subject,
            components=[_component(owner, entries, parts, config) for owner, entries in owned.items()],
            recipe=recipe,
            lock=lock,
            interpreter=interpreter,
            compiler=compiler,
            created=created,
            builder=config.builder,
        )
        refuse_leaks(find_leaks({f"{paper.kind} paper": paper.content for paper in papers}, needles))
        for paper in papers:
            content = Descriptor(media_type="", digest=Digest.of(paper.content), size=len(paper.content))
            remove_damaged(store, content)
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
    """Whether these papers are attached to the bundle ``subject``, and all of their bytes are there, which are read.

    Raises:
        BundleError: when the list of papers, or one of them, cannot be read.
    """
    attached = {entry.digest: entry for entry in referrers(store, subject)}
    for paper in papers:
        entry = attached.get(paper.digest)
        if entry is None:
            return False
        read_referrer(store, entry)
    return True


def _component(owner: str, entries: Sequence[Entry], parts: Mapping[str, Part], config: BundleConfig) -> Component:
    if owner == INTERPRETER:
        return Component(kind="interpreter", name="cpython", entries=entries)
    if owner == OWN:
        return Component(kind="bundle", name=config.backend, version=config.version, entries=entries)
    if owner.startswith("("):
        return Component(kind="prebuild", name=owner.strip("()").removeprefix("prebuild "), entries=entries)
    return Component(kind="distribution", name=owner, entries=entries, metadata=parts[owner].metadata)
