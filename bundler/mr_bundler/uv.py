"""The only module that runs uv: resolve requirements for a target, and install locked wheels into a prefix."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PathDistribution
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from mr_bundler.lock import Lock, export_requirements
from mr_bundler.recipe import SITE_PACKAGES
from mr_bundler.wheel_tags import version_pair
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
from mr_core.events import Cancel, Level, Notice, Output, Phase, Reporter, discard
from mr_core.platform import Target

OLDEST_UV = (0, 11, 15)
"""Older ones unpack some hostile wheels wrongly."""
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
    try:
        text = subprocess.run([found, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"Cannot run uv `{found}`: {error}", hint=_INSTALL_UV) from error
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    if match is None or tuple(map(int, match.groups())) < OLDEST_UV:
        oldest = ".".join(map(str, OLDEST_UV))
        raise HostError(f"Cannot use uv `{found}`: {text.strip()} is older than {oldest}", hint=_INSTALL_UV)
    return Path(found)


def compile_pylock(
    requirements: Sequence[str],
    *,
    target: Target,
    requires: HostRequirements,
    python_version: str,
    exclude_newer: str,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> bytes:
    """Resolve ``requirements`` for a target, wheels only, and return the PEP 751 document uv writes.

    Raises:
        InvalidInputError: no solution, with uv's explanation.
        UnavailableError: an index did not answer.
        AccessDeniedError: an index wants other credentials.
        HostError: uv is missing or cannot write.
    """
    with _workspace() as directory:
        source, result = directory / "requirements.in", directory / "pylock.toml"
        source.write_text("".join(f"{line}\n" for line in requirements))
        arguments = [
            *("pip", "compile", str(source), "--format", "pylock.toml", "--output-file", str(result)),
            *("--python", sys.executable, "--python-version", python_version),
            *("--exclude-newer", exclude_newer, "--only-binary", ":all:", "--no-header", "--no-sources"),
            *("--resolution", "highest", "--prerelease", "if-necessary-or-explicit"),
            *_platform_arguments(target, requires),
        ]
        status, output = _run(arguments, directory, requires, report, cancel)
        if status:
            raise _translated(output, f"Cannot lock `{target}`", "change `requirements` or `exclude-newer`")
        return result.read_bytes()


def install_wheels(
    lock: Lock,
    *,
    prefix: Path,
    python: Path,
    requires: HostRequirements | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> None:
    """Install exactly the files of ``lock`` below ``prefix``; uv's cache answers first, then the network.

    Files are copied, so that no later edit reaches uv's cache. Bytecode is not compiled; console scripts in
    ``prefix/bin`` still name ``python``, which must be a CPython 3.12 that runs here (any target can be installed).

    Raises:
        IntegrityError: a file differs from its sha256 in the lock.
        InvalidInputError: no index serves a locked version any more.
        UnavailableError: the cache does not hold everything, and an index did not answer.
        BuildError: what lies in site-packages afterwards is not what the lock says.
    """
    requires = lock.requires if requires is None else requires
    marker = prefix / ".lock"
    known = marker.exists()
    with Phase(report, "wheels", str(lock.target)) as phase, _workspace() as directory:
        source = directory / "requirements.txt"
        source.write_text(export_requirements(lock))
        arguments = [
            *("pip", "install", "--requirements", str(source), "--prefix", str(prefix), "--python", str(python)),
            *("--python-version", lock.python.version, "--no-deps", "--require-hashes", "--only-binary", ":all:"),
            *("--link-mode", "copy", "--no-compile-bytecode", "--no-sources"),
            *_platform_arguments(lock.target, requires),
        ]
        status, output = _run([*arguments, "--offline"], directory, requires, discard, cancel)
        phase.detail = {"wheels": len(lock.packages), "network": bool(status)}
        if status:
            report(Notice(code="uv-cache-miss", message="uv's cache does not hold every wheel", level=Level.DETAIL))
            status, output = _run(arguments, directory, requires, report, cancel)
        if status:
            raise _translated(
                output,
                f"Cannot install the wheels of `{lock.backend}` for `{lock.target}`",
                "use an index that serves these files, or run `mr-bundle lock`",
            )
        if not known:
            marker.unlink(missing_ok=True)
        _verify(lock, prefix)


def _verify(lock: Lock, prefix: Path) -> None:
    expected = {(canonicalize_name(item.name), Version(item.version)) for item in lock.packages}
    found = set()
    for path in (prefix / SITE_PACKAGES).glob("*.dist-info"):
        distribution = PathDistribution(path)
        found.add((canonicalize_name(distribution.name), Version(distribution.version)))
    reasons = [
        *(f"`{name}` {version} is missing" for name, version in sorted(expected - found)),
        *(f"`{name}` {version} is not in the lock" for name, version in sorted(found - expected)),
    ]
    if reasons:
        raise BuildError(f"Cannot use the wheels installed in `{prefix}`: {'; '.join(reasons)}", reasons=reasons)


def _platform_arguments(target: Target, requires: HostRequirements) -> tuple[str, str]:
    machine = _MACHINES[target.platform.architecture]
    if target.platform.os == "darwin":
        return "--python-platform", f"{machine}-apple-darwin"
    minor = version_pair(requires.glibc)[1]
    known = max((step for step in _GLIBC_PLATFORMS if step <= minor), default=_GLIBC_PLATFORMS[0])
    return "--python-platform", f"{machine}-manylinux_2_{known}"


def _environment(requires: HostRequirements) -> dict[str, str]:
    """Return the caller's environment without what would change results; indexes, proxies and certificates stay."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_DROPPED) and (not name.startswith("UV_") or _KEPT.fullmatch(name))
    }
    if requires.macos:  # without it uv means macOS 13 and silently picks old wheels
        kept["MACOSX_DEPLOYMENT_TARGET"] = requires.macos
    return kept


@contextmanager
def _workspace() -> Iterator[Path]:
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


def _run(
    arguments: Sequence[str], directory: Path, requires: HostRequirements, report: Reporter, cancel: Cancel | None
) -> tuple[int, str]:
    """Run uv to its end and return its exit status and everything it wrote; stop it when asked to."""
    command = [str(find_uv()), *arguments, "--project", str(directory)]
    command += ["--no-python-downloads", "--no-progress", "--color", "never"]
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            env=_environment(requires),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise HostError(f"Cannot run uv `{command[0]}`: {error}", hint=_INSTALL_UV) from error
    with process:
        reader = threading.Thread(target=_read, args=(process, lines, report), daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(0.1)
                if cancel is not None:
                    cancel.check()
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            reader.join()
    return process.returncode, "".join(lines)


def _read(process: subprocess.Popen[str], lines: list[str], report: Reporter) -> None:
    if process.stdout is not None:
        for line in process.stdout:
            lines.append(line)
            report(Output(source="uv", line=line.rstrip("\n")))


def _translated(output: str, verb: str, advice: str) -> BundleError:
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
