"""Change a built bundle as somebody with access to a registry could: one layer, the label, and all documents above."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mr_core.bundle_config import LABEL
from mr_core.compression import open_compressor, open_decompressor
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.layout import LayoutStore
from mr_core.manifest import LAYER_COMPRESSION, MEDIA_INDEX, MEDIA_MANIFEST, parse_document
from mr_core.memory import BytesStream
from support.small_image import describe


def unpack_blob(layout: Path, layer: dict[str, Any]) -> bytes:
    """Return the tar of a layer."""
    blob = (layout / "blobs" / "sha256" / layer["digest"].partition(":")[2]).read_bytes()
    decoder = open_decompressor(LAYER_COMPRESSION[layer["mediaType"]])
    tar = b"".join(bytes(chunk) for chunk in decoder.feed(blob))
    decoder.finish()
    return tar


def retouch(
    layout: Path,
    name: str,
    *,
    tar: Callable[[bytes], bytes] = bytes,
    repack: bool = False,
    label: Callable[[dict[str, Any]], None] | None = None,
    new_name: str = "retouched",
) -> str:
    """Write a changed copy of the one bundle called ``name`` and return its manifest digest.

    Args:
        layout: Where it is, and the copy goes.
        name: Of an index with one bundle.
        tar: Gives the new bytes of each layer's tar; a layer whose tar stays the same keeps its blob.
        repack: Whether every layer is compressed again, at another level.
        label: Changes the bundle config in place.
        new_name: Of the copy.
    """
    store = LayoutStore(layout)
    index = json.loads(store.read_document(store.resolve(name)))
    entry = index["manifests"][0]
    blobs = layout / "blobs" / "sha256"
    manifest = json.loads((blobs / entry["digest"].partition(":")[2]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"].partition(":")[2]).read_bytes())
    for number, layer in enumerate(manifest["layers"]):
        old = unpack_blob(layout, layer)
        new = tar(old)
        if new == old and not repack:
            continue
        blob = _compress(new)
        descriptor = describe(blob, layer["mediaType"])
        store.put_blob(descriptor, BytesStream(blob))
        manifest["layers"][number] = {**layer, "digest": str(descriptor.digest), "size": descriptor.size}
        config["rootfs"]["diff_ids"][number] = str(Digest.of(new))
    if label is not None:
        value = json.loads(config["config"]["Labels"][LABEL])
        label(value)
        config["config"]["Labels"][LABEL] = dump_json(value).decode()
    raw = dump_json(config)
    descriptor = describe(raw, manifest["config"]["mediaType"])
    store.put_blob(descriptor, BytesStream(raw))
    manifest["config"] = {**manifest["config"], "digest": str(descriptor.digest), "size": descriptor.size}
    document = dump_json(manifest)
    parse_document(document)
    put = store.put_document(document, MEDIA_MANIFEST)
    index["manifests"][0] = {**entry, "digest": str(put.digest), "size": put.size}
    store.put_document(dump_json(index), MEDIA_INDEX, name=new_name, overwrite=True)
    return str(put.digest)


def _compress(tar: bytes) -> bytes:
    """Compress at another level than the packer's: other bytes, the same tar."""
    compressor = open_compressor("zstd", size=len(tar), level=3)
    return compressor.compress(tar) + compressor.finish()
