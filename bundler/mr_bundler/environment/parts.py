"""Parts of an environment: what one wheel, the interpreter or a prebuild step brings, before slimming. Pure.

A part does not depend on what else is in the environment, nor on the recipe. So it is kept from build to build, and a
changed lock installs only the wheels that are new; everything that is decided over all of them is decided from parts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mr_bundler.audit.facts import FileFacts
from mr_bundler.environment.leaks import Leak, Needle
from mr_bundler.papers.metadata import DistributionMetadata
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.file_manifest import Entry, FileEntry, LinkEntry

INTERPRETER = "(interpreter)"
"""Owner of the base interpreter's files; no distribution can have this name."""
OWN = "(bundle)"
"""Owner of the files that this project puts into a bundle."""
KIND = "parts"
"""Under which the cache keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one owner brings.

    Attributes:
        owner: Normalised name of a distribution, `INTERPRETER`, or ``(prebuild NAME)``.
        place: A distribution's ``.dist-info`` directory, relative to the root of the tree; else empty.
        entries: Its files and links, finished, sorted by the bytes of their paths; without bytecode and RECORD.
        unchanged: Files that are byte for byte what the RECORD of a locked wheel says.
        missing: Paths that only its RECORD knows.
        mismatched: Files that differ from its RECORD.
        leaks: Directories of the machine that stand in its files.
        facts: What an audit wants to know of a file, by path.
        metadata: What a distribution says about itself.
        import_roots: Directories that each of its ``.pth`` files adds to the import path.
    """

    owner: str
    place: str = ""
    entries: tuple[Entry, ...]
    unchanged: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    leaks: tuple[Leak, ...] = ()
    facts: Mapping[str, FileFacts] = field(default_factory=dict)
    metadata: DistributionMetadata | None = None
    import_roots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def record(self) -> str:
        """Path of its RECORD, relative to the root of the tree; empty when it is no distribution."""
        return f"{self.place}/RECORD" if self.place else ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        files = [entry for entry in self.entries if isinstance(entry, FileEntry)]
        return {
            "owner": self.owner,
            "place": self.place,
            "files": [
                [entry.path, entry.size, entry.sha256, int(entry.mode == 0o755), int(entry.path in self.unchanged)]
                for entry in files
            ],
            "links": [[entry.path, entry.link] for entry in self.entries if isinstance(entry, LinkEntry)],
            "missing": list(self.missing),
            "mismatched": list(self.mismatched),
            "leaks": [[leak.path, leak.what] for leak in self.leaks],
            "facts": {path: facts.to_json() for path, facts in self.facts.items()},
            "metadata": None if self.metadata is None else dataclasses.asdict(self.metadata),
            "import_roots": {path: list(roots) for path, roots in self.import_roots.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Part:
        """Read what `to_json` returned; raise `KeyError`, `TypeError` or `ValueError` for anything else."""
        entries: list[Entry] = [
            FileEntry(path=path, mode=0o755 if executable else 0o644, size=size, sha256=sha256)
            for path, size, sha256, executable, _ in value["files"]
        ]
        entries += [LinkEntry(path=path, link=link) for path, link in value["links"]]
        return cls(
            owner=value["owner"],
            place=value["place"],
            entries=sorted_entries(entries),
            unchanged=frozenset(path for path, _, _, _, unchanged in value["files"] if unchanged),
            missing=tuple(value["missing"]),
            mismatched=tuple(value["mismatched"]),
            leaks=tuple(Leak(path=path, what=what) for path, what in value["leaks"]),
            facts={path: FileFacts.from_json(item) for path, item in value["facts"].items()},
            metadata=_metadata(value["metadata"]),
            import_roots={path: tuple(roots) for path, roots in value["import_roots"].items()},
        )


def _metadata(value: Mapping[str, Any] | None) -> DistributionMetadata | None:
    if value is None:
        return None
    lists = {"links": tuple((kind, address) for kind, address in value["links"]), "requires": tuple(value["requires"])}
    return DistributionMetadata(**{**value, **lists})


def sorted_entries(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return ``entries`` sorted by the bytes of their paths."""
    return tuple(sorted(entries, key=lambda entry: entry.path.encode()))


def file_entry(path: str, content: bytes, *, executable: bool = False) -> FileEntry:
    """Return the entry of a file with this content."""
    mode = 0o755 if executable else 0o644
    return FileEntry(path=path, mode=mode, size=len(content), sha256=Digest.of(content).hex)


def part_key(identity: Sequence[str], *, tool: str, needles: Sequence[Needle]) -> str:
    """Return the key of a part in the cache.

    Args:
        identity: What it is made from: a wheel's file name and sha256, and what installs it; or the identity of an
            interpreter.
        tool: Identity of this tool's code.
        needles: What its files were searched for. Those that are new in every build say nothing and do not belong here.
    """
    facts = [list(identity), tool, [[needle.what, needle.text.hex(), needle.anywhere] for needle in needles]]
    return hashlib.sha256(dump_json(facts)).hexdigest()
