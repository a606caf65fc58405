"""Resolve a name in a source to one bundle for this host, reading nothing but verified documents."""

from __future__ import annotations

from dataclasses import dataclass

from mr_core.bundle_config import (
    ANNOTATION_MADE_FROM,
    ANNOTATION_REQUIRES,
    ANNOTATION_TARGET,
    LABEL,
    BundleConfig,
    HostRequirements,
    parse_bundle_config,
)
from mr_core.decode import Decoder, parse_json
from mr_core.digest import Digest
from mr_core.errors import BundleError, InvalidInputError, UnsupportedError
from mr_core.manifest import LAYER_COMPRESSION, Descriptor, Index, Manifest, parse_document
from mr_core.platform import Platform, Target
from mr_core.store import Source
from mr_installer.host import Host
from mr_installer.selection import Candidate, Reason, Rejection, judge, select

MAX_CONFIG_BYTES = 4 << 20
_UNKNOWN = Platform("unknown", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer: the compressed blob, and the digest of its uncompressed bytes."""

    descriptor: Descriptor
    diff_id: Digest
    compression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One bundle in a source, fully described before a layer byte is fetched.

    Attributes:
        resolved: What the source's name pointed to.
        manifest: The image manifest; its digest is the bundle's identity.
        label: The exact bytes of the bundle config.
        rejected: Targets of the same index that this host cannot run.
    """

    resolved: Digest
    manifest: Manifest
    config: BundleConfig
    label: bytes
    layers: tuple[Layer, ...]
    rejected: tuple[Rejection, ...] = ()

    @property
    def digest(self) -> Digest:
        """The bundle's identity."""
        return self.manifest.digest


def read_bundle(source: Source, found: Descriptor, host: Host, *, what: str, wanted: Target | None = None) -> Bundle:
    """Read the documents below ``found`` and choose the target for ``host``.

    Raises:
        UnsupportedError: no target fits this host, or the image is not a bundle of this project.
        InvalidInputError: a document is malformed.
        IntegrityError: a document does not match its digest.
    """
    document = parse_document(source.read_document(found), found.media_type)
    rejected: tuple[Rejection, ...] = ()
    announced: Target | None = None
    if isinstance(document, Index):
        candidates, unknown = _candidates(document)
        selection = select(candidates, host, what=what, wanted=wanted, unknown=unknown)
        rejected = selection.rejected
        announced = selection.chosen.target
        entry = selection.chosen.descriptor
        document = parse_document(source.read_document(entry), entry.media_type)
        if isinstance(document, Index):
            raise UnsupportedError(f"Cannot install {what}: its index holds another index")
    config, label, diff_ids = _image_config(source, document, what)
    if announced is not None and config.target != announced:
        raise InvalidInputError(
            f"Cannot install {what}: its index announces {announced}, but the bundle is for {config.target}",
            hint="tell its publisher",
        )
    reasons = judge(config.target, config.requires, host)
    if wanted is not None and config.target != wanted:
        reasons = (*reasons, Reason(code="not-wanted", text=f"`{wanted}` was asked for"))
    if reasons:
        text = "; ".join(reason.text for reason in reasons)
        raise UnsupportedError(
            f"Cannot install {what} on {host.platform}: {config.target}: {text}",
            hint="choose another version or backend, or a host that meets this",
            rejected={str(config.target): [reason.code for reason in reasons]},
        )
    return Bundle(
        resolved=found.digest,
        manifest=document,
        config=config,
        label=label,
        layers=_layers(document, diff_ids, what),
        rejected=rejected,
    )


def _candidates(index: Index) -> tuple[list[Candidate], tuple[Rejection, ...]]:
    """Return the entries that can be judged, and those whose target or requirements a newer tool invented."""
    found, unknown = [], []
    for entry in index.manifests:
        if entry.platform is None or entry.platform == _UNKNOWN:
            continue  # attestations and other attachments
        text = entry.annotations.get(ANNOTATION_TARGET, f"{entry.platform}+cpu")
        try:
            target = Target.parse(text, f"annotation `{ANNOTATION_TARGET}`")
            requires = _requires(entry.annotations.get(ANNOTATION_REQUIRES, "{}"))
        except BundleError as error:
            unknown.append(Rejection(target=text, reasons=(Reason(code="unknown-target", text=error.message),)))
        else:
            found.append(Candidate(target=target, requires=requires, descriptor=entry))
    return found, tuple(unknown)


def _bytes(text: str) -> bytes:
    """Return UTF-8; what no UTF-8 can say becomes bytes that the JSON parser refuses."""
    return text.encode("utf-8", "surrogatepass")


def _requires(text: str) -> HostRequirements:
    what = f"annotation `{ANNOTATION_REQUIRES}`"
    read = Decoder(parse_json(_bytes(text), what), what)
    requires = HostRequirements.decode(read)
    read.finish()
    return requires


def _image_config(source: Source, manifest: Manifest, what: str) -> tuple[BundleConfig, bytes, tuple[Digest, ...]]:
    if made_from := manifest.annotations.get(ANNOTATION_MADE_FROM):
        raise UnsupportedError(
            f"Cannot install {what}: it is the model runner's image of a bundle, not the bundle",
            hint=f"install the bundle it was made from: {made_from[:100].rpartition(' ')[2]}",
        )
    raw = source.read_blob(manifest.config, limit=MAX_CONFIG_BYTES)
    read = Decoder(parse_json(raw, "image config", limit=MAX_CONFIG_BYTES), "image config")
    labels = read.table("config").table("Labels")
    label = labels.value.get(LABEL)
    if not isinstance(label, str):
        raise UnsupportedError(
            f"Cannot install {what}: the image is not a backend bundle (it has no label `{LABEL}`)",
            hint="build one with `mr-bundle build`",
        )
    rootfs = read.table("rootfs", required=True)
    texts = rootfs.texts("diff_ids", required=True)
    read.finish()
    diff_ids = tuple(Digest.parse(text, f"image config rootfs.diff_ids[{i}]") for i, text in enumerate(texts))
    return parse_bundle_config(_bytes(label)), _bytes(label), diff_ids


def _layers(manifest: Manifest, diff_ids: tuple[Digest, ...], what: str) -> tuple[Layer, ...]:
    if len(diff_ids) != len(manifest.layers):
        raise InvalidInputError(
            f"Cannot install {what}: {len(manifest.layers)} layers but {len(diff_ids)} diff ids in the image config"
        )
    layers = []
    for index, (descriptor, diff_id) in enumerate(zip(manifest.layers, diff_ids, strict=True)):
        compression = LAYER_COMPRESSION.get(descriptor.media_type)
        if compression is None:
            raise UnsupportedError(
                f"Cannot install {what}: layers[{index}] has the unknown media type `{descriptor.media_type}`"
            )
        layers.append(Layer(descriptor=descriptor, diff_id=diff_id, compression=compression))
    return tuple(layers)
