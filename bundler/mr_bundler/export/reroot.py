"""Write a layer again under another top directory, as gzip: one pass in constant memory over a verified stream.

The same layer and directory give the same bytes, so distributions that did not change keep their layers in the
rewritten image too. (gzip's bytes depend on the zlib build, as zstd's depend on its version; diffIDs do not.)
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.export.archive_tar import END
from mr_bundler.export.layer_stream import layer_chunks
from mr_bundler.image.tar_writer import BLOCK, MTIME
from mr_core.bundle_config import IMAGE_ROOT
from mr_core.compression import open_compressor
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import InvalidInputError
from mr_core.events import Cancel
from mr_core.manifest import MEDIA_LAYER_GZIP, Descriptor
from mr_core.store import BlobFile, Source
from mr_installer.extract.header import DIRECTORY, LINK
from mr_installer.extract.job import Limits
from mr_installer.extract.links import check_links
from mr_installer.extract.tar_reader import Member, TarReader

LEVEL = 6
"""Of gzip: level 9 takes three times as long for one percent."""
_PIECE = 1 << 20
_TYPES = {DIRECTORY: tarfile.DIRTYPE, LINK: tarfile.SYMTYPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class RerootedLayer:
    """A rewritten layer: its blob in a scratch file, and what is in it, below the top directory.

    Attributes:
        links: Target of each symbolic link.
    """

    descriptor: Descriptor
    diff_id: Digest
    blob: BlobFile
    files: frozenset[str]
    links: Mapping[str, str]
    directories: frozenset[str]


def reroot_layer(
    source: Source,
    layer: Descriptor,
    diff_id: Digest,
    *,
    root: str,
    scratch: Path,
    most_bytes: int,
    cancel: Cancel | None = None,
    advance: Callable[[int], None] | None = None,
) -> RerootedLayer:
    """Write a bundle's layer into ``scratch`` with ``root/`` in the place of its top directory, compressed with gzip.

    The layer is read as strictly as the installer reads it, so what comes out holds regular files, directories and
    symbolic links only, each once, after its parent, in ustar form with a PAX header just where a path needs one.

    Args:
        source: Where the layer lies.
        layer: Its descriptor.
        diff_id: Digest of its tar.
        root: The new top directory.
        scratch: Directory for the blob.
        most_bytes: Most that the files of the layer may have together.
        cancel: Stops at the next piece.
        advance: Called with the number of compressed bytes of each piece read.

    Raises:
        IntegrityError: the layer differs from its digests, or breaks a rule for layers of bundles.
        HostError: the scratch file cannot be written.
    """
    compressor = open_compressor("gzip", size=0, level=LEVEL)
    tar_digest, blob_digest, size = hashlib.sha256(), hashlib.sha256(), 0
    found: dict[bytes, dict[str, str]] = {}
    chunks = layer_chunks(source, layer, diff_id, cancel=cancel, advance=advance)
    with (
        host_errors("write a layer in", scratch),
        tempfile.NamedTemporaryFile(dir=scratch, delete=False) as blob,
        closing(chunks),
        closing(_tar(TarReader(chunks, root=IMAGE_ROOT, limits=Limits(bytes=most_bytes)), root, found)) as pieces,
    ):
        for piece in pieces:
            tar_digest.update(piece)
            out = compressor.compress(piece)
            blob_digest.update(out)
            size += blob.write(out)
        out = compressor.finish()
        blob_digest.update(out)
        size += blob.write(out)
    links, directories = found.pop(LINK, {}), found.pop(DIRECTORY, {})
    return RerootedLayer(
        descriptor=Descriptor(media_type=MEDIA_LAYER_GZIP, digest=Digest("sha256", blob_digest.hexdigest()), size=size),
        diff_id=Digest("sha256", tar_digest.hexdigest()),
        blob=BlobFile(path=Path(blob.name), size=size),
        files=frozenset(path for paths in found.values() for path in paths),
        links=links,
        directories=frozenset(directories) - {""},
    )


def check_tree(layers: list[RerootedLayer]) -> None:
    """Check what no layer shows alone: that files and links stand in one layer only, and where links lead.

    Directories may repeat; whoever extracts one layer after the other finds each of them made already.

    Raises:
        InvalidInputError: two layers hold the same path.
        IntegrityError: a link leaves the tree, or leads through what is no directory.
    """
    links: dict[str, str] = {}
    files: set[str] = set()
    directories: set[str] = set()
    for layer in layers:
        for path in (*layer.files, *layer.links):
            if path in files or path in links:
                raise _twice(path)
        files |= layer.files
        links |= layer.links
        directories |= layer.directories
    for path in sorted(directories & (files | links.keys())):
        raise _twice(path)
    check_links(links, files, directories)


def _twice(path: str) -> InvalidInputError:
    return InvalidInputError(
        f"Cannot rewrite the image: two layers hold `{path}`", hint="name a bundle that `mr-bundle build` made"
    )


def _tar(reader: TarReader, root: str, found: dict[bytes, dict[str, str]]) -> Generator[bytes, None, None]:
    """Yield the new tar in pieces of about 1 MiB, and note its members by kind."""
    piece = bytearray()
    for member in reader.members():
        found.setdefault(member.kind, {})[member.path] = member.link
        piece += _header(f"{root}/{member.path}" if member.path else root, member)
        for content in reader.content():
            piece += content
            if len(piece) >= _PIECE:
                yield bytes(piece)
                piece.clear()
        piece += bytes(-member.size % BLOCK)
    yield bytes(piece) + END


def _header(path: str, member: Member) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.type = _TYPES.get(member.kind, tarfile.REGTYPE)
    entry.mode, entry.size, entry.linkname, entry.mtime = member.mode, member.size, member.link, MTIME
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError:  # a path, a link target or a size does not fit
        return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
