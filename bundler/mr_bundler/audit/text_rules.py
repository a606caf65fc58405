"""Which scripts start something outside the bundle, and which files run code when Python starts. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from mr_bundler.audit.facts import FileFacts
from mr_bundler.audit.finding import Finding

_SHELL = "/bin/sh"
_SYSTEM = ("/bin/", "/sbin/", "/usr/")
_CUSTOMIZE = re.compile(
    r"(?:^|.*/)lib(?:64)?/python3\.\d+/(?:(?:site|dist)-packages/)?"
    r"(?:site|user)customize(?:\.pyc?|\.[^/]*\.so|\.so|/__init__\.pyc?)"
)


def judge_shebang(path: str, shebang: str, *, executable: bool) -> Iterator[tuple[Finding, bool]]:
    """Yield the finding that a script makes, if any, and whether it fails an audit; others are only listed.

    What lies in ``bin`` is there to be started, so it must not depend on more of the host than a shell. Elsewhere,
    wheels hold many sources with a harmless ``#!/usr/bin/env python`` that nobody starts; but an interpreter outside
    the system's own directories exists on the machine where the file was made, and nowhere else.
    """
    interpreter = shebang.split(maxsplit=1)[0] if shebang.strip() else ""
    if interpreter == _SHELL:
        return
    finding = Finding(kind="shebang", path=path, detail=shebang)
    started = path.startswith("bin/") and path.count("/") == 1
    elsewhere = interpreter.startswith("/") and not interpreter.startswith(_SYSTEM)
    if started or elsewhere or executable:
        yield finding, started or elsewhere


def judge_startup(path: str, facts: FileFacts) -> Iterator[Finding]:
    """Yield findings for the lines of a ``.pth`` file that Python runs."""
    for line in facts.startup:
        yield Finding(kind="startup-code", path=path, detail=line)


def judge_customization(paths: Collection[str]) -> Iterator[Finding]:
    """Yield findings for modules that `site` imports when Python starts, if they are there."""
    for path in paths:
        if "customize" in path and _CUSTOMIZE.fullmatch(path):
            yield Finding(kind="startup-code", path=path, detail="imported at every start")
