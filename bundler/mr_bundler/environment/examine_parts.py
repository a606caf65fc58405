"""Make parts of what lies on disk: finish it, and read every file once for all that anybody wants to know of it."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.environment.file_digests import Examined, examine_files
from mr_bundler.environment.leaks import Needle, judge_leaks
from mr_bundler.environment.modules import path_roots
from mr_bundler.environment.parts import Part, sorted_entries
from mr_bundler.environment.scripts import entry_point_scripts, relocated_script
from mr_bundler.environment.tree import Found, list_tree, remove_files, write_file
from mr_bundler.environment.wheel_record import InstalledDistribution, read_distributions, record_digest
from mr_bundler.papers.metadata import DistributionMetadata, read_metadata
from mr_bundler.recipe.recipe import SITE_PACKAGES
from mr_core.durable import host_errors, remove_tree
from mr_core.errors import BuildError, InvalidInputError
from mr_core.events import Cancel, Phase, Reporter
from mr_core.file_manifest import Entry, FileEntry, LinkEntry

INSTALLER = b"mr-bundle\n"
"""What every ``INSTALLER`` says: the tree is finished by this tool, and no other should change it."""
_SHOWN = 5
# What installers write about an installation, not about a distribution: it differs between machines.
_INSTALLATION_NOTES = frozenset({"REQUESTED", "direct_url.json", "uv_cache.json", "RECORD.jws", "RECORD.p7s"})
_INSTALLER_LEFTOVERS = frozenset({".lock", ".gitignore", "CACHEDIR.TAG", "pyvenv.cfg"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """How files are read: what to look for in them, and with how much help."""

    needles: Sequence[Needle]
    jobs: int
    report: Reporter
    cancel: Cancel

    def files(self, root: Path, found: Mapping[str, Found]) -> dict[str, Examined]:
        """Read the files of ``found`` below ``root``."""
        sizes = {path: item.size for path, item in found.items() if not item.link}
        with Phase(self.report, "examine", total=len(sizes)) as phase:
            examined = examine_files(
                root,
                sizes,
                [needle.text for needle in self.needles],
                jobs=self.jobs,
                cancel=self.cancel,
                progress=phase.progress,
            )
            phase.detail = {"files": len(sizes), "bytes": sum(sizes.values())}
        return examined

    def part(
        self,
        root: Path,
        found: Mapping[str, Found],
        examined: Mapping[str, Examined],
        *,
        owner: str,
        distribution: InstalledDistribution | None = None,
        written: frozenset[str] = frozenset(),
    ) -> Part:
        """Return the part of one owner.

        Args:
            root: Where its files lie.
            found: Its files and links.
            examined: What reading them found; may hold more.
            owner: Who owns them.
            distribution: What the owner says about itself.
            written: Files that were written here, so that its RECORD says nothing about them.
        """
        claims = {} if distribution is None else distribution.files
        expected = claims.keys() - found.keys() - {"" if distribution is None else distribution.record}
        unchanged, mismatched = _compare(claims, found, examined, written)
        needles = {path: examined[path].needles for path in found if path in examined and examined[path].needles}
        return Part(
            owner=owner,
            place="" if distribution is None else distribution.place,
            entries=sorted_entries([_entry(path, item, examined) for path, item in found.items()]),
            unchanged=frozenset(unchanged),
            missing=tuple(sorted(path for path in expected if not is_note(path))),
            mismatched=tuple(sorted(mismatched)),
            leaks=tuple(judge_leaks(needles, self.needles, unchanged=unchanged)),
            facts={
                path: facts
                for path in sorted(found)
                if path in examined and (facts := examined[path].facts) is not None
            },
            metadata=None if distribution is None else _metadata(root / distribution.place),
            import_roots={path: _import_roots(root / path) for path in sorted(found) if _is_path_file(path)},
        )


def examine_tree(root: Path, owner: str, examination: Examination) -> Part:
    """Return what lies below ``root`` as the part of one owner, such as `INTERPRETER`."""
    found = list_tree(root)
    return examination.part(root, found, examination.files(root, found), owner=owner)


def finish_wheels(root: Path, examination: Examination) -> dict[str, Part]:
    """Finish freshly installed wheels below ``root``, and return the part of each by its distribution's name.

    Console scripts become relocatable, every ``INSTALLER`` says who installed, installation notes and bytecode go.
    Nothing else may lie below ``root``; RECORDs stay as the installer wrote them.

    Raises:
        BuildError: for a file that no RECORD names, or a distribution that cannot be read.
    """
    found = list_tree(root)
    distributions = read_distributions(root)
    claimed = {path for distribution in distributions for path in distribution.files}
    dropped = [path for path in found if is_note(path) or (path not in claimed and path in _INSTALLER_LEFTOVERS)]
    remove_files(root, dropped)
    for path in dropped:
        del found[path]
    _refuse_strays(path for path in found if path not in claimed)
    written: dict[str, frozenset[str]] = {}
    with Phase(examination.report, "scripts") as phase:
        for distribution in distributions:
            files = _finish(root, distribution, found)
            for path, content in files.items():
                executable = path.startswith("bin/")
                write_file(root, path, content, executable=executable)
                found[path] = Found(len(content), executable)
            written[distribution.name] = frozenset(files)
        phase.detail = {"written": sum(map(len, written.values()))}
    records = {distribution.record for distribution in distributions}
    examined = examination.files(root, {path: item for path, item in found.items() if path not in records})
    return {
        distribution.name: examination.part(
            root,
            {
                path: found[path]
                for path in (*distribution.files, *(written[distribution.name] - distribution.files.keys()))
                if path in found and path != distribution.record
            },
            examined,
            owner=distribution.name,
            distribution=distribution,
            written=written[distribution.name],
        )
        for distribution in distributions
    }


def remove_sharers(root: Path) -> frozenset[str]:
    """Remove the distributions below ``root`` that claim a path which another one claims too, and return their names.

    The installer has given such a path the bytes and the mode of whichever came last: only a tree for each of them
    tells what they really bring.
    """
    distributions = read_distributions(root)
    claims = Counter(path for distribution in distributions for path in distribution.files if not is_note(path))
    sharing = [item for item in distributions if any(claims[path] > 1 for path in item.files)]
    doomed = {path for distribution in sharing for path in distribution.files}
    remove_files(root, [path for path in sorted(doomed) if os.path.lexists(root / path)])
    for distribution in sharing:
        remove_tree(root / distribution.place)  # an empty directory would be taken for a damaged distribution
    return frozenset(distribution.name for distribution in sharing)


def is_note(path: str) -> bool:
    """Whether ``path`` says something about an installation, or is bytecode: no bundle keeps it."""
    directory, name = posixpath.split(path)
    if name in _INSTALLATION_NOTES:
        return directory.endswith(".dist-info")
    return name.endswith(".pyc") and posixpath.basename(directory) == "__pycache__"


def _refuse_strays(paths: Iterable[str]) -> None:
    strays = sorted(paths)
    if strays:
        more = f" (and {len(strays) - _SHOWN} more)" if len(strays) > _SHOWN else ""
        shown = ", ".join(f"`{path}`" for path in strays[:_SHOWN])
        raise BuildError(
            f"Cannot use the installed wheels: {shown}{more}: no distribution's RECORD names it",
            hint="lock another version of the distribution that brings it",
            paths=strays,
        )


def _finish(root: Path, distribution: InstalledDistribution, found: Mapping[str, Found]) -> dict[str, bytes]:
    """Return the files of a distribution that are written anew."""
    files = {script.path: script.content for script in entry_point_scripts(distribution)}
    for path in distribution.files:
        if path.startswith("bin/") and path in found and path not in files and not found[path].link:
            place = root / path
            with host_errors("read", place):
                content = place.read_bytes()
            relocated = relocated_script(path, content) if content.startswith(b"#!") else None
            if relocated is not None:
                files[path] = relocated
    files[f"{distribution.place}/INSTALLER"] = INSTALLER
    return files


def _compare(
    claims: Mapping[str, str],
    found: Mapping[str, Found],
    examined: Mapping[str, Examined],
    written: frozenset[str],
) -> tuple[list[str], list[str]]:
    """Return the files that are as their RECORD says, and those that are not."""
    unchanged: list[str] = []
    mismatched: list[str] = []
    for path, digest in claims.items():
        if path in found and path in examined and path not in written and digest.startswith("sha256="):
            same = record_digest(examined[path].sha256) == digest
            (unchanged if same else mismatched).append(path)
    return unchanged, mismatched


def _entry(path: str, found: Found, examined: Mapping[str, Examined]) -> Entry:
    if found.link:
        return LinkEntry(path=path, link=found.link)
    return FileEntry(path=path, mode=found.mode, size=examined[path].size, sha256=examined[path].sha256)


def _metadata(place: Path) -> DistributionMetadata:
    try:
        return read_metadata(place)
    except InvalidInputError as error:
        raise BuildError(f"Cannot use the installed wheels: {error}", hint="lock another version") from error


def _is_path_file(path: str) -> bool:
    return path.endswith(".pth") and path.rpartition("/")[0] == SITE_PACKAGES


def _import_roots(place: Path) -> tuple[str, ...]:
    with host_errors("read", place):
        return tuple(path_roots(place.read_text(encoding="utf-8", errors="replace")))
