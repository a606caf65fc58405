"""Findings of an audit, and the allowances a recipe may make for them."""

from __future__ import annotations

from dataclasses import dataclass

FINDINGS = {
    "leaked-path": "a directory of the build machine stands in a file",
    "shebang": "a script starts an interpreter outside the bundle",
    "rpath": "a library search path leaves the bundle, or is empty",
    "missing-library": "a needed library is neither in the bundle nor part of the platform",
    "glibc-floor": "a binary asks for a newer glibc than the target promises",
    "libstdcxx-floor": "a binary asks for a newer libstdc++ than every host with the promised glibc has",
    "macos-floor": "a binary asks for a newer macOS than the target promises",
    "foreign-binary": "a binary is for another system or architecture",
    "broken-signature": "a Mach-O code signature does not match the pages it signs",
    "malformed-binary": "a binary cannot be read as what it says it is",
    "missing-record-file": "a file in RECORD is not in the bundle",
    "record-mismatch": "a file differs from its RECORD",
    "conflicting-files": "two distributions own one path with different bytes",
    "case-collision": "two paths are one on a filesystem that ignores case or normalises",
    "unsafe-path": "a path or link that some host cannot extract, or must not",
    "unsafe-mode": "a setuid, setgid, sticky or world-writable file",
    "startup-code": "a .pth file or sitecustomize runs code when Python starts",
    "unknown-licence": "a distribution, or a library beside the interpreter, has no licence that can be named",
}
"""Every kind of finding and what it means; the names are stable."""
NEVER_ALLOWED = frozenset({"unsafe-path", "unsafe-mode", "case-collision"})
"""Findings that no allowance covers: the installer's strict reader refuses such a tree, whatever a recipe says."""
STRICT_ONLY = frozenset({"unknown-licence"})
"""Findings that count only in a strict audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a bundle should not hold.

    Attributes:
        kind: A key of `FINDINGS`.
        path: Where, relative to the root of the tree; the name of a distribution or library for `unknown-licence`.
        detail: What exactly, such as the name of a library: one short text without the path.
    """

    kind: str
    path: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A finding that the author of a recipe has looked at and accepts.

    Attributes:
        finding: A key of `FINDINGS`.
        paths: Patterns as in `SlimRules` (relative to site-packages, with a leading ``/`` to the root); for
            ``unknown-licence`` names of distributions and libraries. At least one.
        details: Exact details it is limited to, such as names of libraries; empty for any.
        targets: Targets as text it is limited to; empty for all.
        reason: Why, for the reader of the recipe and of the report.
    """

    finding: str
    paths: tuple[str, ...]
    details: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    reason: str
