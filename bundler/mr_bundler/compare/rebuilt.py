"""Say whether a bundle that was built again is the recorded one, and if not, what differs first. Pure.

The likeliest cause comes first: another interpreter or tool changes everything after it, so naming one of the files it
changed would lead the reader astray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mr_bundler.compare.files import FileChange, compare_files
from mr_bundler.compare.locks import flatten
from mr_bundler.published import PublishedBundle
from mr_core.file_manifest import UNLISTED, Entry

_MOST_FILES = 20


class Verdict(Enum):
    """How a rebuilt bundle compares with the recorded one.

    ``SAME_CONTENTS``: every tar, every file and the image config are equal; only the compressor gave other bytes, so
    the manifests differ. The identity of a bundle across versions of the compressor is its diffIDs and the digest of
    its file manifest: it counts as reproduced.
    """

    IDENTICAL = "identical"
    SAME_CONTENTS = "same-contents"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs.

    Attributes:
        kind: ``interpreter``, ``builder``, ``config``, ``file``, ``layer``, ``image``, ``manifest`` or ``compressor``.
        place: Path of the file, name of the layer or field; what it is about.
        recorded: What the recorded bundle has; empty when it has nothing there.
        rebuilt: What the rebuilt one has.
    """

    kind: str
    place: str
    recorded: str
    rebuilt: str

    def __str__(self) -> str:
        return f"{self.kind} `{self.place}`: recorded {self.recorded or 'nothing'}, rebuilt {self.rebuilt or 'nothing'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildComparison:
    """The verdict and what it rests on, the likeliest cause first.

    Attributes:
        files: How many files differ; `differences` names the first 20 of them.
        layers: Names of the layers whose tars differ.
    """

    verdict: Verdict
    differences: tuple[Difference, ...] = ()
    files: int = 0
    layers: tuple[str, ...] = ()


def compare_documents(recorded: PublishedBundle, rebuilt: PublishedBundle) -> RebuildComparison | None:
    """Return the verdict when the documents alone give one: equal bytes, or another compressor; else None."""
    if recorded.manifest.digest == rebuilt.manifest.digest:
        return RebuildComparison(verdict=Verdict.IDENTICAL)
    same_config = recorded.manifest.config.digest == rebuilt.manifest.config.digest
    if not same_config or recorded.manifest.annotations != rebuilt.manifest.annotations:
        return None
    blobs = tuple(
        Difference(
            kind="compressor", place=old.name, recorded=_blob(old.digest, old.size), rebuilt=_blob(new.digest, new.size)
        )
        for old, new in zip(recorded.layers, rebuilt.layers, strict=True)
        if old.digest != new.digest
    )
    return RebuildComparison(verdict=Verdict.SAME_CONTENTS, differences=blobs) if blobs else None


def compare_rebuild(
    recorded: PublishedBundle,
    rebuilt: PublishedBundle,
    recorded_files: Mapping[str, Entry],
    rebuilt_files: Mapping[str, Entry],
) -> RebuildComparison:
    """Return everything that differs between two bundles that are not equal.

    Args:
        recorded: The published one.
        rebuilt: The one that was built again.
        recorded_files: What really lies in its layers, not what its file manifest says.
        rebuilt_files: The same for the rebuilt one.
    """
    # The bundle's own lists differ because something else does.
    changes = sorted(compare_files(recorded_files, rebuilt_files), key=lambda change: change.path in UNLISTED)
    differences = [
        *_interpreter(recorded, rebuilt),
        *_fields("builder", {"builder": recorded.config.builder}, {"builder": rebuilt.config.builder}),
        *_fields("config", _described(recorded), _described(rebuilt)),
        *(_file(change) for change in changes[:_MOST_FILES]),
    ]
    layers = tuple(_layers(recorded, rebuilt))
    if not changes:
        differences += layers
    differences += _fields("image", _image(recorded), _image(rebuilt))
    differences += _fields("manifest", recorded.manifest.annotations, rebuilt.manifest.annotations)
    return RebuildComparison(
        verdict=Verdict.DIFFERENT,
        differences=tuple(differences),
        files=len(changes),
        layers=tuple(layer.place for layer in layers),
    )


def _blob(digest: object, size: int) -> str:
    return f"{digest} ({size} bytes)"


def _interpreter(recorded: PublishedBundle, rebuilt: PublishedBundle) -> Iterator[Difference]:
    texts = [f"CPython {side.config.python_version} ({side.config.python_source})" for side in (recorded, rebuilt)]
    if texts[0] != texts[1]:
        yield Difference(kind="interpreter", place="python", recorded=texts[0], rebuilt=texts[1])


def _described(bundle: PublishedBundle) -> dict[str, str]:
    """Return the fields of the bundle config that recipe and lock decide, by dotted path."""
    value: dict[str, Any] = bundle.config.to_json()
    for name in ("python", "builder", "contents"):  # told apart above, or follow from the files
        del value[name]
    return flatten("", value)


def _image(bundle: PublishedBundle) -> dict[str, str]:
    """Return the rest of the image config: neither the bundle config nor the diffIDs."""
    value = {name: item for name, item in bundle.image.items() if name != "rootfs"}
    settings = value.get("config")
    if isinstance(settings, dict):
        value["config"] = {name: item for name, item in settings.items() if name != "Labels"}
    return flatten("", value)


def _fields(kind: str, recorded: Mapping[str, str], rebuilt: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(recorded.keys() | rebuilt.keys()):
        old, new = recorded.get(name, ""), rebuilt.get(name, "")
        if old != new:
            yield Difference(kind=kind, place=name, recorded=old, rebuilt=new)


def _file(change: FileChange) -> Difference:
    return Difference(kind="file", place=change.path, recorded=change.old, rebuilt=change.new)


def _layers(recorded: PublishedBundle, rebuilt: PublishedBundle) -> Iterator[Difference]:
    """Yield the layers whose tars differ; they are told apart by name, for one more shifts all numbers."""
    old = {layer.name: str(layer.diff_id) for layer in recorded.layers}
    new = {layer.name: str(layer.diff_id) for layer in rebuilt.layers}
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield Difference(kind="layer", place=name, recorded=old.get(name, ""), rebuilt=new.get(name, ""))
