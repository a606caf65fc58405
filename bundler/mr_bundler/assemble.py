"""Assemble an environment: interpreter, wheels, slimming, scripts, and one reading of every file that checks it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.environment import Found, list_tree, remove_files, write_file
from mr_bundler.file_digests import Examined, examine_bytes, examine_files
from mr_bundler.leaks import Needle, judge_leaks, refuse_leaks
from mr_bundler.modules import check_modules, path_roots
from mr_bundler.ownership import INTERPRETER, decide_ownership
from mr_bundler.recipe import SITE_PACKAGES, SlimRules
from mr_bundler.scripts import entry_point_scripts, relocated_script
from mr_bundler.slim import plan_slim
from mr_bundler.tree_paths import check_paths
from mr_bundler.wheel_record import InstalledDistribution, dump_record, read_distributions, record_digest
from mr_core.durable import host_errors
from mr_core.errors import BuildError
from mr_core.events import Cancel, Level, Notice, Phase, Reporter
from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from mr_shim.spec import LaunchSpec, ProbeSpec

INSTALLER = b"mr-bundle\n"
"""What every ``INSTALLER`` says: the tree is finished by this tool, and no other should change it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A finished environment, but for bytecode.

    Attributes:
        owned: Entries by owner; every path has one.
        unchanged: Files that are byte for byte what a locked wheel holds.
    """

    owned: Mapping[str, Sequence[Entry]]
    unchanged: frozenset[str]


class Assembly:
    """An environment being assembled: the steps after the wheels are installed, in this order."""

    def __init__(self, root: Path, interpreter: Mapping[str, Found], *, report: Reporter, cancel: Cancel) -> None:
        """Look at what lies below ``root`` now; ``interpreter`` is what lay there before the wheels.

        Raises:
            BuildError: when it is not clear who owns which file.
        """
        self._root = root
        self._report = report
        self._cancel = cancel
        self._files = list_tree(root)
        self._distributions = read_distributions(root)
        ownership = decide_ownership(interpreter, self._distributions, self._files)
        self._owners = dict(ownership.owners)
        self._remove(ownership.dropped)
        self._written: set[str] = set()

    def slim(self, rules: SlimRules) -> None:
        """Remove what the recipe leaves out; tell by a notice which rules match nothing."""
        with Phase(self._report, "slim") as phase:
            plan = plan_slim(list(self._files), rules)
            size = sum(self._files[path].size for path in plan.removed)
            self._remove(plan.removed)
            phase.detail = {"files": len(plan.removed), "bytes": size}
        if plan.unused:
            text = f"These slim rules match nothing: {', '.join(plan.unused)}"
            self._report(Notice(code="slim-unused", message=text, level=Level.WARNING))

    def write_scripts(self) -> None:
        """Make console scripts relocatable, and say in every ``INSTALLER`` who installed."""
        with Phase(self._report, "scripts") as phase:
            for distribution in self._distributions:
                generated = {script.path: script.content for script in entry_point_scripts(distribution)}
                for path, content in generated.items():
                    if self._owners.get(path, distribution.name) == distribution.name and self._has(path, distribution):
                        self._write(path, content, distribution.name, executable=True)
                for path in distribution.files:
                    if path.startswith("bin/") and path in self._files and path not in generated:
                        self._relocate(path, distribution.name)
                if f"{distribution.place}/METADATA" in self._files:  # not slimmed away as a whole
                    self._write(f"{distribution.place}/INSTALLER", INSTALLER, distribution.name)
            phase.detail = {"written": len(self._written)}

    def check_modules(self, launch: LaunchSpec, probe: ProbeSpec) -> None:
        """Raise `BuildError` when what the recipe starts or imports is not there, now that slimming is done."""
        roots: list[str] = []
        for path in self._files:
            if path.endswith(".pth") and path.rpartition("/")[0] == SITE_PACKAGES:
                place = self._root / path
                with host_errors("read", place):
                    roots += path_roots(place.read_text(encoding="utf-8", errors="replace"))
        check_modules(self._files, launch, probe, roots=roots)

    def audit(self, needles: Sequence[Needle], *, jobs: int) -> Assembled:
        """Read every file once, compare it with its RECORD, look for leaks, and write each RECORD anew.

        Raises:
            BuildError: a file that differs from its RECORD, a leak, or a path that some host could not extract.
        """
        check_paths({path: found.link for path, found in self._files.items()})
        sizes = {path: found.size for path, found in self._files.items() if not found.link}
        with Phase(self._report, "audit", total=len(sizes)) as phase:
            texts = [needle.text for needle in needles]
            examined = examine_files(self._root, sizes, texts, jobs=jobs, cancel=self._cancel, progress=phase.progress)
            unchanged = self._compare_records(examined)
            for distribution in self._distributions:
                self._write_record(distribution, examined, texts)
            found = {path: facts.needles for path, facts in examined.items() if facts.needles}
            refuse_leaks(judge_leaks(found, needles, unchanged=unchanged))
            phase.detail = {"files": len(examined), "bytes": sum(facts.size for facts in examined.values())}
        owned: dict[str, list[Entry]] = {owner: [] for owner in (INTERPRETER, *self._names())}
        for path, facts in self._files.items():
            owned[self._owners[path]].append(_entry(path, facts, examined))
        return Assembled(owned=owned, unchanged=unchanged)

    def _names(self) -> list[str]:
        return [distribution.name for distribution in self._distributions]

    def _has(self, path: str, distribution: InstalledDistribution) -> bool:
        """Whether a generated script is wanted: it was slimmed away when its RECORD knows it and it is gone."""
        return path in self._files or path not in distribution.files

    def _relocate(self, path: str, owner: str) -> None:
        place = self._root / path
        with host_errors("read", place):
            content = place.read_bytes()
        relocated = relocated_script(path, content) if content.startswith(b"#!") else None
        if relocated is not None:
            self._write(path, relocated, owner, executable=True)

    def _write(self, path: str, content: bytes, owner: str, *, executable: bool = False) -> None:
        write_file(self._root, path, content, executable=executable)
        self._files[path] = Found(len(content), executable)
        self._owners[path] = owner
        self._written.add(path)

    def _remove(self, paths: Sequence[str]) -> None:
        remove_files(self._root, list(paths))
        for path in paths:
            del self._files[path]
            self._owners.pop(path, None)

    def _compare_records(self, examined: Mapping[str, Examined]) -> frozenset[str]:
        """Return the files that are as their wheels have them; refuse others, unless they were written here."""
        unchanged: set[str] = set()
        wrong: list[str] = []
        for distribution in self._distributions:
            for path, digest in distribution.files.items():
                if path not in examined or path in self._written or not digest.startswith("sha256="):
                    continue
                if record_digest(examined[path].sha256) == digest:
                    unchanged.add(path)
                else:
                    wrong.append(f"`{path}` of `{distribution.name}`")
        if wrong:
            raise BuildError(
                f"Cannot use the installed wheels: {', '.join(wrong[:5])} differs from its RECORD",
                hint="the wheel is damaged, or the disk is; clean uv's cache and build again",
                files=wrong,
            )
        return frozenset(unchanged)

    def _write_record(
        self, distribution: InstalledDistribution, examined: dict[str, Examined], needles: Sequence[bytes]
    ) -> None:
        if distribution.record not in self._files:
            return
        paths = {path for path in distribution.files if path in self._files}
        paths |= {path for path in self._written if self._owners[path] == distribution.name}
        rows = [
            FileEntry(path=path, mode=0o644, size=examined[path].size, sha256=examined[path].sha256)
            for path in paths - {distribution.record}
        ]
        content = dump_record(distribution.place, rows)
        self._write(distribution.record, content, distribution.name)
        examined[distribution.record] = examine_bytes(content, needles)


def _entry(path: str, found: Found, examined: Mapping[str, Examined]) -> Entry:
    if found.link:
        return LinkEntry(path=path, link=found.link)
    return FileEntry(path=path, mode=found.mode, size=examined[path].size, sha256=examined[path].sha256)
