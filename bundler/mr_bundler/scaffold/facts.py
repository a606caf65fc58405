"""Look into an installed distribution for what a recipe says about it: summary, licence, modules, and the server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PathDistribution
from pathlib import Path

from packaging.utils import canonicalize_name

from mr_bundler.papers.metadata import DistributionMetadata, read_metadata
from mr_bundler.recipe.recipe import SITE_PACKAGES
from mr_core.errors import InvalidInputError

_SERVERS = ("entrypoints.openai.api_server", "server", "api_server", "__main__")
"""Modules below the top one that are likely to serve, likeliest first."""
_MODULE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*\.py")
NO_LICENCE = "LicenseRef-Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What is known about a distribution.

    Attributes:
        imports: Modules that the probe imports.
        module: Starts the server; exactly one of ``module`` and ``script`` is set.
        script: Console script that does.
        guessed: Names of fields that stand for something unknown, sorted.
    """

    summary: str
    homepage: str
    licence: str
    imports: tuple[str, ...]
    module: str = ""
    script: str = ""
    guessed: tuple[str, ...] = ()

    def with_launch(self, module: str, script: str) -> ServerFacts:
        """Return the facts with what the caller says starts the server; with nothing said, as they are."""
        if not (module or script):
            return self
        rest = tuple(name for name in self.guessed if name != "launch")
        return replace(self, module=module, script=script, guessed=rest)


def guess_facts(name: str) -> ServerFacts:
    """Return what the name alone suggests."""
    module = name.replace("-", "_").replace(".", "_")
    return ServerFacts(
        summary=f"{name}, an LLM inference server",
        homepage=f"https://example.org/{name}",
        licence=NO_LICENCE,
        imports=(module,),
        module=module,
        guessed=("homepage", "launch", "license", "probe", "summary"),
    )


def read_facts(prefix: Path, name: str) -> ServerFacts:
    """Return what the installed distribution ``name`` below ``prefix`` says; guesses for what it does not say."""
    guessed = guess_facts(name)
    place = next(
        (
            path
            for path in sorted((prefix / SITE_PACKAGES).glob("*.dist-info"))
            if canonicalize_name(PathDistribution(path).name or "") == name
        ),
        None,
    )
    if place is None:
        return guessed
    try:
        metadata = read_metadata(place)
    except InvalidInputError:
        return guessed
    distribution = PathDistribution(place)
    files = [str(path) for path in distribution.files or ()]
    modules = {path.removesuffix(".py").replace("/", ".") for path in files if _MODULE.fullmatch(path)}
    tops = _tops(modules, guessed.module)
    module, script = _launch(tops, modules, distribution)
    found = {
        "summary": metadata.summary,
        "homepage": _homepage(metadata),
        "license": metadata.licence,
        "probe": ", ".join(tops[:1]),
        "launch": module or script,
    }
    return ServerFacts(
        summary=found["summary"] or guessed.summary,
        homepage=found["homepage"] or guessed.homepage,
        licence=found["license"] or guessed.licence,
        imports=_imports(tops, module) or guessed.imports,
        module=module if module or script else (tops[0] if tops else guessed.module),
        script=script,
        guessed=tuple(sorted(field for field, text in found.items() if not text)),
    )


def _tops(modules: set[str], usual: str) -> list[str]:
    """Return the top modules, the one that is called like the distribution first."""
    packages = {module.removesuffix(".__init__") for module in modules if module.count(".") == 1}
    single = {module for module in modules if "." not in module}
    tops = {top.partition(".")[0] for top in packages if f"{top.partition('.')[0]}.__init__" in modules} | single
    return sorted(tops, key=lambda top: (top.lower() != usual.lower(), top))


def _launch(tops: Sequence[str], modules: set[str], distribution: PathDistribution) -> tuple[str, str]:
    """Return the module or the console script that is likely to serve; neither when nothing looks like it."""
    for name in _SERVERS:
        for top in tops:
            if f"{top}.{name}" in modules or f"{top}.{name}.__main__" in modules:
                return (top if name == "__main__" else f"{top}.{name}"), ""
    scripts = sorted(entry.name for entry in distribution.entry_points if entry.group == "console_scripts")
    own = str(distribution.name).lower()
    scripts.sort(key=lambda name: (name.lower() != own, "serve" not in name.lower()))
    return "", scripts[0] if scripts else ""


def _imports(tops: Sequence[str], module: str) -> tuple[str, ...]:
    """Return what the probe imports: the top module, and the server's."""
    return tuple(dict.fromkeys(name for name in (*tops[:1], module) if name))


def _homepage(metadata: DistributionMetadata) -> str:
    links = dict(reversed(metadata.links))
    return metadata.homepage or links.get("vcs", "") or links.get("documentation", "")
