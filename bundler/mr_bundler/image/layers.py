"""Decide which files share a layer: bundles that share distributions then share layers. Pure.

The interpreter is one layer, every large distribution another, and so is what each prebuild step wrote. Small ones are
grouped by a digest of their name, so a distribution stays in its group whatever else a bundle holds, and changing one
changes one group. The shim and the bundle's own files come last, since they differ in every bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mr_bundler.environment.parts import INTERPRETER
from mr_core.errors import BuildError
from mr_core.file_manifest import Entry, FileEntry

LARGE_BYTES = 8 << 20
"""A distribution with this many bytes of files, before bytecode, gets a layer of its own."""
GROUPS = 24
"""Groups of small distributions. A changed one among the 149 of vllm costs 8 MB with 24 groups and 22 MB with 8; the
whole of mlx-lm compresses as well with 24 layers as with 15."""
MOST_LAYERS = 120
"""What a bundle may have, with the interpreter's layer and its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """Files of one layer.

    Attributes:
        name: For people: ``interpreter``, ``prebuild NAME``, a distribution's name, ``group 3``, ``bundle``.
        owners: `INTERPRETER`, ``(prebuild NAME)``, or names of distributions, sorted.
        parts: Entries of each owner, in the order of ``owners``; bytecode is still to come.
    """

    name: str
    owners: tuple[str, ...]
    parts: tuple[tuple[Entry, ...], ...]

    @property
    def entries(self) -> list[Entry]:
        """All entries, sorted by the bytes of their paths."""
        return sorted((entry for part in self.parts for entry in part), key=lambda entry: entry.path.encode())


def plan_layers(owned: Mapping[str, Sequence[Entry]]) -> tuple[LayerPlan, ...]:
    """Return the layers for the files of every owner, in the order of the image; empty ones are left out.

    Raises:
        BuildError: when prebuild steps alone need more layers than a bundle may have.
    """
    sizes = {
        owner: sum(entry.size for entry in entries if isinstance(entry, FileEntry))
        for owner, entries in owned.items()
        if not owner.startswith("(")
    }
    large = sorted((name for name in sizes if sizes[name] >= LARGE_BYTES), key=lambda name: (-sizes[name], name))
    steps = [owner for owner in sorted(owned) if owner.startswith("(prebuild ")]
    alone = set(large[: max(0, MOST_LAYERS - GROUPS - len(steps) - 2)])
    groups: dict[int, list[str]] = {}
    for name in sizes.keys() - alone:
        groups.setdefault(group_of(name), []).append(name)
    plans = [_plan("interpreter", [INTERPRETER], owned)] if owned.get(INTERPRETER) else []
    plans += [_plan(owner.strip("()"), [owner], owned) for owner in steps]
    plans += [_plan(name, [name], owned) for name in sorted(alone)]
    plans += [_plan(f"group {number}", sorted(groups[number]), owned) for number in sorted(groups)]
    plans = [plan for plan in plans if plan.entries]
    if len(plans) >= MOST_LAYERS:  # the bundle's own is still to come
        raise BuildError(
            f"Cannot pack the environment: with {len(steps)} prebuild steps it needs {len(plans) + 1} layers, and"
            f" {MOST_LAYERS} is the most that every program reads",
            hint="let fewer steps write more",
        )
    return tuple(plans)


def group_of(name: str) -> int:
    """Return the group of a small distribution: the same in every bundle."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % GROUPS


def _plan(name: str, owners: list[str], owned: Mapping[str, Sequence[Entry]]) -> LayerPlan:
    parts = tuple(tuple(sorted(owned[owner], key=lambda entry: entry.path.encode())) for owner in owners)
    return LayerPlan(name=name, owners=tuple(owners), parts=parts)
