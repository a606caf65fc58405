"""Keep finished interpreters unpacked in the cache, each at a place of its own that stays the same.

Builds run the interpreter from there: uv remembers every Python by its path, so one at a new place in every build would
leave a new entry in uv's cache each time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from mr_bundler.cache import touch_entry
from mr_bundler.interpreter.tree import File, Link, Tree, write_tree
from mr_core.durable import host_errors, make_directories, remove_tree
from mr_core.errors import BundleError
from mr_core.events import Cancel

_NAME_DIGITS = 32


def keep_tree(tree: Tree, digest: str, cache: Path, *, cancel: Cancel | None = None) -> tuple[Path, bool]:
    """Return a directory below ``cache`` that holds exactly ``tree``, and whether it was made now.

    It is for running, not for packing. Every file is compared each time; a directory that was changed is replaced by a
    new one.

    Args:
        tree: A finished interpreter.
        digest: ``sha256:…`` of its serial form.
        cache: Cache directory.
        cancel: Stops while the files are written.

    Raises:
        HostError: when the cache cannot be written.
        CancelledError: when asked to stop.
    """
    parent = cache / "interpreters"
    place = parent / digest.partition(":")[2][:_NAME_DIGITS]
    if _holds(place, tree):
        touch_entry(place)
        return place, False
    make_directories(parent)
    with host_errors("write the interpreter to", parent):
        fresh = Path(tempfile.mkdtemp(dir=parent, prefix=".ingest-"))
    try:
        write_tree(tree, fresh, cancel=cancel)
        with host_errors("write the interpreter to", place):
            try:
                fresh.replace(place)
                made = True
            except OSError:  # something is there: what another build has just made, or what is not as it should be
                made = not _holds(place, tree)
                if made:
                    place.rename(fresh.with_name(f"{fresh.name}-old"))
                    fresh.replace(place)
    finally:
        for leftover in (fresh, fresh.with_name(f"{fresh.name}-old")):
            with contextlib.suppress(BundleError):
                remove_tree(leftover)
    return place, made


def _holds(place: Path, tree: Tree) -> bool:
    """Whether the directory holds what ``tree`` does and nothing else."""
    try:
        return _listed(place) == len(tree) and all(_equals(f"{place}/{path}", tree[path]) for path in tree)
    except OSError:
        return False


def _listed(place: Path) -> int:
    return sum(len(files) + sum(map(os.path.islink, _under(top, names))) for top, names, files in os.walk(place))


def _under(top: str, names: list[str]) -> list[str]:
    return [f"{top}/{name}" for name in names]


def _equals(place: str, member: File | Link) -> bool:
    match member:
        case Link(target=target):
            return os.readlink(place) == target  # noqa: PTH115 - over a thousand of them in every build
        case File(content=content, executable=executable):
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                status = os.fstat(descriptor)
                if status.st_size != len(content) or bool(status.st_mode & 0o100) != executable:
                    return False
                return os.read(descriptor, len(content) + 1) == content
            finally:
                os.close(descriptor)
