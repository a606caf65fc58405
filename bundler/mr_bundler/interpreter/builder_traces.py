"""Remove, and look for, what compiled files tell about the machine an interpreter was built on."""

from __future__ import annotations

from collections.abc import Iterable

from mr_bundler.interpreter.tree import File, Tree
from mr_core.errors import BuildError

# Prefixes that every machine of a kind shares: they say nothing, and `/usr` occurs in honest places too.
_COMMON = frozenset({"/", "/usr", "/usr/local", "/install", "/opt/homebrew", "/home/linuxbrew/.linuxbrew"})
_FILLER = "/relocatable-python"
_ENCODINGS = ("utf-8", "utf-32-le")  # char and wchar_t


def telling_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``paths`` that must not be in a bundle, longest first.

    A directory directly below the root names nobody.
    """
    telling = {path.rstrip("/") for path in paths} - _COMMON
    return tuple(sorted((path for path in telling if path.count("/") > 1), key=lambda path: (-len(path), path)))


def neutralised(content: bytes, paths: tuple[str, ...]) -> bytes:
    """Return ``content`` with the parent directory of every one of ``paths`` overwritten by one that exists nowhere.

    CPython's PREFIX is such a string in its read-only data. The interpreter uses it only when it finds no standard
    library beside itself; then a path that does not exist fails loudly, where the real one would quietly take the
    standard library of another Python.

    Linkers store a string that ends another one only once: with the prefix ``…/versions/3.12.1``, the tail of PREFIX
    *is* CPython's version. So nothing moves, a longer string that begins with the path stays what it is, and so does
    the path's last part.
    """
    for path in paths:
        for encoding in _ENCODINGS:
            content = content.replace(path.encode(encoding), _stand_in(path).encode(encoding))
    return content


def _stand_in(path: str) -> str:
    """Return another path with as many bytes, and for ASCII paths as many characters, and the same last part."""
    parent, _, name = path.rpartition("/")
    width = len(parent.encode())
    return f"{_FILLER.ljust(width, '-')[:width]}/{name}"


def refuse_traces(tree: Tree, paths: tuple[str, ...]) -> None:
    """Raise `BuildError` naming the files of ``tree`` that hold one of ``paths``."""
    needles = [path.encode(encoding) for path in paths for encoding in _ENCODINGS]
    found = sorted(
        name
        for name, member in tree.items()
        if isinstance(member, File) and any(needle in member.content for needle in needles)
    )
    if found:
        raise BuildError(
            f"Cannot relocate this Python: paths of this machine are left in {', '.join(found[:5])}",
            hint="name another CPython with `--python-from`",
            files=found,
        )
