"""Start a backend's server, wait until it is healthy, and stop it: what ``mr-install serve`` and embedding hosts use.

Command: ``bin/mr-serve`` of a release or a backend, so that lease, environment and options are the shim's business.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from mr_core.errors import BundleError, HostError, NotFoundError, ProbeError, UsageError, redact
from mr_core.events import Cancel, Phase, Reporter, SafeReporter, discard
from mr_installer.health import is_healthy, server_url
from mr_installer.ports import Reservation
from mr_installer.refusal import HeldRefusal, read_refusal
from mr_installer.supervision import Exited, ExitReason, Signalled, Stopped, SupervisedProcess
from mr_shim.spec import LaunchSpec

_SHOWN_LINES = 20
_ATTEMPTS = 3
_PORT_TAKEN = "address already in use"


class Server:
    """A healthy server. Leaving the ``with`` block stops it; the end of this process, however it comes, does too.

    Attributes:
        url: Address for clients on this machine, without a path.
        pid: Of the server process itself, which is also its process group.
    """

    __slots__ = ("_process", "host", "log", "pid", "port", "seconds", "url")

    def __init__(self, process: SupervisedProcess, *, host: str, port: int, log: Path | None, seconds: float) -> None:
        self._process = process
        self.pid = process.pid
        self.host = host
        self.port = port
        self.log = log
        self.seconds = seconds
        self.url = server_url(host, port)

    @property
    def reason(self) -> ExitReason | None:
        """How the server ended, or `None` while it runs."""
        return self._process.reason

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines it wrote."""
        return self._process.tail

    def wait(self, timeout: float | None = None, *, cancel: Cancel | None = None) -> ExitReason | None:
        """Wait until the server has ended, ``timeout`` seconds at most; `None` when it still runs then.

        Raises:
            CancelledError: when asked to stop waiting; the server still runs, stop it with `stop`.
        """
        reason = self._process.wait(timeout, cancel=cancel)
        if reason is not None:
            self._process.drain()
        return reason

    def stop(self) -> ExitReason:
        """Ask the server to end, kill its process group after the spec's grace, and return how it ended."""
        return self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_server(
    launcher: Path,
    model: Path,
    *,
    spec: LaunchSpec,
    host: str = "127.0.0.1",
    port: int = 0,
    extra: Sequence[str] = (),
    names: Sequence[str] = (),
    log: Path | None = None,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Server:
    """Start the server behind ``launcher`` and return when its health path answers 200.

    Args:
        launcher: ``bin/mr-serve`` of a backend or a release.
        model: Model directory or file.
        spec: Launch spec of the same release.
        host: Address to listen on.
        port: 0 chooses a free one.
        extra: Options for the backend itself; put no secrets here, they would stand in the process list.
        names: Names of the model in the API.
        log: File to append the server's output to; created for this user only.
        timeout: Seconds until the start counts as failed; the spec's when `None`.
        environment: Instead of this process's; the shim passes on what a server needs. The place for secrets.
        report: Told each line of output (`Output`, source ``server``), from another thread.
        cancel: Stops the start; the server is stopped as well.

    Raises:
        UsageError, InvalidInputError, NotFoundError, UnsupportedError, HostError: what the shim refused.
        ProbeError: the server ended, or did not become healthy in time; ``tail`` and ``log`` are in the fields.
        CancelledError: when asked to stop.
    """
    _check_model(model)
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    limit = float(spec.start_timeout) if timeout is None else timeout
    for attempt in range(1, _ATTEMPTS + 1):
        # A backend that binds without SO_REUSEADDR cannot use a port that is held for it: do not hold the second time.
        with Reservation(host, port, hold=attempt == 1) as reserved, Phase(report, "start-server", str(model)) as phase:
            held = HeldRefusal(report)
            process = SupervisedProcess(
                _command(launcher, model, host=host, port=reserved.port, names=names, extra=extra),
                environment=environment,
                stop_signal=spec.stop_signal,
                stop_grace=spec.stop_grace,
                log=log,
                report=held,
                cancel=cancel,
            )
            begin = time.monotonic()
            try:
                _wait_healthy(process, held, spec, host=host, port=reserved.port, limit=limit, log=log, cancel=cancel)
            except _PortTakenError as error:
                if port != 0 or attempt == _ATTEMPTS:
                    raise error.failure from error
            except BaseException:
                process.stop()
                raise
            else:
                seconds = time.monotonic() - begin
                phase.detail.update(port=reserved.port, pid=process.pid)
                return Server(process, host=host, port=reserved.port, log=log, seconds=seconds)
            finally:
                held.release()
    raise HostError("Cannot start the server: no free port was found")  # pragma: no cover - the last attempt raises


class _PortTakenError(Exception):
    """The server ended because somebody else got the port; another one may work."""

    def __init__(self, failure: BundleError) -> None:
        self.failure = failure
        super().__init__(failure.message)


def _check_model(model: Path) -> None:
    try:
        model.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"Cannot find model `{model}`: no such file or directory", hint="check the path given as `--model`"
        ) from error
    except OSError as error:
        raise HostError(
            f"Cannot read model `{model}`: {error.strerror}", hint="check the permissions of the directories above it"
        ) from error
    except ValueError as error:
        raise UsageError(f"Cannot find model `{model!r}`: {error}") from error


