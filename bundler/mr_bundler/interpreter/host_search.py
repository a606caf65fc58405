"""Find a CPython of the bundles' series on this machine that really runs."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mr_bundler.lock.python_pin import SERIES
from mr_core.errors import NotFoundError

_SECONDS = 20
_NAME = f"python{SERIES}"
_PROBE = """
import json, platform, sys, sysconfig
base = sys.base_prefix
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": platform.python_version(),
    "prefix": base,
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "split": sys.base_exec_prefix != base,
    "purelib": sysconfig.get_path("purelib", vars={"base": base, "platbase": base}),
    "stdlib": sysconfig.get_path("stdlib", vars={"installed_base": base}),
    "machine": platform.machine(),
    "odd": bool(sysconfig.get_config_var("Py_DEBUG") or sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPython:
    """An installed CPython: its prefix, its real executable and its exact version."""

    prefix: Path
    executable: Path
    version: str


def find_host_python(python_from: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the prefix of a real CPython of the bundles' series on this machine.

    A named one (``python_from``: a prefix or an executable, or ``MR_PYTHON_FROM``) is the only candidate. Else the
    Pythons uv installed, pyenv's, Homebrew's, the one that runs this, and every one on PATH; each is run, because a
    shim may exist and fail.

    Raises:
        NotFoundError: with the reason for every candidate.
    """
    return locate_host_python(python_from, environ=environ).prefix


def locate_host_python(python_from: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> HostPython:
    """Do as `find_host_python`, and tell the version too."""
    named = python_from or (Path(environ["MR_PYTHON_FROM"]) if environ.get("MR_PYTHON_FROM") else None)
    candidates = [named if named.is_file() else named / "bin" / _NAME] if named else _candidates(environ)
    reasons: list[str] = []
    tried: set[Path] = set()
    for candidate in candidates:
        if candidate in tried or not candidate.is_file():
            continue
        tried.add(candidate)
        found = inspect_python(candidate)
        if isinstance(found, HostPython):
            return found
        reasons.append(f"`{candidate}`: {found}")
    if named:
        raise NotFoundError(
            f"Cannot use `{named}` as a base interpreter: {reasons[0] if reasons else f'there is no `bin/{_NAME}`'}",
            hint=f"name the prefix of a CPython {SERIES}, the directory that holds `bin/{_NAME}`",
        )
    raise NotFoundError(
        f"Cannot find a CPython {SERIES} on this machine: {'; '.join(reasons) or 'there is none in the usual places'}",
        hint=f"install CPython {SERIES}, or name its prefix with `--python-from`",
    )


def inspect_python(executable: Path) -> HostPython | str:
    """Run ``executable`` and return what it is, or the reason why it cannot become part of a bundle."""
    command = [str(executable), "-I", "-S", "-c", _PROBE]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not run: {error}"
    if ran.returncode != 0:
        last = next(iter(ran.stderr.strip().splitlines()), "no output")
        return f"it ends with status {ran.returncode}: {last}"
    try:
        facts = json.loads(ran.stdout)
    except ValueError:
        return "it does not behave like a Python"
    prefix = facts["prefix"]
    purposes = (
        (facts["implementation"] != "cpython", f"it is {facts['implementation']}, not CPython"),
        (not re.fullmatch(rf"{re.escape(SERIES)}\.\d+", facts["version"]), f"it is version {facts['version']}"),
        (facts["odd"], "it is a debug or free-threaded build"),
        (facts["machine"] != platform.machine(), f"it is built for {facts['machine']}"),
        (facts["split"], "its files are spread over two prefixes"),
        (
            facts["purelib"] != f"{prefix}/lib/{_NAME}/site-packages" or facts["stdlib"] != f"{prefix}/lib/{_NAME}",
            "its distributor changed where packages lie",
        ),
    )
    for refused, reason in purposes:
        if refused:
            return reason
    return HostPython(
        prefix=Path(prefix), executable=Path(os.path.realpath(facts["executable"])), version=facts["version"]
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME") or "/")
    managed = environ.get("UV_PYTHON_INSTALL_DIR")
    share = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    yield from _newest_first(Path(managed) if managed else share / "uv" / "python", f"cpython-{SERIES}*")
    yield from _newest_first(Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions", f"{SERIES}*")
    brews = (environ.get("HOMEBREW_PREFIX"), "/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew")
    for brew in filter(None, brews):
        yield Path(brew) / "opt" / f"python@{SERIES}" / "bin" / _NAME
    if sys.version_info[:2] == tuple(int(part) for part in SERIES.split(".")):
        yield Path(sys.base_prefix) / "bin" / _NAME
    for directory in environ.get("PATH", "").split(os.pathsep):
        if directory.startswith("/"):
            yield Path(directory) / _NAME


def _newest_first(directory: Path, pattern: str) -> list[Path]:
    def version(path: Path) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(r"\d+", path.name))

    return [found / "bin" / _NAME for found in sorted(directory.glob(pattern), key=version, reverse=True)]
