"""Write the first recipe of a backend: everything that can be found out is, the rest is guessed and says so.

The index is asked through uv for the newest version, target by target; the least glibc or macOS is the lowest that
every chosen wheel has a file for; the server is looked for in the wheel itself.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from mr_bundler.interpreter.host_search import locate_host_python
from mr_bundler.lock.lock import Lock, platform_floor
from mr_bundler.lock.python_pin import newest_build, pin_for
from mr_bundler.lock.resolve import read_pylock
from mr_bundler.lock.wheel_tags import best_wheel
from mr_bundler.recipe.recipe import RECIPE_FILE, parse_recipe
from mr_bundler.recipe.targets import RecipeTarget
from mr_bundler.scaffold.facts import ServerFacts, guess_facts, read_facts
from mr_bundler.scaffold.text import RecipeDraft, write_text
from mr_bundler.wheels.uv import compile_pylock, install_wheels
from mr_bundler.wheels.uv_process import find_uv
from mr_core.bundle_config import HostRequirements
from mr_core.decode import Decoder
from mr_core.durable import host_errors, make_directories
from mr_core.errors import HostError, InvalidInputError, NotFoundError, UsageError
from mr_core.events import Cancel, Level, Notice, Phase, Reporter, SafeReporter, discard
from mr_core.platform import Platform, Target

USUAL_TARGETS = ("linux/amd64+cpu", "linux/arm64+cpu", "darwin/arm64+metal")
"""What is tried when no target is named; those without wheels are left out."""
_GLIBC = ("2.28", *(f"2.{minor}" for minor in range(31, 41)))
"""Floors of glibc that are tried, lowest first: those ``uv`` tells apart, from that of RHEL 8 on."""
_MACOS = ("13.0", "14.0", "15.0", "26.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """A recipe that was written.

    Attributes:
        path: Of the recipe file.
        version: Newest version of the distribution, which the recipe pins.
        targets: In the order of the recipe.
        left_out: For targets that were tried and have no wheels: the reason.
        launch: What starts the server: ``module NAME`` or ``script NAME``.
        guessed: Fields that could not be found out.
    """

    path: Path
    backend: str
    distribution: str
    version: str
    targets: tuple[Target, ...]
    left_out: Mapping[str, str]
    launch: str
    guessed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolved:
    """A target whose wheels were found."""

    target: Target
    requires: HostRequirements
    version: str
    lock: Lock


def scaffold_recipe(
    backend: str,
    *,
    distribution: str,
    directory: Path,
    exclude_newer: str,
    module: str = "",
    script: str = "",
    targets: Sequence[Target] = (),
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Scaffold:
    """Write ``recipe.toml`` into ``directory`` for the newest version of ``distribution``.

    Args:
        backend: Valid name of the backend.
        distribution: Name on the index.
        directory: Made when it does not exist; must not hold a recipe.
        exclude_newer: The index as it was at this time.
        module: What to start, as ``python -m`` does; looked for in the wheel when neither it nor ``script`` is given.
        script: Console script to start.
        targets: Exactly these; without any, the usual ones that have wheels.
        report: Gets the phases ``resolve`` and ``inspect``.
        cancel: Stops uv.

    Raises:
        UsageError: there is a recipe already.
        InvalidInputError: the distribution has no wheels for a target; for none of them when none was named.
        UnavailableError, AccessDeniedError: an index did not answer, or refused.
        HostError: uv is missing, or the recipe cannot be written.
    """
    path = directory / RECIPE_FILE
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"Cannot write `{path}`: it exists already", hint="edit it, or choose another place with `--directory`"
        )
    report = SafeReporter(report)
    name = canonicalize_name(distribution)
    resolver = _Resolver(name, exclude_newer, report, cancel)
    with Phase(report, "resolve", name) as phase:
        resolved, left_out = resolver.resolve(targets)
        phase.detail = {"version": resolved[0].version, "targets": len(resolved)}
    with Phase(report, "inspect", f"{name} {resolved[0].version}"):
        facts = _inspect(resolved[0], name, report, cancel)
    build = newest_build()
    draft = RecipeDraft(
        backend=backend,
        distribution=name,
        version=resolved[0].version,
        exclude_newer=exclude_newer,
        python_version=build[0],
        python_build=build[1],
        targets=tuple((item.target, item.requires) for item in resolved),
        facts=facts.with_launch(module, script),
    )
    text = write_text(draft).encode()
    parse_recipe(text, directory, f"recipe `{path}`")  # what was written must be right
    _write(path, text)
    return Scaffold(
        path=path,
        backend=backend,
        distribution=name,
        version=draft.version,
        targets=tuple(item.target for item in resolved),
        left_out=left_out,
        launch=f"module {draft.facts.module}" if draft.facts.module else f"script {draft.facts.script}",
        guessed=draft.facts.guessed,
    )


@dataclass(frozen=True, slots=True)
class _Resolver:
    """Asks the index about one distribution."""

    name: str
    exclude_newer: str
    report: Reporter
    cancel: Cancel | None

    def resolve(self, targets: Sequence[Target]) -> tuple[list[_Resolved], dict[str, str]]:
        """Return the targets that have wheels of one version, and why others are left out; at least one."""
        find_uv()
        wanted = list(targets) or [Target.parse(text) for text in USUAL_TARGETS]
        if not targets:  # this host's first: its newest version is what all are asked for
            wanted.sort(key=lambda target: target.platform != Platform.host())
        found: list[_Resolved] = []
        left_out: dict[str, str] = {}
        for target in wanted:
            requirement = f"{self.name}=={found[0].version}" if found else self.name
            try:
                found.append(self._resolve(target, requirement))
            except InvalidInputError as error:
                if targets:
                    raise
                left_out[str(target)] = error.message
                text = f"left out {target}: {self.name} does not resolve there"
                self.report(Notice(code="target-left-out", message=text, level=Level.NOTE))
        if not found:
            raise InvalidInputError(
                "\n  ".join(left_out.values()), hint="name the distribution on the index with `--distribution`"
            )
        order = [str(target) for target in targets] or list(USUAL_TARGETS)
        return sorted(found, key=lambda item: order.index(str(item.target))), left_out

    def _resolve(self, target: Target, requirement: str) -> _Resolved:
        highest = (
            HostRequirements(glibc=_GLIBC[-1]) if target.platform.os == "linux" else HostRequirements(macos=_MACOS[-1])
        )
        version, build = newest_build()
        data = compile_pylock(
            [requirement],
            target=target,
            requires=highest,
            python_version=version,
            exclude_newer=self.exclude_newer,
            report=self.report,
            cancel=self.cancel,
        )
        requires = least_floor(wheel_files(data), target)
        item = RecipeTarget(target=target, requires=requires, requirements=(requirement,))
        packages = read_pylock(data, item)
        locked = next(wheel.version for wheel in packages if wheel.name == self.name)
        lock = Lock(
            backend=self.name,
            version=locked,
            target=target,
            requires=platform_floor(requires),
            exclude_newer=self.exclude_newer,
            python=pin_for(version, build, target.platform),
            packages=packages,
            inputs="",
        )
        return _Resolved(target=target, requires=requires, version=locked, lock=lock)


def wheel_files(pylock: bytes) -> dict[str, list[str]]:
    """Return the file names of all wheels of each package of a PEP 751 document."""
    read = Decoder(tomllib.loads(pylock.decode()), "uv's resolution")
    found: dict[str, list[str]] = {}
    for package in read.tables("packages"):
        wheels = package.tables("wheels")
        names = [wheel.text("name", "") or wheel.text("url", "") or wheel.text("path", "") for wheel in wheels]
        found[package.text("name")] = [name.rpartition("/")[2].replace("%2B", "+") for name in names]
    return found


def least_floor(files: Mapping[str, Sequence[str]], target: Target) -> HostRequirements:
    """Return the lowest floor at which every package still has a wheel for ``target``; the highest tried if none has.

    The versions were chosen for the highest floor, so a lower one does not silently mean older versions.
    """
    linux = target.platform.os == "linux"
    tried = [
        HostRequirements(glibc=text) if linux else HostRequirements(macos=text)
        for text in (_GLIBC if linux else _MACOS)
    ]
    for requires in tried:
        if all(best_wheel(wheels, target, requires) is not None for wheels in files.values()):
            return requires
    return tried[-1]


def _inspect(resolved: _Resolved, name: str, report: Reporter, cancel: Cancel | None) -> ServerFacts:
    """Install the distribution alone, and look at it; guess when that cannot be done here."""
    try:
        with tempfile.TemporaryDirectory(prefix="mr-new-", ignore_cleanup_errors=True) as scratch:
            prefix = Path(scratch, "tree")
            python = locate_host_python().executable
            install_wheels(resolved.lock, prefix=prefix, python=python, only=(name,), report=discard, cancel=cancel)
            return read_facts(prefix, name)
    except NotFoundError as error:  # no Python that could install it
        text = f"the wheel was not looked into, so its server is guessed: {error.message}"
        report(Notice(code="not-inspected", message=text, level=Level.WARNING))
        return guess_facts(name)
    except OSError as error:
        raise HostError(f"Cannot write temporary files: {error.strerror}") from error


def _write(path: Path, text: bytes) -> None:
    """Write the recipe, unless somebody else just did."""
    make_directories(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with host_errors("write", path):
        try:
            temporary.write_bytes(text)
            os.link(temporary, path)  # unlike a rename, it does not replace
        except FileExistsError as error:
            raise UsageError(f"Cannot write `{path}`: it exists already", hint="choose another place") from error
        finally:
            temporary.unlink(missing_ok=True)
