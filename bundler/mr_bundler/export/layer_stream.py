"""Read a layer of any source as the tar stream it holds, verified on both sides of the compressor."""

from __future__ import annotations

from collections.abc import Callable, Generator

from mr_core.compression import FRAME_HEADER_BYTES, open_decompressor, stated_size
from mr_core.digest import Digest
from mr_core.errors import IntegrityError, UnsupportedError
from mr_core.events import Cancel
from mr_core.manifest import LAYER_COMPRESSION, Descriptor
from mr_core.reader import VerifyingReader
from mr_core.resuming import ResumingStream
from mr_core.store import Source

_READ_BYTES = 256 << 10


def layer_chunks(
    source: Source,
    layer: Descriptor,
    diff_id: Digest,
    *,
    cancel: Cancel | None = None,
    advance: Callable[[int], None] | None = None,
) -> Generator[bytes, None, None]:
    """Yield the tar of a layer in chunks of at most 1 MiB; whoever exhausts it has had the right bytes.

    Args:
        source: Where the layer lies; broken connections are continued.
        layer: Its descriptor.
        diff_id: Digest of the tar.
        cancel: Stops at the next piece.
        advance: Called with the number of compressed bytes of each piece read.

    Raises:
        IntegrityError: the bytes differ from ``layer.digest`` or from ``diff_id``, or are not one whole stream.
        UnsupportedError: the media type is no layer that this tool can read.
    """
    decoder = open_decompressor(compression_of(layer))
    hasher = diff_id.hasher()
    with ResumingStream(source, layer, cancel=cancel) as stream:
        reader = VerifyingReader(stream, layer.digest, layer.size, what="layer")
        while part := reader.read(_READ_BYTES):
            for chunk in decoder.feed(part):
                hasher.update(chunk)
                yield chunk
            if advance is not None:
                advance(len(part))
        reader.finish()
        decoder.finish()
    if hasher.hexdigest() != diff_id.hex:
        raise IntegrityError(
            f"Cannot accept layer {layer.digest}: its tar has the digest {diff_id.algorithm}:{hasher.hexdigest()}, "
            f"and the image config says {diff_id}",
            hint="the image was damaged or replaced; get it from another source",
            digest=str(layer.digest),
        )


def layer_size(
    source: Source,
    layer: Descriptor,
    diff_id: Digest,
    *,
    cancel: Cancel | None = None,
    advance: Callable[[int], None] | None = None,
) -> int:
    """Return the size of a layer's tar: what the frame header says, or else the count of a pass over the whole layer.

    What a header says is not checked here.
    """
    kind = compression_of(layer)
    if kind == "none":
        return layer.size
    if kind == "zstd":
        with ResumingStream(source, layer, cancel=cancel) as stream:
            head = b""
            while len(head) < FRAME_HEADER_BYTES and (part := stream.read(FRAME_HEADER_BYTES - len(head))):
                head += part
        stated = stated_size(kind, head)
        if stated is not None:
            return stated
    return sum(len(chunk) for chunk in layer_chunks(source, layer, diff_id, cancel=cancel, advance=advance))


def compression_of(layer: Descriptor) -> str:
    """Return ``zstd``, ``gzip`` or ``none``; raise `UnsupportedError` for any other media type."""
    kind = LAYER_COMPRESSION.get(layer.media_type)
    if kind is None:
        raise UnsupportedError(
            f"Cannot read layer {layer.digest}: its media type `{layer.media_type[:100]}` is not known",
            hint="name a bundle that `mr-bundle build` made",
        )
    return kind
