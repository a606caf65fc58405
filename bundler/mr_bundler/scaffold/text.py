"""The text of a new recipe: every field with a comment that says what to change. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mr_bundler.scaffold.facts import ServerFacts
from mr_core.bundle_config import HostRequirements
from mr_core.platform import Target

_CHANGE = "  # CHANGE: could not be found out"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeDraft:
    """Everything the recipe says; ``facts`` has exactly one of module and script."""

    backend: str
    distribution: str
    version: str
    exclude_newer: str
    python_version: str
    python_build: str
    targets: tuple[tuple[Target, HostRequirements], ...]
    facts: ServerFacts


def write_text(draft: RecipeDraft) -> str:
    """Return ``recipe.toml``."""
    facts = draft.facts
    parts = [
        """\
# Written by `mr-bundle new`. Every field is explained in recipes/README.md; `mr-bundle check` reads it.
format = 1
""",
        f"""\
[backend]
# Name of the backend, of its directory and of its bundles.
name = {_quoted(draft.backend)}
# One line for people who choose a backend.
summary = {_quoted(facts.summary)}{_mark(facts, "summary")}
homepage = {_quoted(facts.homepage)}{_mark(facts, "homepage")}
# SPDX expression of the backend's own licence.
license = {_quoted(facts.licence)}{_mark(facts, "license")}
# The distribution whose locked version is the bundle's version.
version-from = {_quoted(draft.distribution)}
""",
        f"""\
[python]
# A build of python-build-standalone whose digests the tool knows.
version = {_quoted(draft.python_version)}
build = {_quoted(draft.python_build)}
""",
        f"""\
[lock]
# Files uploaded later do not exist for the lock. To upgrade, move this date and the version, and run `mr-bundle lock`;
# `mr-bundle outdated` says what that would change.
exclude-newer = {draft.exclude_newer}
# What all targets need. Add extras here, or `requirements` to a single target.
requirements = [{_quoted(f"{draft.distribution}=={draft.version}")}]
""",
        *(_target(target, requires) for target, requires in draft.targets),
        """\
[slim]
# Files to leave out, relative to site-packages: test suites, static libraries. For example:
#   remove = ["numpy/**/tests", "numpy/**/*.a"]
remove = []
# What must stay although a pattern above matches it, such as headers that a JIT compiles against.
keep = []
""",
        f"""\
[probe]
# Modules that must import before an installed bundle becomes active: name those whose native parts can fail.
imports = {_list(facts.imports)}{_mark(facts, "probe")}
# Distributions whose version the probe reports.
versions = {_list((draft.distribution,))}
timeout = 120
""",
        _launch(draft),
        """\
[api]
# What the server offers; remove what it does not have. `health` must equal `health-path`.
health = "/health"
models = "/v1/models"
chat-completions = "/v1/chat/completions"
completions = "/v1/completions"
""",
    ]
    return "\n".join(parts)


def _target(target: Target, requires: HostRequirements) -> str:
    accelerator = {"cpu": "the CPU", "metal": "Apple's GPU"}.get(target.accelerator, target.accelerator)
    system = "macOS" if target.platform.os == "darwin" else "glibc"
    floor = f"macos = {_quoted(requires.macos)}" if system == "macOS" else f"glibc = {_quoted(requires.glibc)}"
    cuda = (
        '# The least NVIDIA driver of the host: say what this release of CUDA needs.\n# cuda-driver = "580"\n'
        if target.accelerator.startswith("cuda")
        else ""
    )
    return f"""\
[[targets]]
# Operating system, architecture and what it computes on: {accelerator}.
target = {_quoted(str(target))}
# The least {system} of a host: the lowest that every wheel is published for.
{floor}
{cuda}"""


def _launch(draft: RecipeDraft) -> str:
    facts = draft.facts
    kind, value = ("module", facts.module) if facts.module else ("script", facts.script)
    about = "Started as `python -m MODULE`" if facts.module else "Started from `bin/` of the bundle"
    return f"""\
[launch]
# {about}. CHANGE this if the server is another one; `arguments` come first, such as ["serve"].
{kind} = {_quoted(value)}{_mark(facts, "launch")}
arguments = []
# Answers 200 once the server is ready.
health-path = "/health"
start-timeout = 300
stop-signal = "SIGTERM"
stop-grace = 10

[launch.options]
# How this server spells the options every backend is asked for; "positional" for a value without a flag.
model = "--model"
host = "--host"
port = "--port"

[launch.unsupported]
# Options it lacks, each with the reason that users are told.
served-model-name = "this backend names the model itself"
chat-template = "this backend takes the template from the model"
uds = "this backend listens on TCP only"

[launch.environment]
# Variables to set for the server.
"""


def _mark(facts: ServerFacts, field: str) -> str:
    return _CHANGE if field in facts.guessed else ""


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    """Return a TOML basic string: JSON's escapes are among TOML's, and DEL, which JSON leaves alone, is escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
