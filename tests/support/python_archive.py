"""Archives with the shape of python-build-standalone's, made by tests, and their pins."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from mr_bundler.lock.python_pin import PythonPin
from mr_core.platform import Platform, Target

HERE = Target(Platform.host(), "cpu")
NOWHERE = PythonPin(
    version="3.12.14", build="20260814", file="nothing.tar.gz", url="https://127.0.0.1:9/x", sha256="0" * 64
)
"""A pin that no test can satisfy: for calls that must not need it."""


def write_archive(place: Path, members: dict[str, bytes | str | None], *, from_tree: Path | None = None) -> PythonPin:
    """Write a `python/` archive: bytes are files, text is a link's target, None a directory; return its pin."""
    with tarfile.open(place, "w:gz", compresslevel=1) as tar:
        if from_tree is not None:
            tar.add(from_tree, "python")
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o600
            match content:
                case None:
                    entry.type = tarfile.DIRTYPE
                case str():
                    entry.type, entry.linkname = tarfile.SYMTYPE, content
                case bytes():
                    entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    sha256 = hashlib.sha256(place.read_bytes()).hexdigest()
    return PythonPin(
        version="3.12.14", build="20260814", file=place.name, url="https://127.0.0.1:9/nothing", sha256=sha256
    )
