"""What goes into a build beside recipe and lock: which paths of this machine to look for, and the keys of all parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mr_bundler.build_record import tool_identity
from mr_bundler.environment.leaks import Needle, plan_needles
from mr_bundler.environment.parts import INTERPRETER, part_key
from mr_bundler.image.bundle_layers import Compiler
from mr_bundler.interpreter import Interpreter
from mr_bundler.interpreter.contents import EXECUTABLE
from mr_bundler.interpreter.host_search import HostPython
from mr_bundler.lock.lock import Lock
from mr_bundler.wheels.uv_process import uv_identity


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
