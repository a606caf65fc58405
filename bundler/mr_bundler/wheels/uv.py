"""What uv does here: resolve requirements for a target, and install locked wheels into a prefix."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import tomli_w
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mr_bundler.lock.export import requirement_line
from mr_bundler.lock.lock import Lock, LockedWheel, refuse_pending
from mr_bundler.recipe.recipe import SITE_PACKAGES
from mr_bundler.recipe.sources import StaticMetadata
from mr_bundler.wheels.uv_index import find_index, without_indexes
from mr_bundler.wheels.uv_process import platform_arguments, run_uv, translated, workspace
from mr_core.bundle_config import HostRequirements
from mr_core.errors import BuildError, InternalError
from mr_core.events import Cancel, Level, Notice, Phase, Reporter, discard
from mr_core.platform import Target

_PROJECT = "mr-bundle-lock"
_ANNOTATED = re.compile(r"([A-Za-z0-9._-]+)==\S+\s+# via (.+)")
_NOTHING: Mapping[str, Any] = {}


def compile_pylock(
    requirements: Sequence[str],
    *,
    target: Target,
    requires: HostRequirements,
    python_version: str,
    exclude_newer: str,
    constraints: Sequence[str] = (),
    overrides: Sequence[str] = (),
    index: Mapping[str, str] = _NOTHING,
    metadata: Sequence[StaticMetadata] = (),
    dependencies: bool = True,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> bytes:
    """Resolve ``requirements`` for a target, wheels only, and return the PEP 751 document uv writes.

    Args:
        requirements: What is wanted; ``name @ address#sha256=…`` for a wheel by address.
        target: Which machines it is for.
        requires: The least of them.
        python_version: Whole version of CPython.
        exclude_newer: Files uploaded later do not exist.
        constraints: Limits for what is needed anyway.
        overrides: Replacements for what dependencies ask for.
        index: Names of indexes by distribution: what is pinned to an index comes from there, and nothing else does.
        metadata: What distributions require that nobody needs to fetch for that.
        dependencies: Whether dependencies are resolved as well.
        report: Gets uv's lines.
        cancel: Stops uv.

    Raises:
        InvalidInputError: no solution, with uv's explanation; or a pinned index is not configured.
        UnavailableError: an index did not answer.
        AccessDeniedError: an index wants other credentials.
        HostError: uv is missing or cannot write.
    """
    with workspace() as directory:
        for name, lines in (("constraints.txt", constraints), ("overrides.txt", overrides)):
            (directory / name).write_text("".join(f"{line}\n" for line in lines))
        common = [
            *("pip", "compile", str(directory / "pyproject.toml")),
            *("--constraints", str(directory / "constraints.txt"), "--overrides", str(directory / "overrides.txt")),
            *("--python", sys.executable, "--python-version", python_version),
            *("--exclude-newer", exclude_newer, "--only-binary", ":all:", "--no-header"),
            *("--resolution", "highest", "--prerelease", "if-necessary-or-explicit"),
            *([] if dependencies else ["--no-deps"]),
            *platform_arguments(target, requires),
        ]
        verb = f"Cannot lock `{target}`"

        def run(pins: Mapping[str, str], result: Path, *arguments: str) -> bytes:
            _write_project(directory, [*requirements, *_unnamed(pins, requirements)], pins, metadata)
            result.unlink(missing_ok=True)  # uv would prefer the versions in it
            status, output = run_uv(
                [*common, *arguments, "--output-file", str(result)],
                directory,
                requires=requires,
                changes=without_indexes(set(index.values())),
                report=report,
                cancel=cancel,
            )
            if status:
                raise translated(output, verb, "change `requirements` or `exclude-newer`")
            return result.read_bytes()

        pins = dict(index)
        while unnamed := _unnamed(pins, requirements):  # uv takes a pin for direct requirements only
            annotated = run(pins, directory / "all.txt", "--annotation-style", "line").decode()
            needless = set(unnamed) - _needed(annotated)
            if not needless:
                break
            pins = {name: pin for name, pin in pins.items() if name not in needless}
        return run(pins, directory / "pylock.toml", "--format", "pylock.toml")


def _unnamed(pins: Mapping[str, str], requirements: Sequence[str]) -> list[str]:
    """Return the pinned distributions that are not required directly."""
    named = {canonicalize_name(Requirement(text).name) for text in requirements}
    return [name for name in pins if name not in named]


def _needed(annotated: str) -> set[str]:
    """Return the distributions that another one requires, by the annotations of a compiled requirements file."""
    found: set[str] = set()
    for match in map(_ANNOTATED.match, annotated.splitlines()):
        if match and any(not via.startswith((_PROJECT, "-")) for via in match[2].split(", ")):
            found.add(canonicalize_name(match[1]))
    return found


def _write_project(
    directory: Path,
    requirements: Sequence[str],
    pins: Mapping[str, str],
    metadata: Sequence[StaticMetadata] = (),
) -> None:
    """Write uv's project for one run."""
    document = {
        "project": {
            "name": _PROJECT,
            "version": "0",
            "requires-python": ">=3.12",
            "dependencies": list(requirements),
        },
        "tool": {
            "uv": {
                "sources": {name: {"index": pin} for name, pin in pins.items()},
                "index": [find_index(name) for name in sorted(set(pins.values()))],
                "dependency-metadata": [
                    {"name": item.name, "version": item.version, "requires-dist": list(item.requires_dist)}
                    for item in metadata
                ],
            }
        },
    }
    (directory / "uv.toml").unlink(missing_ok=True)  # it would hide `[tool.uv]`, which ends uv's search as well
    (directory / "pyproject.toml").write_text(tomli_w.dumps(document))


