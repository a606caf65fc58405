"""Read an archive of python-build-standalone (``install_only_stripped``) into a tree.

Works for every platform's archive on every machine: nothing in it is run or edited but text.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

from mr_bundler.binaries.elf import floor_of, is_elf, read_elf
from mr_bundler.interpreter.contents import belongs
from mr_bundler.interpreter.normalise import normalise
from mr_bundler.interpreter.tree import File, Link, Tree
from mr_bundler.lock.python_pin import PythonPin
from mr_core.errors import HostError, IntegrityError
from mr_core.events import Cancel, Phase, Reporter, discard

_TOP = "python"
_CHUNK = 1 << 20


def unpack_archive(
    archive: Path, pin: PythonPin, *, report: Reporter = discard, cancel: Cancel | None = None
) -> tuple[Tree, str]:
    """Return the normalised tree of ``archive``, and the glibc it needs (empty for macOS).

    Raises:
        IntegrityError: when the archive's sha256 is not the pin's (checked first), or an entry breaks a rule.
        BuildError: when it has another form than known.
        HostError: when it cannot be read.
    """
    with Phase(report, "unpack-interpreter", pin.file) as phase:
        try:
            with archive.open("rb") as stream:
                # the same open file is hashed and then read: nobody can exchange it in between
                _require_digest(stream, pin)
                stream.seek(0)
                tree = normalise(_read(stream, pin, cancel))
        except OSError as error:
            raise HostError(f"Cannot read `{archive}`: {error.strerror}") from error
        phase.detail = {"files": len(tree)}
    binaries = {path: member.content for path, member in tree.items() if isinstance(member, File)}
    return tree, floor_of(read_elf(content, path).glibc for path, content in binaries.items() if is_elf(content))


def _require_digest(stream: BinaryIO, pin: PythonPin) -> None:
    hasher = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        hasher.update(chunk)
    if hasher.hexdigest() != pin.sha256:
        raise IntegrityError(
            f"Cannot use the base interpreter `{pin.file}`: its digest is sha256:{hasher.hexdigest()}, "
            f"and the lock asks for sha256:{pin.sha256}",
            hint="remove it from the cache and build again",
        )


def _read(stream: BinaryIO, pin: PythonPin, cancel: Cancel | None) -> Tree:
    tree: Tree = {}
    hard_links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r:gz") as tar:
            for member in tar:
                if cancel is not None:
                    cancel.check()
                path = _inside(member.name, pin)
                if member.isdir() or not belongs(path):
                    continue
                if member.issym():
                    tree[path] = Link(target=_checked_target(path, member.linkname, pin))
                elif member.islnk():
                    hard_links[path] = _inside(member.linkname, pin)
                elif member.isreg():
                    source = tar.extractfile(member)
                    tree[path] = File(content=source.read() if source is not None else b"")
                else:
                    raise _refusal(pin, member.name, "it is neither a file, a directory nor a link")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise IntegrityError(f"Cannot unpack the base interpreter `{pin.file}`: {error}") from error
    for path, target in hard_links.items():
        if target in tree:
            tree[path] = tree[target]
    return tree


def _inside(name: str, pin: PythonPin) -> str:
    """Return the entry's path below the archive's one top directory; refuse any other."""
    parts = name.rstrip("/").split("/")
    if parts[0] == ".":
        parts = parts[1:]
    if parts[:1] != [_TOP] or any(part in {"", ".", ".."} for part in parts):
        raise _refusal(pin, name, f"it does not lie below `{_TOP}/`")
    return "/".join(parts[1:])


def _checked_target(path: str, target: str, pin: PythonPin) -> str:
    resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if target.startswith("/") or resolved.startswith("../"):
        raise _refusal(pin, path, f"its target `{target}` leaves the tree")
    return target


def _refusal(pin: PythonPin, name: str, reason: str) -> IntegrityError:
    return IntegrityError(f"Cannot unpack `{name}` of the base interpreter `{pin.file}`: {reason}")
