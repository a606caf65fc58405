"""A tiny but real image, so that skopeo, podman and docker accept it: one config, two gzip layers, an index on top."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass

from mr_core.digest import Digest
from mr_core.manifest import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER_GZIP,
    MEDIA_MANIFEST,
    Descriptor,
    make_index,
    make_manifest,
)
from mr_core.memory import BytesStream
from mr_core.platform import Platform
from mr_core.store import Store


@dataclass(frozen=True, kw_only=True)
class SmallImage:
    """The parts of an image, not yet in any store."""

    blobs: tuple[tuple[Descriptor, bytes], ...]
    manifest: bytes
    index: bytes

    @property
    def manifest_descriptor(self) -> Descriptor:
        return describe(self.manifest, MEDIA_MANIFEST)

    @property
    def index_descriptor(self) -> Descriptor:
        return describe(self.index, MEDIA_INDEX)

    def write(self, store: Store, name: str) -> Descriptor:
        """Put everything into a store, in the right order, and return the index."""
        for descriptor, content in self.blobs:
            store.put_blob(descriptor, BytesStream(content))
        store.put_document(self.manifest, MEDIA_MANIFEST)
        return store.put_document(self.index, MEDIA_INDEX, name=name)


def describe(content: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    """Return the descriptor of some bytes."""
    return Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content))


def small_image(text: str = "hello", *, filler: int = 0) -> SmallImage:
    """Make an image for linux/amd64 whose content depends on ``text``; ``filler`` adds so many incompressible bytes."""
    tars = [_tar("backend/a.txt", text.encode()), _tar("backend/b.bin", _noise(text, filler))]
    layers = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"text": text}},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
        }
    ).encode()
    blobs = [(describe(config, MEDIA_CONFIG), config)]
    blobs += [(describe(layer, MEDIA_LAYER_GZIP), layer) for layer in layers]
    manifest = make_manifest(blobs[0][0], tuple(blob for blob, _ in blobs[1:]), {}).raw
    entry = Descriptor(
        media_type=MEDIA_MANIFEST,
        digest=Digest.of(manifest),
        size=len(manifest),
        platform=Platform("linux", "amd64"),
    )
    return SmallImage(blobs=tuple(blobs), manifest=manifest, index=make_index((entry,), {}).raw)


def _tar(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        directory = tarfile.TarInfo("backend")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _noise(seed: str, size: int) -> bytes:
    blocks = (hashlib.sha256(f"{seed}{number}".encode()).digest() for number in range(size // 32 + 1))
    return b"".join(blocks)[:size]
