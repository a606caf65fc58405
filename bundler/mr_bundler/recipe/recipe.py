"""Recipes: what people write in ``recipes/<backend>/recipe.toml``; format in ``recipes/README.md``.

A `Recipe` in hand is valid: every field was checked when it was read, and all problems were reported in one error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from mr_bundler.audit.finding import Allowance
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.recipe.fields import decode_api, decode_patterns, decode_spec, parse_license, parse_toml
from mr_bundler.recipe.sources import DISTRIBUTION
from mr_bundler.recipe.steps import PrebuildStep, decode_audit, decode_licences, decode_prebuild
from mr_bundler.recipe.targets import NO_TARGET, RecipeTarget, decode_lock_inputs
from mr_core.bundle_config import NAME_PATTERN
from mr_core.decode import Decoder
from mr_core.errors import BundleError, HostError, InvalidInputError, NotFoundError, UnsupportedError
from mr_core.platform import Target
from mr_shim.spec import LaunchSpec, ProbeSpec

FORMAT = 1
RECIPE_FILE = "recipe.toml"
MOST_BYTES = 1 << 20
SITE_PACKAGES = "lib/python3.12/site-packages"
_HINT = "the fields of a recipe are explained in recipes/README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonChoice:
    """A build of python-build-standalone: CPython ``version`` (``3.12.14``) of release ``build`` (``20260814``)."""

    version: str
    build: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimRules:
    """Which files of an environment a bundle leaves out.

    A pattern is relative to site-packages; with a leading ``/`` it is relative to the root of the tree. ``*`` and
    ``?`` stay within one component, ``**`` stands for any number of them. A pattern that matches a directory covers all
    below it. ``keep`` wins over ``remove``.
    """

    remove: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def removes(self, path: str) -> bool:
        """Whether the bundle leaves out ``path``, relative to the root of the tree with ``/`` between components."""
        return _matches(self.remove, path) and not _matches(self.keep, path)

    def unused(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Return the ``remove`` patterns that match none of ``paths``: rules that went stale."""
        return tuple(rule for rule in self.remove if not any(_matches((rule,), path) for path in paths))


@functools.lru_cache(maxsize=256)
def _expression(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(_translate(pattern) for pattern in patterns) or r"(?!)")


def _translate(pattern: str) -> str:
    text = "" if pattern.startswith("/") else re.escape(f"{SITE_PACKAGES}/")
    *parents, last = pattern.removeprefix("/").split("/")
    for part in parents:
        text += "(?:[^/]+/)*" if part == "**" else f"{_component(part)}/"
    return f"(?:{text}{'.+' if last == '**' else _component(last)}(?:/.*)?)"


