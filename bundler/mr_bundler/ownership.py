"""Decide which distribution owns which file of an environment, and refuse what is not clear. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mr_bundler.wheel_record import InstalledDistribution
from mr_core.errors import BuildError

INTERPRETER = "(interpreter)"
"""Owner of what lay in the environment before the wheels; no distribution can have this name."""

_SHOWN = 5
# What installers write about an installation, not about a distribution: it differs between machines.
_INSTALLATION_NOTES = frozenset({"REQUESTED", "direct_url.json", "uv_cache.json", "RECORD.jws", "RECORD.p7s"})
_INSTALLER_LEFTOVERS = frozenset({".lock", ".gitignore", "CACHEDIR.TAG", "pyvenv.cfg"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Who owns what.

    Attributes:
        owners: Distribution name or `INTERPRETER` for every path that stays.
        dropped: Paths that no bundle keeps: installation notes, bytecode from wheels.
    """

    owners: Mapping[str, str]
    dropped: tuple[str, ...]


def decide_ownership(
    interpreter: Collection[str], distributions: Sequence[InstalledDistribution], present: Collection[str]
) -> Ownership:
    """Give every path of ``present`` to one owner.

    A path that several distributions record with the same digest belongs to the first by name. The installer has
    overwritten one file with the other, so only the recorded digests can tell that they differ.

    Args:
        interpreter: Paths that lay there before the wheels.
        distributions: Sorted by name.
        present: Paths that lie there now.

    Raises:
        BuildError: two owners with different bytes, a recorded file that is missing, or one that nobody owns.
    """
    problems: list[str] = []
    owners = dict.fromkeys(interpreter, INTERPRETER)
    digests: dict[str, str] = {}
    for distribution in distributions:
        for path, digest in distribution.files.items():
            other = owners.get(path)
            if other is None:
                owners[path], digests[path] = distribution.name, digest
            elif other == INTERPRETER:
                problems.append(f"`{path}` of `{distribution.name}` overwrites a file of the interpreter")
            elif not digest or digests[path] != digest:
                problems.append(f"`{other}` and `{distribution.name}` both own `{path}`, with different bytes")
    dropped = {path for path in present if _is_dropped(path, owners)}
    problems += [
        f"`{path}` is in the RECORD of `{owners[path]}`, but not in the environment"
        for path in owners
        if path not in present and not _is_note(path)
    ]
    problems += [
        f"`{path}` belongs to no distribution" for path in present if path not in owners and path not in dropped
    ]
    if problems:
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise BuildError(
            f"Cannot use the installed wheels: {'; '.join(problems[:_SHOWN])}{more}",
            hint="lock other versions of these distributions, whose files do not clash",
            problems=problems,
        )
    kept = {path: owners[path] for path in present if path not in dropped}
    return Ownership(owners=kept, dropped=tuple(sorted(dropped)))


def _is_dropped(path: str, owners: Mapping[str, str]) -> bool:
    if path in owners and owners[path] == INTERPRETER:
        return False
    return _is_note(path) or (path not in owners and path in _INSTALLER_LEFTOVERS)


def _is_note(path: str) -> bool:
    directory, name = posixpath.split(path)
    if name in _INSTALLATION_NOTES:
        return directory.endswith(".dist-info")
    return name.endswith(".pyc") and posixpath.basename(directory) == "__pycache__"