def install_wheels(
    lock: Lock,
    *,
    prefix: Path,
    python: Path,
    requires: HostRequirements | None = None,
    only: Collection[str] | None = None,
    local: Mapping[str, Path] = _NOTHING,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> None:
    """Install exactly the files of ``lock`` below ``prefix``; uv's cache answers first, then the network.

    Files are copied, so that no later edit reaches uv's cache. Bytecode is not compiled; console scripts in
    ``prefix/bin`` still name ``python``, which must be a CPython 3.12 that runs here (any target can be installed).

    Args:
        lock: What to install.
        prefix: Root of the tree.
        python: Interpreter that uv asks; nothing is installed into it.
        requires: The least host, when it is not that of the lock.
        only: Names of the lock to install, instead of all; what else is there is left alone.
        local: Files by name, for what no index serves (`mr_bundler.wheels.provide.provide_wheels`).
        report: Gets uv's lines.
        cancel: Stops uv.

    Raises:
        IntegrityError: a file differs from its sha256 in the lock.
        InvalidInputError: no index serves a locked version any more, or a sha256 is still pending.
        UnavailableError: the cache does not hold everything, and an index did not answer.
        BuildError: what lies in site-packages afterwards is not what the lock says.
    """
    requires = lock.requires if requires is None else requires
    wheels = [wheel for wheel in lock.packages if only is None or wheel.name in only]
    refuse_pending(lock, wheels)
    marker = prefix / ".lock"
    known = marker.exists()
    with Phase(report, "wheels", str(lock.target)) as phase, workspace() as directory:
        changes = _write_wheels(directory, wheels, local)
        arguments = [
            *("pip", "install", "--requirements", str(directory / "requirements.txt")),
            *("--requirements", str(directory / "pyproject.toml"), "--constraints", str(directory / "hashes.txt")),
            *("--prefix", str(prefix), "--python", str(python)),
            *("--python-version", lock.python.version, "--no-deps", "--require-hashes", "--only-binary", ":all:"),
            *("--link-mode", "copy", "--no-compile-bytecode"),
            *platform_arguments(lock.target, requires),
        ]
        status, output = run_uv(
            [*arguments, "--offline"], directory, requires=requires, changes=changes, report=discard, cancel=cancel
        )
        phase.detail = {"wheels": len(wheels), "network": bool(status)}
        if status:
            report(Notice(code="uv-cache-miss", message="uv's cache does not hold every wheel", level=Level.DETAIL))
            status, output = run_uv(
                arguments, directory, requires=requires, changes=changes, report=report, cancel=cancel
            )
        if status:
            raise translated(
                output,
                f"Cannot install the wheels of `{lock.backend}` for `{lock.target}`",
                "use an index that serves these files, or run `mr-bundle lock`",
            )
        if not known:
            marker.unlink(missing_ok=True)
        _verify(wheels, prefix, whole=only is None)


def _write_wheels(directory: Path, wheels: Sequence[LockedWheel], local: Mapping[str, Path]) -> dict[str, str]:
    """Write what to install: pinned distributions into a project, for only there uv reads pins; all else as a list."""
    lines, pins = [], {wheel.name: wheel.index for wheel in wheels if wheel.index}
    for wheel in wheels:
        place = local.get(wheel.name)
        if place is None and wheel.vcs is not None:
            raise InternalError(f"Cannot install `{wheel.name}`: it is built from a git commit, and no file was given")
        address = "" if place is None else place.absolute().as_uri()
        if not wheel.index:
            lines.append(requirement_line(wheel, address))
    (directory / "requirements.txt").write_text("".join(lines))
    pinned = [wheel for wheel in wheels if wheel.index]
    (directory / "hashes.txt").write_text("".join(map(requirement_line, pinned)))
    _write_project(directory, [f"{wheel.name}=={wheel.version}" for wheel in pinned], pins)
    return without_indexes(set(pins.values()))


def _verify(wheels: Sequence[LockedWheel], prefix: Path, *, whole: bool) -> None:
    expected = {(canonicalize_name(item.name), Version(item.version)) for item in wheels}
    found = set()
    for path in (prefix / SITE_PACKAGES).glob("*.dist-info"):
        distribution = PathDistribution(path)
        found.add((canonicalize_name(distribution.name), Version(distribution.version)))
    surplus = found - expected
    if not whole:
        names = {name for name, _ in expected}
        surplus = {(name, version) for name, version in surplus if name in names}
    reasons = [
        *(f"`{name}` {version} is missing" for name, version in sorted(expected - found)),
        *(f"`{name}` {version} is not in the lock" for name, version in sorted(surplus)),
    ]
    if reasons:
        raise BuildError(f"Cannot use the wheels installed in `{prefix}`: {'; '.join(reasons)}", reasons=reasons)
