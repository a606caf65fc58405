"""Keep finished interpreters as one checked file each, so that a second build only writes them out.

An entry is a line of JSON (the record) and the tree's serial form. It is read whole and its digest compared, so a
damaged entry is as good as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.cache import touch_entry
from mr_bundler.interpreter.tree import Tree, digest_of, pack_tree, unpack_tree
from mr_core.errors import HostError, IntegrityError

# Part of every key: raise it whenever the same input gives another tree.
RULES = 1
Stamp = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTree:
    """A finished interpreter.

    Attributes:
        version: CPython's exact version.
        source: Where it came from, as `Interpreter.source`.
        glibc: Lowest glibc it runs with, empty off Linux.
        inputs: Files of this machine it was also made from, beside those in the key: path, bytes, mtime in ns.
        digest: Digest of the tree's serial form.
        tree: The files.
    """

    version: str
    source: str
    glibc: str
    inputs: tuple[Stamp, ...]
    digest: str
    tree: Tree

    @property
    def identity(self) -> str:
        """A text that is equal exactly when the tree, the version and the source are."""
        return f"cpython {self.version} ({self.source}) {self.digest}"


def stamp(place: Path) -> Stamp:
    """Return what tells an unchanged file from a changed one without reading it; raise `OSError` without the file."""
    status = place.stat()
    return (str(place), status.st_size, status.st_mtime_ns)


def load_entry(cache: Path, key: str) -> CachedTree | None:
    """Return the entry ``key``, or None when it is absent, damaged, or a file it was made from has changed."""
    try:
        raw = _entry(cache, key).read_bytes()
        touch_entry(_entry(cache, key))
        end = raw.index(b"\n")
        record = json.loads(raw[:end])
        packed = raw[end + 1 :]
        if digest_of(packed) != record["digest"]:
            return None
        inputs = tuple((str(path), int(size), int(mtime)) for path, size, mtime in record["inputs"])
        if any(stamp(Path(path)) != (path, size, mtime) for path, size, mtime in inputs):
            return None
        return CachedTree(
            version=record["version"],
            source=record["source"],
            glibc=record["glibc"],
            inputs=inputs,
            digest=record["digest"],
            tree=unpack_tree(packed),
        )
    except (OSError, ValueError, KeyError, TypeError, IntegrityError):
        return None


def save_entry(
    cache: Path, key: str, tree: Tree, *, version: str, source: str, glibc: str, inputs: tuple[Stamp, ...] = ()
) -> CachedTree:
    """Write an entry so that it is seen whole or not at all, and return it.

    Raises:
        HostError: when the cache cannot be written.
    """
    packed = pack_tree(tree)
    entry = CachedTree(
        version=version, source=source, glibc=glibc, inputs=inputs, digest=digest_of(packed), tree=unpack_tree(packed)
    )
    record = {"version": version, "source": source, "glibc": glibc, "inputs": inputs, "digest": entry.digest}
    place = _entry(cache, key)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=place.parent, prefix=".ingest-")
        try:
            with os.fdopen(number, "wb") as out:
                out.write(json.dumps(record, sort_keys=True).encode() + b"\n")
                out.write(packed)
            Path(name).replace(place)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise HostError(f"Cannot write the interpreter cache `{place.parent}`: {error.strerror}") from error
    return entry


def _entry(cache: Path, key: str) -> Path:
    return cache / "interpreters" / f"{key}.tree"
