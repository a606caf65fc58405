"""Decide which files of an environment a bundle leaves out, and say what each rule saves. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mr_bundler.recipe.recipe import SlimRules
from mr_core.file_manifest import Entry, FileEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimSaving:
    """What one rule leaves out: files and links, and their bytes. What several rules name counts for the first."""

    rule: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimPlan:
    """What to leave out.

    Attributes:
        removed: Paths.
        savings: For each ``remove`` rule that saves anything, in the recipe's order.
        unused: The ``remove`` rules that match nothing any more.
    """

    removed: frozenset[str]
    savings: tuple[SlimSaving, ...]
    unused: tuple[str, ...]


def plan_slim(entries: Iterable[Entry], rules: SlimRules) -> SlimPlan:
    """Return which of ``entries`` ``rules`` leave out."""
    everything = {entry.path: entry for entry in entries}
    removed = {path: entry for path, entry in everything.items() if rules.removes(path)}
    left = dict(removed)
    savings = []
    for rule in rules.remove:
        single = SlimRules(remove=(rule,))
        taken = [entry for path, entry in left.items() if single.removes(path)]
        for entry in taken:
            del left[entry.path]
        if taken:
            size = sum(entry.size for entry in taken if isinstance(entry, FileEntry))
            savings.append(SlimSaving(rule=rule, files=len(taken), bytes=size))
    idle = set(rules.remove) - {saving.rule for saving in savings}
    unused = rules.unused(list(everything)) if idle else ()
    return SlimPlan(removed=frozenset(removed), savings=tuple(savings), unused=unused)
