"""Checks of the file a lock names for a distribution: right name and version, and installable on the target."""

from __future__ import annotations

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from mr_bundler.lock.wheel_tags import wheel_rank
from mr_core.bundle_config import HostRequirements
from mr_core.decode import Decoder
from mr_core.platform import Target


def check_file(wheel: Decoder, file: str, name: str, version: str) -> None:
    """Record a problem when ``file`` is not a wheel of this version of ``name``."""
    if not file:
        return
    try:
        stated = (canonicalize_name(name), Version(version))
        held = parse_wheel_filename(file)[:2]
    except InvalidVersion:
        wheel.problem(f"`{version}` is not a version")
    except InvalidWheelFilename as error:
        wheel.problem(str(error), "name")
    else:
        if held != stated:
            wheel.problem(f"`{file}` is not a wheel of `{name}` {version}", "name")


def check_tags(wheel: Decoder, file: str, target: Target, requires: HostRequirements) -> None:
    """Record a problem when the target cannot install ``file``; say nothing about a name that is none."""
    try:
        parse_wheel_filename(file)
    except InvalidWheelFilename:
        return
    if wheel_rank(file, target, requires) is None:
        floor = f"glibc {requires.glibc}" if requires.glibc else f"macOS {requires.macos}"
        wheel.problem(f"`{file}` does not install on `{target}` with {floor}", "name")
