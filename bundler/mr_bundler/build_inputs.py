"""What goes into a build beside recipe and lock: what must fit, what to look for, the keys of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mr_bundler.build_record import tool_identity
from mr_bundler.environment.leaks import Needle, plan_needles
from mr_bundler.environment.parts import INTERPRETER, part_key
from mr_bundler.image.bundle_layers import Compiler
from mr_bundler.interpreter import Interpreter
from mr_bundler.interpreter.contents import EXECUTABLE
from mr_bundler.interpreter.host_search import HostPython
from mr_bundler.lock.lock import Lock, inputs_digest, refuse_pending
from mr_bundler.recipe.recipe import Recipe
from mr_bundler.result import BuildOptions
from mr_bundler.wheels.uv_process import uv_identity
from mr_core.bundle_config import HostRequirements
from mr_core.errors import InvalidInputError, UsageError
from mr_core.events import Level, Notice, Reporter
from mr_core.platform import Target


def check_inputs(
    recipe: Recipe, target: Target, lock: Lock, *, options: BuildOptions, environ: Mapping[str, str]
) -> None:
    """Refuse inputs that do not belong together.

    Raises:
        InvalidInputError: the lock belongs to another state of the recipe, or is not complete.
        UsageError: the options contradict each other.
    """
    if (lock.backend, lock.target, lock.inputs) != (
        recipe.backend,
        target,
        inputs_digest(recipe, recipe.target(target)),
    ):
        raise InvalidInputError(
            f"Cannot build `{recipe.backend}` for `{target}`: the lock belongs to another state of the recipe",
            hint="run `mr-bundle lock`",
        )
    refuse_pending(lock, lock.packages)
    if options.require_pinned and (options.python_from or environ.get("MR_PYTHON_FROM")):
        raise UsageError(
            "Cannot take the pinned interpreter: a host Python was named as well",
            hint="leave `--python-from` and MR_PYTHON_FROM away, or `--require-pinned`",
        )


def promised_requirements(
    recipe: Recipe, target: Target, interpreter: Interpreter, *, report: Reporter
) -> HostRequirements:
    """Return the least host that the bundle promises to run on: the recipe's, or what its interpreter needs.

    A notice ``floor-raised`` tells when that is more than the recipe says.
    """
    requires = recipe.target(target).requires
    if _version(interpreter.glibc) <= _version(requires.glibc):
        return requires
    if requires.glibc:
        text = (
            f"This bundle needs glibc {interpreter.glibc}, though the recipe says {requires.glibc}:"
            f" so does its interpreter ({interpreter.source})"
        )
        report(Notice(code="floor-raised", message=text, level=Level.WARNING))
    return replace(requires, glibc=interpreter.glibc)


def _version(text: str) -> list[int]:
    """Return a version such as ``2.35`` for comparing; that of empty text is the lowest."""
    return [int(part) for part in text.split(".") if part]


def plan_build_needles(
    interpreter: Interpreter,
    *,
    cache: Path,
    places: Sequence[Path],
    environ: Mapping[str, str],
) -> tuple[tuple[Needle, ...], tuple[Needle, ...]]:
    """Return the paths of this machine that files are searched for: those of every build, and those of this one.

    Args:
        interpreter: Names the Python of this machine that it was made of.
        cache: Cache directory.
        places: Directories that only this build uses.
        environ: ``HOME`` and what decides where uv's cache is.
    """
    home = environ.get("HOME") or "/"
    uv_cache = environ.get("UV_CACHE_DIR") or f"{environ.get('XDG_CACHE_HOME') or f'{home}/.cache'}/uv"
    paths: dict[str, list[Path | str]] = {"cache directory": [cache], "uv cache": [uv_cache]}
    if interpreter.origin is not None:
        paths["interpreter's source"] = [interpreter.origin]
    return plan_needles(paths, home=home), plan_needles({"build directory": places}, home="/")


def part_keys(lock: Lock, interpreter: Interpreter, needles: Sequence[Needle]) -> dict[str, str]:
    """Return the key of the part of every owner: the interpreter and each distribution, which uv unpacks."""
    tool, uv = tool_identity(), uv_identity()
    origins: dict[str, tuple[str, ...]] = {INTERPRETER: ("interpreter", interpreter.identity)}
    origins |= {wheel.name: ("wheel", wheel.file, wheel.sha256, uv) for wheel in lock.packages}
    return {owner: part_key(origin, tool=tool, needles=needles) for owner, origin in origins.items()}


def choose_compiler(interpreter: Interpreter, foreign: HostPython | None) -> Compiler:
    """Return what compiles bytecode and installs wheels: the bundle's own interpreter where it runs here.

    Args:
        interpreter: The bundle's own.
        foreign: A Python of this machine, when the bundle is for another platform.
    """
    if foreign is None:
        python = interpreter.prefix / EXECUTABLE
        return Compiler(python=python, version=interpreter.version, identity=interpreter.identity)
    identity = f"cpython {foreign.version} (host)"
    return Compiler(python=foreign.executable, version=foreign.version, identity=identity)