def _command(
    launcher: Path, model: Path, *, host: str, port: int, names: Sequence[str], extra: Sequence[str]
) -> list[str]:
    command = [str(launcher.absolute()), f"--model={model.absolute()}", f"--host={host}", f"--port={port}"]
    command += [f"--served-model-name={name}" for name in names]
    if extra:
        command += ["--", *extra]
    if any("\x00" in argument for argument in command):
        raise UsageError("Cannot start the server: an argument holds a NUL character")
    return command


def _wait_healthy(
    process: SupervisedProcess,
    held: HeldRefusal,
    spec: LaunchSpec,
    *,
    host: str,
    port: int,
    limit: float,
    log: Path | None,
    cancel: Cancel,
) -> None:
    begin = time.monotonic()
    pause = 0.02
    while True:
        cancel.check()
        held.release_old()
        seconds = time.monotonic() - begin
        if (reason := process.reason) is not None:
            raise _failure(process, held, reason, seconds, log)
        if seconds >= limit:
            process.stop()
            raise _with_log(
                f"Cannot start the server: `{spec.health_path}` did not answer within {limit:g} s",
                process.tail,
                log,
                hint="read its log; a large model may need a longer start timeout",
            )
        if is_healthy(host, port, spec.health_path, timeout=min(1.0, limit)):
            # An answer from somebody else on this port comes while our own server is failing to get it.
            if process.wait(pause) is None:
                return
            continue
        process.wait(pause)
        pause = min(pause * 1.5, 0.25)


def _failure(
    process: SupervisedProcess, held: HeldRefusal, reason: ExitReason, seconds: float, log: Path | None
) -> Exception:
    process.drain()
    tail = process.tail
    if isinstance(reason, Exited) and (refused := read_refusal(reason.status, tail)) is not None:
        held.drop()
        failure: BundleError = refused
    else:
        failure = _with_log(
            f"Cannot start the server: {describe(reason)} after {seconds:.1f} s", tail, log, hint="read its log"
        )
    taken = any(_PORT_TAKEN in line.lower() for line in tail)
    return _PortTakenError(failure) if taken else failure


def describe(reason: ExitReason) -> str:
    """Say how a server ended, as the second half of a sentence."""
    match reason:
        case Stopped(forced=True):
            return "it was killed, because it did not end within its grace"
        case Stopped():
            return "it was stopped"
        case Exited(status=status):
            return f"it ended with status {status}"
        case Signalled(signal=number):
            known = number in {item.value for item in signal.Signals}
            return f"it was ended by {signal.Signals(number).name if known else f'signal {number}'}"


def _with_log(text: str, tail: Sequence[str], log: Path | None, *, hint: str) -> ProbeError:
    shown = [redact(line) for line in tail]
    message = "\n".join([text, *(f"  {line}" for line in shown[-_SHOWN_LINES:])])
    fields: dict[str, object] = {"tail": shown}
    if log is not None:
        fields["log"] = os.fspath(log)
        hint = f"{hint}: `{log}`" if hint == "read its log" else hint
    return ProbeError(message, hint=hint, **fields)
