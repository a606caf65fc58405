"""Decide by text alone where symbolic links lead: inside the tree, through directories that exist, in few steps.

No link is on disk yet when this is decided, so nothing can change under the check.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

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
    for path in links:
        _follow(path, links, files, directories)


def _check_text(path: str, target: str) -> None:
    if not target:
        raise refusal(Rule.LINK_EMPTY, "its target is empty", member=path)
    if _UNSAFE.search(target):
        raise refusal(Rule.LINK_CHARACTER, "its target holds a control character or a backslash", member=path)
    if target.startswith("/") or (target[1:2] == ":" and target[0].isalpha()):
        raise refusal(Rule.LINK_ABSOLUTE, "its target is absolute", member=path)
    if any(name in {"", "."} for name in target.split("/")):
        raise refusal(Rule.LINK_COMPONENT, "its target has an empty component or a `.`", member=path)


def _follow(start: str, links: Mapping[str, str], files: Collection[str], directories: Collection[str]) -> None:
    place = start.split("/")[:-1]
    left = links[start].split("/")[::-1]  # what is still to be walked, next component last
    steps = 0
    while left:
        steps += 1
        if steps > MOST_STEPS:
            raise refusal(Rule.LINK_LOOP, f"it does not end within {MOST_STEPS} steps", member=start)
        name = left.pop()
        path = "/".join(place)
        if path and path not in directories:
            reason = "is a file" if path in files else "does not exist"
            raise refusal(Rule.LINK_AMBIGUOUS, f"its way leads through `{path}`, which {reason}", member=start)
        if name == "..":
            if not place:
                raise refusal(Rule.LINK_ESCAPE, "it leaves the tree", member=start)
            place.pop()
            continue
        path = f"{path}/{name}" if path else name
        if path in links:
            left += links[path].split("/")[::-1]
        else:
            place.append(name)
