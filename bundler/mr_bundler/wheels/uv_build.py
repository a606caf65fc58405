"""Build a source tree to a wheel through uv."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from mr_bundler.interpreter.host_search import find_host_python
from mr_bundler.wheels.uv_process import run_uv, translated, workspace
from mr_core.bundle_config import HostRequirements
from mr_core.errors import BuildError, BundleError
from mr_core.events import Cancel, Reporter, discard

_STEADY = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}


def build_wheel(
    project: Path,
    out: Path,
    *,
    what: str,
    exclude_newer: str,
    environ: Mapping[str, str],
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> None:
    """Build ``project`` in isolation and leave its wheel in ``out``; ``environ`` is added for the build.

    The interpreter is a CPython 3.12 of this machine, else the one that runs this. The project's own ``[tool.uv]`` has
    no say: not its indexes, not its sources.

    Raises:
        BuildError: it does not build; the message begins with ``what``.
        UnavailableError, AccessDeniedError: the tools of the build cannot be fetched.
        HostError: uv is missing, or the disk is full.
    """
    with workspace() as directory:
        arguments = [
            *("build", str(project), "--wheel", "--out-dir", str(out), "--no-sources", "--no-create-gitignore"),
            *("--exclude-newer", exclude_newer, "--python", _python()),
        ]
        status, output = run_uv(
            arguments,
            directory,
            requires=HostRequirements(),
            changes={**_STEADY, **environ},
            report=report,
            cancel=cancel,
        )
        if status:
            error = translated(output, what, "the tools of this build do not resolve as of `exclude-newer`")
            raise _told(error, output) if isinstance(error, BuildError) else error


def _told(error: BuildError, output: str) -> BuildError:
    """Return the error with the last line the build wrote: of a traceback, that is the one that says why."""
    lines = [line.strip() for line in output.partition("\nerror: ")[0].splitlines() if line.strip()]
    last = lines[-1][-300:] if lines else ""
    return BuildError(f"{error.message}: {last}", hint=error.hint, **error.fields) if last else error


def _python() -> str:
    try:
        return str(find_host_python() / "bin" / "python3.12")
    except BundleError:
        return sys.executable
