"""Judge a tree: which of its files a host of the target could not use, or should not be given. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from packaging.utils import canonicalize_name

from mr_bundler.audit.binary_rules import Libraries, fitting_slice, judge_binary, version_key
from mr_bundler.audit.facts import FileFacts
from mr_bundler.audit.finding import FINDINGS, NEVER_ALLOWED, STRICT_ONLY, Allowance, Finding
from mr_bundler.audit.path_rules import judge_paths
from mr_bundler.audit.text_rules import judge_customization, judge_shebang, judge_startup
from mr_bundler.environment.leaks import Leak
from mr_bundler.papers.libraries import unlicensed_libraries
from mr_bundler.recipe.recipe import SlimRules
from mr_core.bundle_config import HostRequirements
from mr_core.errors import BuildError, printable
from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from mr_core.platform import Target

_ORDER = {kind: number for number, kind in enumerate(FINDINGS)}
_SHOWN = 5
_MOST_LETTERS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedTree:
    """Everything about a tree that an audit looks at.

    Attributes:
        entries: Files and links by path; the modes of files may be any.
        facts: By path, for the files of which there is something to say.
        leaks: Paths of the build machine that were found in files.
        licences: SPDX expression by distribution, empty where it is not known.
        extra: Findings of those who compared the tree with its RECORDs.
    """

    entries: Mapping[str, Entry]
    facts: Mapping[str, FileFacts] = field(default_factory=dict)
    leaks: Sequence[Leak] = ()
    licences: Mapping[str, str] = field(default_factory=dict)
    extra: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found, sorted.

    Attributes:
        findings: What is not allowed: one is enough to fail.
        allowed: What an allowance covers, with that allowance.
        unused: Allowances for this target that cover nothing: they went stale.
        listed: Worth knowing, never a failure.
        files: How many files and links were looked at.
        binaries: How many of them a host of the target can load.
        glibc: The highest version of glibc that any of these asks for.
        libstdcxx: The highest symbol version of a host's libstdc++ that any of these asks for.
        macos: The highest version of macOS that any of these asks for.
    """

    findings: tuple[Finding, ...] = ()
    allowed: tuple[tuple[Finding, Allowance], ...] = ()
    unused: tuple[Allowance, ...] = ()
    listed: tuple[Finding, ...] = ()
    files: int = 0
    binaries: int = 0
    glibc: str = ""
    libstdcxx: str = ""
    macos: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "findings": [_plain(finding) for finding in self.findings],
            "allowed": pairs_json(self.allowed),
            "unused_allowances": [
                {"finding": item.finding, "paths": list(item.paths), "reason": item.reason} for item in self.unused
            ],
            "listed": [_plain(finding) for finding in self.listed],
            "files": self.files,
            "binaries": self.binaries,
            "glibc": self.glibc,
            "libstdcxx": self.libstdcxx,
            "macos": self.macos,
        }


def judge(
    tree: AuditedTree,
    *,
    target: Target,
    requires: HostRequirements,
    allow: Sequence[Allowance] = (),
    strict: bool = False,
) -> AuditReport:
    """Judge a tree.

    Args:
        tree: What was found in it.
        target: What its binaries should be for.
        requires: The least host it promises to run on; floors that are empty there are only reported.
        allow: What its author accepts; allowances for other targets do not count, nor do those for what nobody may
            allow (`NEVER_ALLOWED`).
        strict: Whether distributions and libraries without a known licence fail; otherwise they are listed.
    """
    allow = [item for item in allow if speaks_of(item, target)]
    binaries = {path: facts.binary for path, facts in tree.facts.items() if facts.binary is not None}
    failing: list[Finding] = []
    listed: list[Finding] = []
    for raw, fails in _all_findings(tree, target, requires):
        finding = _as_text(raw)
        (failing if fails and (strict or finding.kind not in STRICT_ONLY) else listed).append(finding)
    failing = _sorted(failing)
    allowed = pair(failing, allow)
    covered = {finding for finding, _ in allowed}
    findings = [finding for finding in failing if finding not in covered]
    used = {item for item in allow if any(covers(item, finding) for finding in covered)}
    fitting = [found for binary in binaries.values() if (found := fitting_slice(binary, target))]
    highest = max((found.floor for found in fitting), key=version_key, default="")
    return AuditReport(
        findings=tuple(findings),
        allowed=tuple(allowed),
        unused=tuple(item for item in allow if item not in used and (strict or item.finding not in STRICT_ONLY)),
        listed=tuple(_sorted(listed)),
        files=len(tree.entries),
        binaries=len(fitting),
        glibc=highest if target.platform.os == "linux" else "",
        libstdcxx=max(
            (version for found in fitting for version in found.cxx if version.startswith("GLIBCXX_")),
            key=lambda version: version_key(version.partition("_")[2]),
            default="",
        ),
        macos=highest if target.platform.os == "darwin" else "",
    )


