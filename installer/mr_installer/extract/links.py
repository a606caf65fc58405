"""Decide by text alone where symbolic links lead: inside the tree, through directories that exist, in few steps.

No link is on disk yet when this is decided, so nothing can change under the check.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mr_installer.extract.rules import Rule, refusal

MOST_STEPS = 256
"""Components visited while one link is followed, those of the links it goes through included."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


def check_links(links: Mapping[str, str], files: Collection[str], directories: Collection[str]) -> None:
    """Check every link of a tree.

    A link to something that does not exist is allowed, since it can lead nowhere; ``..`` after such a name is not.

    Args:
        links: Target by path; the parents of each path are directories.
        files: Paths of regular files.
        directories: Paths of directories, without the top one.

    Raises:
        IntegrityError: naming the link and the rule.
    """
    for path, target in links.items():
        _check_text(path, target)
    ends: dict[str, tuple[str, int]] = {}
    for path in links:
        if path not in ends:
            _follow(path, links, files, directories, ends)


def _check_text(path: str, target: str) -> None:
    if not target:
        raise refusal(Rule.LINK_EMPTY, "its target is empty", member=path)
    if _UNSAFE.search(target):
        raise refusal(Rule.LINK_CHARACTER, "its target holds a control character or a backslash", member=path)
    if target.startswith("/") or (target[1:2] == ":" and target[0].isalpha()):
        raise refusal(Rule.LINK_ABSOLUTE, "its target is absolute", member=path)
    if any(name in {"", "."} for name in target.split("/")):
        raise refusal(Rule.LINK_COMPONENT, "its target has an empty component or a `.`", member=path)


@dataclass(slots=True)
class _Walk:
    """One link while it is followed: where the way has led so far, and the components left, next one last."""

    link: str
    place: str
    left: list[str]
    steps: int = 0


def _follow(
    start: str,
    links: Mapping[str, str],
    files: Collection[str],
    directories: Collection[str],
    ends: dict[str, tuple[str, int]],
) -> None:
    """Find out where a link ends, and add that and its steps to ``ends``, also for the links on its way.

    Each link is walked once, however many others lead through it, so all together take time in proportion to their
    text. The stack is a list because ``MOST_STEPS`` nested calls could be too many for the thread of a host.
    """
    walks = [_begin(start, links)]
    while walks:
        walk = walks[-1]
        if walk.steps > MOST_STEPS or len(walks) > MOST_STEPS:
            raise refusal(Rule.LINK_LOOP, f"it does not end within {MOST_STEPS} steps", member=start)
        if not walk.left:
            ends[walk.link] = walk.place, walk.steps
            walks.pop()
            continue
        place, name = walk.place, walk.left[-1]
        if place and place not in directories:
            reason = "is a file" if place in files else "does not exist"
            raise refusal(Rule.LINK_AMBIGUOUS, f"its way leads through `{place}`, which {reason}", member=start)
        if name == ".." and not place:
            raise refusal(Rule.LINK_ESCAPE, "it leaves the tree", member=start)
        path = place.rpartition("/")[0] if name == ".." else f"{place}/{name}" if place else name
        steps = 0
        if path in links:
            if path not in ends:
                walks.append(_begin(path, links))  # the same component comes again once its end is known
                continue
            path, steps = ends[path]
        walk.left.pop()
        walk.place = path
        walk.steps += 1 + steps


def _begin(link: str, links: Mapping[str, str]) -> _Walk:
    return _Walk(link, link.rpartition("/")[0], links[link].split("/")[::-1])
