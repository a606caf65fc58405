"""Turn a bundle into a stream that ``docker load`` reads: image config, ``manifest.json``, plain layers.

Engines before Docker 23 cannot read zstd, and all of them take plain layers, so these are decompressed on the way; the
image config stays byte for byte the same, and with it the image's identity. Form: "Docker image specification 1.2",
"Combined image JSON + filesystem changeset format", with the file names that skopeo's ``docker-archive:`` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mr_bundler.export.archive_tar import END, file_header, member_bytes, padding
from mr_bundler.export.layer_stream import layer_chunks, layer_size
from mr_bundler.published import PublishedBundle
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.errors import IntegrityError
from mr_core.events import Cancel
from mr_core.manifest import Descriptor
from mr_core.store import Source

_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedLayer:
    """A layer of the archive; ``size`` is that of its tar in bytes."""

    descriptor: Descriptor
    diff_id: Digest
    size: int

    @property
    def name(self) -> str:
        """Its file in the archive."""
        return f"{self.diff_id.hex}.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerArchive:
    """An archive before it is streamed; ``layers`` holds each tar once, in the order of the image."""

    files: dict[str, bytes]
    layers: tuple[ArchivedLayer, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""
        files = sum(member_bytes(name, len(content)) for name, content in self.files.items())
        return files + sum(member_bytes(layer.name, layer.size) for layer in self.layers) + len(END)

    def chunks(self, source: Source, *, cancel: Cancel | None = None) -> Iterator[bytes]:
        """Yield the archive in pieces of at most 1 MiB, in constant memory.

        Raises:
            IntegrityError: a layer differs from its digest, its diffID or the size it stated.
        """
        for name, content in self.files.items():
            yield file_header(name, len(content)) + content + padding(len(content))
        for layer in self.layers:
            yield file_header(layer.name, layer.size)
            left = layer.size
            for chunk in layer_chunks(source, layer.descriptor, layer.diff_id, cancel=cancel):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
            if left:
                raise IntegrityError(
                    f"Cannot accept layer {layer.descriptor.digest}: its tar does not have the {layer.size} bytes that"
                    " its header states",
                    hint="the image was damaged or replaced; get it from another source",
                )
            yield padding(layer.size)
        yield END


def plan_archive(
    source: Source,
    bundle: PublishedBundle,
    *,
    tag: str,
    cancel: Cancel | None = None,
    advance: Callable[[int], None] | None = None,
) -> DockerArchive:
    """Return the archive of ``bundle``; layers are read only where their size is known in no other way.

    Args:
        source: Where the bundle lies.
        bundle: What was read of it.
        tag: ``NAME:TAG`` that the image gets in the engine.
        cancel: Stops at the next piece of data.
        advance: Called with compressed bytes while a layer is counted.
    """
    config = bundle.manifest.config
    layers: dict[Digest, ArchivedLayer] = {}
    order = []
    for descriptor, published in zip(bundle.manifest.layers, bundle.layers, strict=True):
        diff_id = published.diff_id
        if diff_id not in layers:
            size = layer_size(source, descriptor, diff_id, cancel=cancel, advance=advance)
            layers[diff_id] = ArchivedLayer(descriptor=descriptor, diff_id=diff_id, size=size)
        order.append(layers[diff_id].name)
    listing = [{"Config": f"{config.digest.hex}.json", "RepoTags": [tag], "Layers": order}]
    files = {f"{config.digest.hex}.json": source.read_blob(config), _MANIFEST: dump_json(listing)}
    return DockerArchive(files=files, layers=tuple(layers.values()))