def pair(findings: Iterable[Finding], allow: Sequence[Allowance]) -> list[tuple[Finding, Allowance]]:
    """Return the findings that an allowance covers, each with the first that does; targets are not looked at."""
    found = ((finding, next((item for item in allow if covers(item, finding)), None)) for finding in findings)
    return [(finding, item) for finding, item in found if item is not None]


def pairs_json(pairs: Iterable[tuple[Finding, Allowance]]) -> list[dict[str, str]]:
    """Return findings with the reasons of their allowances as plain values."""
    return [_plain(finding) | {"reason": allowance.reason} for finding, allowance in pairs]


def speaks_of(allowance: Allowance, target: Target) -> bool:
    """Return whether an allowance counts for ``target``."""
    return not allowance.targets or str(target) in allowance.targets


def covers(allowance: Allowance, finding: Finding) -> bool:
    """Return whether an allowance accepts this finding; its targets are not looked at."""
    if allowance.finding != finding.kind or finding.kind in NEVER_ALLOWED:
        return False
    if allowance.details and finding.detail not in allowance.details:
        return False
    if finding.kind == "unknown-licence":
        return canonicalize_name(finding.path) in {canonicalize_name(name) for name in allowance.paths}
    return SlimRules(remove=allowance.paths).removes(finding.path)  # the patterns are those of slim rules


def refuse_findings(report: AuditReport, what: str) -> None:
    """Raise `BuildError` when an audit of ``what`` found something; ``fields`` hold the whole report."""
    if not report.findings:
        return
    shown = "; ".join(describe(finding) for finding in report.findings[:_SHOWN])
    more = f" (and {len(report.findings) - _SHOWN} more)" if len(report.findings) > _SHOWN else ""
    hint = "repair it, leave the file out with `slim.remove`, or accept it by name and reason with `[[audit.allow]]`"
    hopeless = [finding for finding in report.findings if finding.kind in NEVER_ALLOWED]
    if hopeless:
        hint = f"leave `{hopeless[0].path}` out with `slim.remove`: no host could install it, whatever a recipe allows"
    raise BuildError(
        f"Cannot accept {what}: {shown}{more}",
        hint=hint,
        **report.to_json(),
    )


def describe(finding: Finding) -> str:
    """Return a finding as part of a sentence: kind, path and detail."""
    return f"{finding.kind} in `{finding.path}`" + (f" ({finding.detail})" if finding.detail else "")


def _all_findings(tree: AuditedTree, target: Target, requires: HostRequirements) -> Iterator[tuple[Finding, bool]]:
    """Yield every finding, and whether it can fail an audit."""
    binaries = {path: facts.binary for path, facts in tree.facts.items() if facts.binary is not None}
    links = [path for path, entry in tree.entries.items() if isinstance(entry, LinkEntry)]
    libraries = Libraries.of(tree.entries.keys(), links, binaries, target)
    for path, facts in tree.facts.items():
        if facts.binary is not None:
            yield from _failing(judge_binary(path, facts.binary, libraries, target=target, requires=requires))
        if facts.shebang:
            entry = tree.entries.get(path)
            executable = isinstance(entry, FileEntry) and bool(entry.mode & 0o100)
            yield from judge_shebang(path, facts.shebang, executable=executable)
        yield from _failing(judge_startup(path, facts))
        yield from _failing(Finding(kind="leaked-path", path=path, detail=trace) for trace in facts.traces)
    yield from _failing(Finding(kind="leaked-path", path=leak.path, detail=leak.what) for leak in tree.leaks)
    yield from _failing(judge_paths(tree.entries))
    yield from _failing(judge_customization(tree.entries.keys()))
    yield from _failing(tree.extra)
    yield from _failing(
        Finding(kind="unknown-licence", path=name) for name, licence in tree.licences.items() if not licence
    )


def judge_libraries(interpreter: Sequence[Entry]) -> list[Finding]:
    """Return findings for libraries among the interpreter's own files that have no licence this tool can name."""
    detail = "a library beside the interpreter"
    return [Finding(kind="unknown-licence", path=name, detail=detail) for name in unlicensed_libraries(interpreter)]


def _failing(findings: Iterable[Finding]) -> Iterator[tuple[Finding, bool]]:
    return ((finding, True) for finding in findings)


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(set(findings), key=lambda item: (_ORDER[item.kind], item.path, item.detail))


def _as_text(finding: Finding) -> Finding:
    """Return the finding as it may be shown and written: names and contents of files may hold anything."""
    if finding.path.isprintable() and finding.detail.isprintable():
        return finding
    return replace(finding, path=printable(finding.path, most=_MOST_LETTERS), detail=printable(finding.detail))


def _plain(finding: Finding) -> dict[str, str]:
    return {"kind": finding.kind, "path": finding.path, "detail": finding.detail}