def _component(part: str) -> str:
    return "".join({"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character)) for character in part)


def _matches(patterns: tuple[str, ...], path: str) -> bool:
    return _expression(patterns).fullmatch(path) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one backend is made into bundles.

    Attributes:
        backend: Name of the backend and of its bundles.
        version_from: Normalised name of the distribution whose locked version is the bundle's version.
        exclude_newer: Files uploaded after this UTC time do not exist for the lock; ``YYYY-MM-DDTHH:MM:SSZ``.
        targets: At least one, no target twice, in the recipe's order.
        api: Paths by endpoint (``health``, ``chat_completions``, …).
        directory: Where the recipe and its locks lie.
        raw: The recipe as it was read.
        prebuild: Native steps, in the order they run.
        audit: Findings the author accepts, in the recipe's order.
        licences: SPDX expressions of distributions that state none themselves, by normalised name.
    """

    backend: str
    summary: str
    homepage: str
    license: str
    version_from: str
    python: PythonChoice
    exclude_newer: str
    targets: tuple[RecipeTarget, ...]
    slim: SlimRules
    probe: ProbeSpec
    launch: LaunchSpec
    api: dict[str, str]
    directory: Path
    raw: bytes = field(repr=False)
    prebuild: tuple[PrebuildStep, ...] = ()
    audit: tuple[Allowance, ...] = ()
    licences: dict[str, str] = field(default_factory=dict)

    def target(self, wanted: Target) -> RecipeTarget:
        """Return what the recipe says about ``wanted``; raise `NotFoundError` naming the targets it has."""
        for target in self.targets:
            if target.target == wanted:
                return target
        known = ", ".join(f"`{target.target}`" for target in self.targets)
        raise NotFoundError(
            f"Cannot find target `{wanted}` in the recipe of `{self.backend}`: it has {known}",
            hint="choose one of these, or add `[[targets]]` to the recipe",
        )


def find_recipes(directory: Path) -> list[Path]:
    """Return the directories directly below ``directory`` that hold a recipe, sorted."""
    return sorted(path.parent for path in directory.glob(f"*/{RECIPE_FILE}"))


def load_recipe(directory: Path) -> Recipe:
    """Read and check the recipe in ``directory`` (or the recipe file itself).

    Raises:
        NotFoundError: when there is none.
        InvalidInputError: with every problem and its path.
        UnsupportedError: when it was written for a newer format.
    """
    path = directory if directory.suffix == ".toml" else directory / RECIPE_FILE
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"Cannot read recipe `{path}`: there is no such file", hint="name a directory that holds a recipe.toml"
        ) from error
    except OSError as error:
        raise HostError(f"Cannot read recipe `{path}`: {error.strerror}") from error
    except ValueError as error:  # a NUL
        raise InvalidInputError(f"Cannot read recipe {str(path)!r}: that is not a path", hint=_HINT) from error
    return parse_recipe(data, path.parent, f"recipe `{path}`")


def parse_recipe(data: bytes, directory: Path, what: str = "recipe") -> Recipe:
    """Parse the bytes of a recipe whose locks lie in ``directory``; raise as `load_recipe` does, naming ``what``."""
    read = Decoder(parse_toml(data, what, hint=_HINT, most=MOST_BYTES), what)
    version = read.integer("format", least=1)
    if version > FORMAT:
        raise UnsupportedError(
            f"Cannot read {read.what}: format {version} is newer than {FORMAT}",
            hint="upgrade this tool: `uv tool upgrade mr-backends`",
        )
    backend = read.table("backend", required=True)
    python = read.table("python", required=True)
    slim = read.table("slim")
    choice = PythonChoice(
        version=python.text("version", pattern=r"3\.12\.[0-9]+"), build=python.text("build", pattern=r"[0-9]{8}")
    )
    version_from = canonicalize_name(backend.text("version-from", pattern=DISTRIBUTION))
    exclude_newer, targets = decode_lock_inputs(read, version_from)
    known = [target.target for target in targets]
    recipe = Recipe(
        backend=backend.text("name", pattern=NAME_PATTERN),
        summary=backend.text("summary", pattern=r"[^\n]+"),
        homepage=backend.text("homepage", pattern=r"https?://[^\s]+"),
        license=backend.parsed("license", parse_license, ""),
        version_from=version_from,
        python=choice,
        exclude_newer=exclude_newer,
        targets=targets,
        slim=SlimRules(
            remove=decode_patterns(read, slim, "remove", "slim.remove"),
            keep=decode_patterns(read, slim, "keep", "slim.keep"),
        ),
        probe=decode_spec(read, "probe", ProbeSpec()),
        launch=decode_spec(read, "launch", LaunchSpec()),
        api=decode_api(read),
        directory=directory,
        raw=data,
        prebuild=decode_prebuild(read, known),
        audit=decode_audit(read, known),
        licences=decode_licences(read),
    )
    health = recipe.api.get("health")
    if health is not None and health != recipe.launch.health_path:
        read.problem(f"api.health: `{health}` differs from launch.health-path `{recipe.launch.health_path}`")
    _check_python(python, choice, targets)
    for table in (read, backend, python, slim):
        table.refuse_unknown()
    read.finish(hint=_HINT)
    return recipe


def _check_python(read: Decoder, choice: PythonChoice, targets: Sequence[RecipeTarget]) -> None:
    """Record a problem for each target that no pinned interpreter of this version and build exists for."""
    problems = set()
    for target in targets:
        if choice.version and choice.build and target.target != NO_TARGET:
            try:
                pin_for(choice.version, choice.build, target.target.platform)
            except BundleError as error:
                problems.add(error.message)
    for problem in sorted(problems):
        read.problem(problem)
