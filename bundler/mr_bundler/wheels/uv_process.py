"""The only module that starts uv: find it, run it with an environment that decides nothing, translate its errors."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mr_bundler.lock.wheel_tags import version_pair
from mr_bundler.process import run_program
from mr_core.bundle_config import HostRequirements
from mr_core.errors import (
    AccessDeniedError,
    BuildError,
    BundleError,
    HostError,
    IntegrityError,
    InvalidInputError,
    UnavailableError,
)
from mr_core.events import Cancel, Reporter
from mr_core.platform import Target

OLDEST_UV = (0, 11, 15)
"""Older ones unpack some hostile wheels wrongly."""
_KEPT_LINES = 5000
_INSTALL_UV = 'run `pip install "mr-backends[build]"`'
_KEPT = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX(_.+)?|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|KEYRING_PROVIDER|INSECURE_HOST|CACHE_DIR"
    r"|CONFIG_FILE|NO_CONFIG|OFFLINE|HTTP_.+|REQUEST_TIMEOUT|SYSTEM_CERTS|NATIVE_TLS|CERT|CREDENTIALS_DIR|CONCURRENT_.+)"
)
"""uv's variables that say where files come from; those that change what comes out are dropped."""
_DROPPED = ("PYTHON", "VIRTUAL_ENV", "CONDA_", "MACOSX_DEPLOYMENT_TARGET")
_GLIBC_PLATFORMS = (17, 28, *range(31, 41))
"""The minors of glibc 2 that ``--python-platform`` knows (uv 0.13.8)."""
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

_NETWORK = re.compile(
    r"Failed to fetch|Failed to download|error sending request|dns error|timed out|[Cc]onnection (refused|reset)"
    r"|network was disabled|HTTP status (server error|client error \(429)|error decoding response body"
)
_ACCESS = re.compile(r"401 Unauthorized|403 Forbidden|407 Proxy Authentication")
_MISMATCH = re.compile(r"Hash mismatch for `([^`]+)`")
_DISK = re.compile(r"\(os error (13|28|30|122)\)")


@functools.cache
def find_uv() -> Path:
    """Return uv's executable: of the ``uv`` distribution beside this one, else of ``PATH``; raise `HostError`."""
    try:
        from uv import find_uv_bin  # noqa: PLC0415 - the build extra may be missing, and that has its own message

        found: str | None = find_uv_bin()
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise HostError("Cannot find uv: it is not installed", hint=_INSTALL_UV)
    text = _version(found)
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    if match is None or tuple(map(int, match.groups())) < OLDEST_UV:
        oldest = ".".join(map(str, OLDEST_UV))
        raise HostError(f"Cannot use uv `{found}`: {text.strip()} is older than {oldest}", hint=_INSTALL_UV)
    return Path(found)


def uv_identity() -> str:
    """Return what ``uv --version`` says: another uv may install other files; raise `HostError`."""
    return _version(str(find_uv()))


@functools.cache
def _version(uv: str) -> str:
    try:
        ran = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"Cannot run uv `{uv}`: {error}", hint=_INSTALL_UV) from error
    return ran.stdout.strip()


def platform_arguments(target: Target, requires: HostRequirements) -> tuple[str, str]:
    """Return the option that makes uv resolve for a target; macOS's version goes with the environment (`run_uv`)."""
    machine = _MACHINES[target.platform.architecture]
    if target.platform.os == "darwin":
        return "--python-platform", f"{machine}-apple-darwin"
    minor = version_pair(requires.glibc)[1]
    known = max((step for step in _GLIBC_PLATFORMS if step <= minor), default=_GLIBC_PLATFORMS[0])
    return "--python-platform", f"{machine}-manylinux_2_{known}"


def _environment(requires: HostRequirements, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without what would change results; indexes, proxies and certificates stay."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_DROPPED) and (not name.startswith("UV_") or _KEPT.fullmatch(name))
    }
    if requires.macos:  # without it uv means macOS 13 and silently picks old wheels
        kept["MACOSX_DEPLOYMENT_TARGET"] = requires.macos
    return {**kept, **changes}


_NOTHING: Mapping[str, str] = {}


@contextmanager
def workspace() -> Iterator[Path]:
    """Yield a directory that stands for uv's project.

    uv reads ``[tool.uv]`` of the current directory's project and its parents; the empty ``uv.toml`` ends that search,
    while the user's own configuration still applies.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mr-uv-", ignore_cleanup_errors=True) as name:
            directory = Path(name)
            (directory / "uv.toml").touch()
            yield directory
    except OSError as error:
        raise HostError(f"Cannot write temporary files for uv: {error}") from error


def run_uv(
    arguments: Sequence[str],
    directory: Path,
    *,
    requires: HostRequirements,
    changes: Mapping[str, str] = _NOTHING,
    report: Reporter,
    cancel: Cancel | None,
) -> tuple[int, str]:
    """Run uv to its end and return its exit status and the last lines it wrote; stop it when asked to.

    ``directory`` stands for uv's project; ``changes`` are variables to set for it and what it starts.
    """
    command = [str(find_uv()), *arguments, "--project", str(directory)]
    command += ["--no-python-downloads", "--no-progress", "--color", "never"]
    ended = run_program(
        command,
        what=f"uv `{command[0]}`",
        source="uv",
        environ=_environment(requires, changes),
        umask=0o022,
        kept=_KEPT_LINES,
        hint=_INSTALL_UV,
        report=report,
        cancel=cancel,
    )
    return ended.status, "".join(f"{line}\n" for line in ended.log)


def translated(output: str, verb: str, advice: str) -> BundleError:
    """Return our error for a failed run of uv, with uv's own explanation."""
    reason, hint = _explain(output)
    if mismatch := _MISMATCH.search(output):
        return IntegrityError(
            f"{verb}: `{mismatch[1]}` differs from its sha256 in the lock",
            hint="find out why before you lock again: the file on the index is not the one that was reviewed",
            distribution=mismatch[1],
        )
    if _ACCESS.search(output):
        return AccessDeniedError(f"{verb}: {reason}", hint="give uv credentials for this index")
    if _NETWORK.search(output):
        return UnavailableError(f"{verb}: {reason}", hint="check the network, or name an index with `UV_DEFAULT_INDEX`")
    if _DISK.search(output):
        return HostError(f"{verb}: {reason}")
    if "No solution found" in output or "parse requirement" in output:
        return InvalidInputError(f"{verb}: {reason}", hint=hint or advice)
    return BuildError(f"{verb}: {reason}", hint=hint, output=output[-4000:])


def _explain(output: str) -> tuple[str, str]:
    """Return uv's explanation and its hint, each on one line."""
    _, found, rest = output.partition("error: ")
    text, _, hint = (rest if found else output).partition("\nhint: ")
    reason = " ".join(text.replace("cause: ", "").split())
    return reason.rstrip(".") or "uv failed without a word", " ".join(hint.split())
