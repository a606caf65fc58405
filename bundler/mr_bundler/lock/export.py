"""A lock in the forms that other tools read: a requirements file with hashes, and PEP 751's ``pylock.toml``."""

from __future__ import annotations

import tomllib
from typing import Any

from mr_bundler.lock.lock import Lock, LockedWheel, refuse_pending
from mr_bundler.lock.text import line, package_lines
from mr_core.decode import Decoder
from mr_core.errors import InvalidInputError, redact


def requirement_line(wheel: LockedWheel, address: str = "") -> str:
    """Return the line of a requirements file for one wheel, taken from ``address`` when one is given."""
    wanted = f"{wheel.name} @ {address}" if address else f"{wheel.name}=={wheel.version}"
    return f"{wanted} --hash=sha256:{wheel.sha256}\n"


def export_requirements(lock: Lock) -> str:
    """Return the lock as a requirements file with hashes, which pip, uv and scanners read.

    A wheel by address has its address there. That form has no digests for git commits, so such a line names the wheel.

    Raises:
        InvalidInputError: a sha256 is still pending.
    """
    refuse_pending(lock)
    return "".join(requirement_line(wheel, wheel.url) for wheel in lock.packages)


def export_pylock(lock: Lock, resolved: bytes) -> str:
    """Return the lock as a PEP 751 document.

    That form must say where each file is, which a lock does not. ``resolved`` is what uv resolves the same versions to
    (`mr_bundler.wheels.uv.compile_pylock`): the addresses are those of the index that uv asked.

    Raises:
        InvalidInputError: a sha256 is still pending, or the index does not serve a locked file.
    """
    refuse_pending(lock)
    read = Decoder(tomllib.loads(resolved.decode()), "uv's resolution")
    places: dict[str, dict[str, str]] = {}
    for package in read.tables("packages"):
        for file in package.tables("wheels"):
            key = "url" if file.has("url") else "path"
            places[file.table("hashes").text("sha256")] = {key: redact(file.text(key))}
    read.finish()
    missing = [wheel.file for wheel in lock.packages if not (_given(wheel) or wheel.sha256 in places)]
    if missing:
        raise InvalidInputError(
            f"Cannot export the lock of `{lock.backend}` for `{lock.target}`: the index does not serve "
            f"{', '.join(f'`{file}`' for file in missing)}",
            hint="use an index that serves these files, or export `--format requirements`",
        )
    lines = [line("lock-version", "1.0"), line("requires-python", ">=3.12"), line("created-by", "mr-bundle")]
    for wheel in lock.packages:
        lines += package_lines(wheel.name, wheel.version, _contents(wheel, places))
    return "\n".join(lines) + "\n"


def _given(wheel: LockedWheel) -> bool:
    return bool(wheel.url) or wheel.vcs is not None


def _contents(wheel: LockedWheel, places: dict[str, dict[str, str]]) -> dict[str, Any]:
    if wheel.vcs is not None:
        return {"vcs": wheel.vcs.to_toml()}
    place = {"url": wheel.url} if wheel.url else places[wheel.sha256]
    return {"wheels": [{"name": wheel.file, **place, "hashes": {"sha256": wheel.sha256}}]}
