"""The index of a bundle version: one entry for each target, the same bytes whoever makes it.

A build that adds one target after the other, a push of some targets, and a job that joins what others pushed all make
it here, so equal manifests give an equal index. Everything in it comes from the manifests: an entry has the annotations
of its manifest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mr_core.bundle_config import ANNOTATION_BACKEND, ANNOTATION_MADE_FROM, ANNOTATION_TARGET
from mr_core.errors import InvalidInputError, NotFoundError
from mr_core.manifest import Descriptor, Index, Manifest, make_index
from mr_core.platform import Target

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"


def bundle_name(annotations: Mapping[str, str]) -> str:
    """Return what an index or a bundle is called in a layout, ``<backend>-<version>``; empty when it is none."""
    backend, version = annotations.get(ANNOTATION_BACKEND, ""), annotations.get(VERSION, "")
    return f"{backend}-{version}" if backend and version else ""


def bundle_entry(manifest: Manifest) -> Descriptor:
    """Return the entry of a bundle's manifest in the index of its version.

    Raises:
        InvalidInputError: when its annotations name no backend, version or target, or say that it is no bundle.
    """
    if made_from := manifest.annotations.get(ANNOTATION_MADE_FROM):
        raise InvalidInputError(
            f"Cannot make an index: {manifest.digest} is the model runner's image of a bundle, not the bundle",
            hint=f"name the bundle: {made_from[:100].rpartition(' ')[2]}",
        )
    return _checked(
        Descriptor(
            media_type=manifest.media_type,
            digest=manifest.digest,
            size=len(manifest.raw),
            annotations=dict(manifest.annotations),
        )
    )


def bundle_index(entries: Sequence[Descriptor]) -> Index:
    """Return the index of ``entries``, sorted by target.

    Raises:
        InvalidInputError: when there is none, when one names no backend, version or target, when two are for one
            target, or when they belong to different bundle versions.
    """
    if not entries:
        raise InvalidInputError("Cannot make an index: no bundle was named")
    found: dict[str, Descriptor] = {}
    for entry in map(_checked, entries):
        target = entry.annotations[ANNOTATION_TARGET]
        other = found.setdefault(target, entry)
        if other.digest != entry.digest:
            raise InvalidInputError(
                f"Cannot make an index: {other.digest} and {entry.digest} are both for `{target}`",
                hint="name one bundle for each target",
            )
    first, *others = found.values()
    for other in others:
        for key, word in ((ANNOTATION_BACKEND, "backend"), (VERSION, "version")):
            if other.annotations[key] != first.annotations[key]:
                raise InvalidInputError(
                    f"Cannot make an index: {first.digest} is {word} `{first.annotations[key]}`,"
                    f" {other.digest} is `{other.annotations[key]}`",
                    hint="an index holds the targets of one version of one backend",
                )
    backend, version = first.annotations[ANNOTATION_BACKEND], first.annotations[VERSION]
    return make_index(
        tuple(found[target] for target in sorted(found)),
        {TITLE: backend, VERSION: version, ANNOTATION_BACKEND: backend},
    )


def select_targets(index: Index, targets: Sequence[str], where: str) -> Index:
    """Return the index of only these targets; the index itself when that is all of them.

    Args:
        index: Of a bundle version.
        targets: Such as ``linux/amd64+cpu``.
        where: The index, for messages.

    Raises:
        NotFoundError: when it has no bundle for one of them; the hint lists those it has.
        InvalidInputError: when ``index`` is not that of one bundle version.
    """
    present = {entry.annotations.get(ANNOTATION_TARGET, ""): entry for entry in index.manifests}
    for target in targets:
        if target not in present or not target:
            known = ", ".join(f"`{name}`" for name in sorted(present) if name) or "none"
            raise NotFoundError(
                f"Cannot find a bundle for `{target}` in `{where}`", hint=f"targets there: {known}", target=target
            )
    chosen = set(targets)
    if chosen == set(present) and len(present) == len(index.manifests):
        return index
    return bundle_index([present[target] for target in sorted(chosen)])


def _checked(entry: Descriptor) -> Descriptor:
    for key in (ANNOTATION_BACKEND, VERSION, ANNOTATION_TARGET):
        if not entry.annotations.get(key):
            raise InvalidInputError(
                f"Cannot make an index with {entry.digest}: it has no annotation `{key}`, so it is no bundle",
                hint="name what `mr-bundle build` wrote",
            )
    target = Target.parse(entry.annotations[ANNOTATION_TARGET], f"target of {entry.digest}")
    return dataclasses.replace(entry, platform=target.platform, artifact_type="")
