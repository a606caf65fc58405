"""Look for what a bundle must not tell: the directories of the machine it was built on.

Every file is read once, for its digest and for this. A file that came with the right digest out of a locked wheel can
hold nothing of this machine, but it may well name the home directory of the machine the *wheel* was built on, which
for CI machines is everybody's; so the home directory counts only in files made or changed here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from mr_core.errors import BuildError

_SHOWN = 5
# Homes that many machines have: they tell nothing, and they stand in honest files.
_COMMON_HOMES = frozenset(
    {"/", "/root", "/home", "/Users", "/home/runner", "/Users/runner", "/github/home", "/nonexistent", "/var/empty"}
)
_LEAST_COMPONENTS = 2  # `/tmp` or `/cache` say nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Needle:
    """A path of this machine.

    Attributes:
        what: What it is, for the error.
        text: Bytes to look for.
        anywhere: Whether it counts in unchanged files of wheels too.
    """

    what: str
    text: bytes
    anywhere: bool = True


def plan_needles(paths: Mapping[str, Iterable[Path | str]], *, home: Path | str) -> tuple[Needle, ...]:
    """Return what to look for.

    Args:
        paths: By what they are; each is looked for as given and with its links resolved.
        home: The home directory of the user who builds.
    """
    needles: dict[bytes, Needle] = {}
    for what, places in paths.items():
        for place in places:
            for path in {os.path.abspath(place), os.path.realpath(place)}:  # noqa: PTH100 - text, not a place
                if path.count("/") >= _LEAST_COMPONENTS:
                    needles.setdefault(os.fsencode(path), Needle(what=what, text=os.fsencode(path)))
    for path in {os.path.abspath(home), os.path.realpath(home)}:  # noqa: PTH100
        if path not in _COMMON_HOMES:
            text = os.fsencode(path) + b"/"
            needles.setdefault(text, Needle(what="home directory", text=text, anywhere=False))
    return tuple(needles[text] for text in sorted(needles))


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A file and the kind of path that was found in it; the path itself would only travel further in an error."""

    path: str
    what: str


def judge_leaks(
    found: Mapping[str, Sequence[int]], needles: Sequence[Needle], *, unchanged: Iterable[str] = ()
) -> list[Leak]:
    """Return the leaks among ``found`` (indexes of needles by path).

    Args:
        found: What was found in which file.
        needles: What was looked for.
        unchanged: Files that are byte for byte what a locked wheel holds, or were compiled from such.
    """
    honest = frozenset(unchanged)
    return [
        Leak(path=path, what=needles[index].what)
        for path in sorted(found)
        for index in found[path]
        if needles[index].anywhere or path not in honest
    ]


def find_leaks(files: Mapping[str, bytes], needles: Sequence[Needle]) -> list[Leak]:
    """Return the leaks in documents that are written here; paths in their addresses may be percent-encoded."""
    found = {
        path: [index for index, needle in enumerate(needles) if any(needle.text in text for text in (content, plain))]
        for path, content in files.items()
        for plain in (unquote_to_bytes(content),)
    }
    return judge_leaks(found, needles)


def refuse_leaks(leaks: Sequence[Leak]) -> None:
    """Raise `BuildError` when there is any leak."""
    if not leaks:
        return
    shown = "; ".join(f"`{leak.path}` names the {leak.what}" for leak in leaks[:_SHOWN])
    more = f" (and {len(leaks) - _SHOWN} more)" if len(leaks) > _SHOWN else ""
    raise BuildError(
        f"Cannot publish the environment: {shown}{more}",
        hint="find out which step writes this path, or leave the file out with `slim.remove`",
        leaks=[{"path": leak.path, "what": leak.what} for leak in leaks],
    )
