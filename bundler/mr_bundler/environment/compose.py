"""Compose an environment of parts: what slimming leaves, who owns each path, and the RECORDs that say so. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from mr_bundler.audit.facts import FileFacts
from mr_bundler.audit.finding import Finding
from mr_bundler.environment.leaks import Leak
from mr_bundler.environment.parts import INTERPRETER, Part, file_entry, sorted_entries
from mr_bundler.environment.slim import SlimPlan, plan_slim
from mr_bundler.environment.wheel_record import dump_record
from mr_bundler.recipe.recipe import SlimRules
from mr_core.file_manifest import Entry, FileEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """An environment, but for bytecode and what this project adds itself.

    Attributes:
        owned: Entries by owner, each path once: the interpreter's first, then distributions by name, then the others.
        records: Content of every RECORD by its path.
        unchanged: Files that are byte for byte what a locked wheel holds.
        facts: What is notable about a file, by path.
        leaks: Directories of the machine in files.
        findings: What RECORDs say that is not so, and paths that two owners want with different bytes.
        import_roots: Directories that ``.pth`` files add to the import path.
        slim: What slimming leaves out.
    """

    owned: Mapping[str, Sequence[Entry]]
    records: Mapping[str, bytes]
    unchanged: frozenset[str]
    facts: Mapping[str, FileFacts]
    leaks: tuple[Leak, ...]
    findings: tuple[Finding, ...]
    import_roots: tuple[str, ...]
    slim: SlimPlan

    @property
    def entries(self) -> dict[str, Entry]:
        """All entries by path."""
        return {entry.path: entry for entry in chain.from_iterable(self.owned.values())}


def compose(parts: Mapping[str, Part], rules: SlimRules) -> Composition:
    """Return the environment that ``parts`` make; their order is without influence.

    A path that several parts bring with the same bytes belongs to the first by name, and that it is executable is
    decided by its place, not by one of them. When the bytes differ, the first one's are taken, and it is a finding.

    Args:
        parts: By owner.
        rules: What to leave out; a rule may also settle who owns a path by leaving it out.
    """
    order = sorted(parts, key=_rank)
    everything = [entry for owner in order for entry in (*parts[owner].entries, *_record_stub(parts[owner]))]
    slim = plan_slim(everything, rules)
    home: dict[str, str] = {}
    final: dict[str, Entry] = {}
    findings: list[Finding] = []
    for owner in order:
        for entry in parts[owner].entries:
            if entry.path in slim.removed:
                continue
            other = home.setdefault(entry.path, owner)
            if other == owner:
                final[entry.path] = entry
            elif _same_bytes(final[entry.path], entry):
                final[entry.path] = _shared(entry)
            else:
                findings.append(Finding(kind="conflicting-files", path=entry.path, detail=f"{other} and {owner}"))
        findings += _record_findings(parts[owner], slim.removed)
    records = _records((parts[owner] for owner in order), slim.removed, final)
    for path, (owner, content) in records.items():
        if path in home:
            findings.append(Finding(kind="conflicting-files", path=path, detail=f"{owner} and {home[path]}"))
        home[path], final[path] = owner, file_entry(path, content)
    owned: dict[str, list[Entry]] = {owner: [] for owner in order}
    for path, owner in home.items():
        owned[owner].append(final[path])
    return Composition(
        owned={owner: sorted_entries(entries) for owner, entries in owned.items()},
        records={path: content for path, (_, content) in records.items()},
        unchanged=frozenset(path for path, owner in home.items() if path in parts[owner].unchanged),
        facts={path: facts for owner in order for path, facts in parts[owner].facts.items() if home.get(path) == owner},
        leaks=tuple(leak for owner in order for leak in parts[owner].leaks if home.get(leak.path) == owner),
        findings=tuple(findings),
        import_roots=tuple(
            root
            for owner in order
            for path, roots in parts[owner].import_roots.items()
            if home.get(path) == owner
            for root in roots
        ),
        slim=slim,
    )


def _rank(owner: str) -> tuple[int, str]:
    if owner == INTERPRETER:
        return 0, owner
    return (2 if owner.startswith("(") else 1), owner


def _record_stub(part: Part) -> list[Entry]:
    """Return an entry for the RECORD that is yet to be written, so that slim rules see its path."""
    return [file_entry(part.record, b"")] if part.record else []


def _same_bytes(one: Entry, other: Entry) -> bool:
    if isinstance(one, FileEntry) and isinstance(other, FileEntry):
        return (one.size, one.sha256) == (other.size, other.sha256)
    return one == other


def _shared(entry: Entry) -> Entry:
    """Return the entry of a path with several owners: the installer gave it the mode of whichever came last."""
    if isinstance(entry, FileEntry):
        mode = 0o755 if entry.path.startswith("bin/") else 0o644
        return FileEntry(path=entry.path, mode=mode, size=entry.size, sha256=entry.sha256)
    return entry


def _record_findings(part: Part, removed: Collection[str]) -> list[Finding]:
    kinds = (("missing-record-file", part.missing), ("record-mismatch", part.mismatched))
    return [
        Finding(kind=kind, path=path, detail=part.owner)
        for kind, paths in kinds
        for path in paths
        if path not in removed
    ]


def _records(
    parts: Iterable[Part], removed: Collection[str], final: Mapping[str, Entry]
) -> dict[str, tuple[str, bytes]]:
    """Return owner and content of every RECORD that stays: it names what lies there now."""
    found: dict[str, tuple[str, bytes]] = {}
    for part in parts:
        if part.record and part.record not in removed:
            entries = [final[entry.path] for entry in part.entries if entry.path in final]
            files = [entry for entry in entries if isinstance(entry, FileEntry)]
            found[part.record] = (part.owner, dump_record(part.place, files))
    return found
