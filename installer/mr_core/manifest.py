"""Descriptors, manifests and indexes of the OCI image specification 1.1, parsed strictly; raw bytes are kept.

A digest is over bytes, so a parsed document carries the bytes it came from. Only bytes whose digest matched are parsed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.digest import Digest
from mr_core.errors import InvalidInputError
from mr_core.platform import Platform

MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
MEDIA_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MEDIA_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
MEDIA_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

ACCEPT = (MEDIA_INDEX, MEDIA_MANIFEST, MEDIA_DOCKER_LIST, MEDIA_DOCKER_MANIFEST)
LAYER_COMPRESSION = {
    MEDIA_LAYER_ZSTD: "zstd",
    MEDIA_LAYER_GZIP: "gzip",
    MEDIA_DOCKER_LAYER: "gzip",
    MEDIA_LAYER_TAR: "none",
}
MAX_MANIFEST_BYTES = 4 << 20
MAX_BLOB_BYTES = 1 << 40
MAX_LAYERS = 127

REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A pointer to content: media type, digest, size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as the specification's JSON object."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.platform is not None:
            value["platform"] = {"architecture": self.platform.architecture, "os": self.platform.os}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image manifest: one config and its layers, in order."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = field(default_factory=dict)
    media_type: str = MEDIA_MANIFEST
    artifact_type: str = ""
    subject: Descriptor | None = None
    raw: bytes = field(repr=False)

    @property
    def digest(self) -> Digest:
        """The identity of the bundle."""
        return Digest.of(self.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An image index: one descriptor for each target."""

    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = field(default_factory=dict)
    media_type: str = MEDIA_INDEX
    artifact_type: str = ""
    subject: Descriptor | None = None
    raw: bytes = field(repr=False)

    @property
    def digest(self) -> Digest:
        """The identity of the index."""
        return Digest.of(self.raw)


Document: TypeAlias = Manifest | Index


def parse_document(raw: bytes, media_type: str = "") -> Document:
    """Parse a manifest or an index whose digest has been verified already.

    Args:
        raw: The document, at most 4 MiB.
        media_type: What the descriptor or the server called it; the document's own ``mediaType`` must agree.

    Raises:
        InvalidInputError: with every problem and its path.
    """
    value = parse_json(raw, "manifest", limit=MAX_MANIFEST_BYTES)
    if not isinstance(value, dict):
        raise InvalidInputError("Cannot read manifest: expected a JSON object")
    read = Decoder(value, "manifest")
    if read.integer("schemaVersion", 2) != 2:
        read.problem("only schema version 2 is known", "schemaVersion")
    stated = read.text("mediaType", "")
    if "manifests" in value and "layers" in value:
        read.problem("holds both `manifests` and `layers`")
    kind = stated or (MEDIA_INDEX if "manifests" in value else MEDIA_MANIFEST)
    if media_type in ACCEPT and media_type != kind:
        read.problem(f"is `{kind}` but was announced as `{media_type}`", "mediaType")
    subject = _descriptor(read.table("subject")) if read.has("subject") else None
    artifact_type = read.text("artifactType", "")
    annotations = read.text_map("annotations")
    if kind in {MEDIA_INDEX, MEDIA_DOCKER_LIST}:
        entries = tuple(_descriptor(child) for child in read.tables("manifests", required=True))
        read.finish()
        return Index(
            manifests=entries, annotations=annotations, media_type=kind,
            artifact_type=artifact_type, subject=subject, raw=raw,
        )  # fmt: skip
    if kind not in {MEDIA_MANIFEST, MEDIA_DOCKER_MANIFEST}:
        read.problem(f"`{kind}` is neither an image manifest nor an index", "mediaType")
    config = _descriptor(read.table("config", required=True))
    layers = tuple(_descriptor(child) for child in read.tables("layers", required=True))
    if len(layers) > MAX_LAYERS:
        read.problem(f"{len(layers)} layers, more than {MAX_LAYERS}", "layers")
    read.finish()
    return Manifest(
        config=config, layers=layers, annotations=annotations, media_type=kind,
        artifact_type=artifact_type, subject=subject, raw=raw,
    )  # fmt: skip


def _descriptor(read: Decoder) -> Descriptor:
    platform = None
    if read.has("platform"):
        table = read.table("platform")
        platform = Platform(table.text("os", ""), table.text("architecture", ""))
    return Descriptor(
        media_type=read.text("mediaType"),
        digest=read.parsed("digest", Digest.parse, _NO_DIGEST),
        size=read.integer("size", least=0, most=MAX_BLOB_BYTES),
        annotations=read.text_map("annotations"),
        platform=platform,
        artifact_type=read.text("artifactType", ""),
    )


_NO_DIGEST = Digest("sha256", "0" * 64)


def make_manifest(config: Descriptor, layers: tuple[Descriptor, ...], annotations: dict[str, str]) -> Manifest:
    """Serialise an image manifest canonically."""
    value = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
        "annotations": annotations,
    }
    return Manifest(config=config, layers=layers, annotations=annotations, raw=dump_json(value))


def make_index(manifests: tuple[Descriptor, ...], annotations: dict[str, str]) -> Index:
    """Serialise an image index canonically; the order of ``manifests`` is kept."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_INDEX,
        "manifests": [entry.to_json() for entry in manifests],
    }
    if annotations:
        value["annotations"] = annotations
    return Index(manifests=manifests, annotations=annotations, raw=dump_json(value))
