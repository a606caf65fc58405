"""PROBE: import the bundle's modules with the release's own Python at its final path, in a scrubbed process.

The bundle's own shim does the work (``mr_shim.probe``), so a release is proven exactly as it will be started.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mr_core.decode import Decoder, parse_json
from mr_core.durable import host_errors, make_directories, write_durably
from mr_core.errors import BundleError, HostError, ProbeError
from mr_core.events import Cancel
from mr_installer.root import BackendDirectory
from mr_shim.command import shim_command
from mr_shim.spec import ProbeSpec

_POLL_SECONDS = 0.02
_GRACE_SECONDS = 10
"""Beyond the spec's timeout, within which the probe itself reports where it hangs."""
_TAIL_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """A probe that passed: import seconds by module, and versions by distribution."""

    release: str
    seconds: float
    modules: dict[str, float]
    versions: dict[str, str]


def probe_release(directory: BackendDirectory, release: str, spec: ProbeSpec, *, cancel: Cancel) -> ProbeResult:
    """Probe a placed release.

    Raises:
        ProbeError: with the traceback's last line and the path of the full report.
        CancelledError: asked to stop; the probe's process group is killed.
    """
    command = shim_command(str(directory.release(release)), "probe")
    code, output, errors = _run(command, spec.timeout + _GRACE_SECONDS, cancel)
    report = _parse(output)
    if code == 0 and report is not None and report.boolean("ok"):
        return ProbeResult(
            release=release,
            seconds=_seconds(report),
            modules={item.text("module", ""): _seconds(item) for item in report.tables("imports")},
            versions={name: str(item.value) for name, item in report.table("versions").entries() if item.value},
        )
    log = _keep(directory.logs / f"probe-{release}.log", command, code, output=output, errors=errors)
    reason, extra = _reason(report, code, errors)
    raise ProbeError(
        f"Cannot use {directory.name} {release}: {reason}",
        hint=f"the full report is in `{log}`" if log else "run the same command with `--verbose`",
        log=str(log or ""),
        release=release,
        **extra,
    )


def _seconds(item: Decoder) -> float:
    value = item.value.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0


def _run(command: list[str], timeout: float, cancel: Cancel) -> tuple[int | None, bytes, bytes]:
    """Run the probe; return its status (`None` when it was killed for taking too long), stdout and stderr."""
    deadline = time.monotonic() + timeout
    with (
        host_errors("probe with", command[0]),
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            kind = ProbeError if error.errno == errno.ENOEXEC else HostError
            raise kind(
                f"Cannot start `{command[0]}`: {(error.strerror or str(error)).lower()}",
                hint="is its filesystem mounted `noexec`, or the bundle for another machine?",
            ) from error
        try:
            while (code := process.poll()) is None and time.monotonic() < deadline:
                cancel.sleep(_POLL_SECONDS)
        finally:
            # Children of the probe must not outlive it, whether it passed or not.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return code, _tail(output, _TAIL_BYTES * 16), _tail(errors, _TAIL_BYTES)


def _tail(file: BinaryIO, size: int) -> bytes:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - size))
    return file.read(size)


def _parse(output: bytes) -> Decoder | None:
    lines = output.strip().splitlines()
    if not lines:
        return None
    try:
        value = parse_json(lines[-1], "probe report")
    except BundleError:
        return None
    return Decoder(value, "probe report") if isinstance(value, dict) else None


def _reason(report: Decoder | None, code: int | None, errors: bytes) -> tuple[str, dict[str, Any]]:
    if code is None:
        return "its probe did not end in time", {}
    if report is not None:
        for item in report.tables("imports"):
            if not item.boolean("ok"):
                return f"`import {item.text('module', '')}` fails: {item.text('error', '')}", _evidence(item)
        accelerator = report.table("accelerator")
        if accelerator.value and not accelerator.boolean("ok"):
            why = accelerator.text("error", "") or f"it answered {accelerator.text('answer', 'no')}"
            return f"the accelerator check `{accelerator.text('check', '')}` fails: {why}", _evidence(accelerator)
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    ended = f"its probe ended with status {code}" if code >= 0 else f"its probe was killed by signal {-code}"
    return f"{ended}: {lines[-1][:300]}" if lines else ended, {}


def _evidence(item: Decoder) -> dict[str, Any]:
    return {
        "traceback": item.text("traceback", "", limit=1 << 20),
        "missing_libraries": list(item.texts("missing_libraries")),
    }


def _keep(path: Path, command: list[str], code: int | None, *, output: bytes, errors: bytes) -> Path | None:
    """Write the whole report beside the backend; a failure to do so must not hide the probe's own."""
    report = _parse(output)
    pages = [f"command: {command}", f"status: {code}", "--- report", output.decode("utf-8", "replace")]
    if report is not None:
        pages += [item.text("traceback", "", limit=1 << 20) for item in report.tables("imports")]
    pages += ["--- stderr", errors.decode("utf-8", "replace")]
    try:
        with host_errors("write", path):
            make_directories(path.parent)
            write_durably(path, "\n".join(pages).encode() + b"\n")
    except BundleError:
        return None
    return path
