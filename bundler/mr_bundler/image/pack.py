"""Pack layers: tar, digest, compress and digest again in one pass over the files."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mr_bundler.cache import CachedLayer
from mr_bundler.environment.bytecode import is_source
from mr_bundler.image.tar_writer import MTIME, TAR_FORMAT, tar_pieces, tar_size
from mr_bundler.parallel import Check
from mr_core.bundle_config import IMAGE_ROOT
from mr_core.compression import LEVEL, open_compressor
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.file_manifest import Entry, FileEntry, dump_entries

COMPRESSION = "zstd"


def compressor_identity() -> str:
    """Return a text that changes when the same tar may compress to other bytes."""
    if sys.version_info >= (3, 14):
        library = f"python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    else:
        try:
            library = f"backports.zstd {version('backports.zstd')}"
        except PackageNotFoundError:
            library = "unknown"
    return f"{COMPRESSION} -{LEVEL} {library}"


def layer_key(entries: Sequence[Entry], bytecode: str) -> str:
    """Return the key of a layer: a digest of everything that decides its bytes.

    Args:
        entries: Its files without bytecode.
        bytecode: Identity of what compiles; does not count in a layer without Python files.
    """
    compiles = any(isinstance(entry, FileEntry) and is_source(entry.path) for entry in entries)
    facts = [TAR_FORMAT, MTIME, IMAGE_ROOT, compressor_identity(), bytecode if compiles else ""]
    return hashlib.sha256(dump_json(facts) + b"\n" + dump_entries(entries)).hexdigest()


def pack_layer(
    root: Path,
    entries: Sequence[Entry],
    bytecode: tuple[FileEntry, ...],
    *,
    scratch: Path,
    threads: int,
    check: Check,
    progress: Callable[[int], None],
) -> tuple[CachedLayer, Path]:
    """Write the blob of a layer into ``scratch``; return what it is and where.

    Args:
        root: The tree.
        entries: All files and links of the layer but bytecode.
        bytecode: Compiled files of the layer.
        scratch: Directory for the blob.
        threads: For the compressor; without influence on the bytes.
        check: Called between pieces.
        progress: Called with the number of bytes of each piece.
    """
    everything = [*entries, *bytecode]
    size = tar_size(everything)
    compressor = open_compressor(COMPRESSION, size=size, threads=threads)
    diff_id, digest, compressed = hashlib.sha256(), hashlib.sha256(), 0
    with host_errors("write a layer in", scratch), tempfile.NamedTemporaryFile(dir=scratch, delete=False) as blob:
        for piece in tar_pieces(root, everything):
            check()
            diff_id.update(piece)
            out = compressor.compress(piece)
            digest.update(out)
            compressed += blob.write(out)
            progress(len(piece))
        out = compressor.finish()
        digest.update(out)
        compressed += blob.write(out)
    layer = CachedLayer(
        digest=Digest("sha256", digest.hexdigest()),
        size=compressed,
        diff_id=Digest("sha256", diff_id.hexdigest()),
        bytes=size,
        bytecode=bytecode,
    )
    return layer, Path(blob.name)
