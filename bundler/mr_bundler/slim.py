"""Decide which files of an environment a bundle leaves out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mr_bundler.recipe import SlimRules


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimPlan:
    """What to remove, and the rules that match nothing any more."""

    removed: tuple[str, ...]
    unused: tuple[str, ...]


def plan_slim(paths: Sequence[str], rules: SlimRules) -> SlimPlan:
    """Return which of ``paths``, relative to the root of the tree, ``rules`` leave out."""
    return SlimPlan(removed=tuple(path for path in paths if rules.removes(path)), unused=rules.unused(paths))
