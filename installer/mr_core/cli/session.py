"""One run of a command: where its events go, how it is cancelled, and how its outcome reaches the caller."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import click

from mr_core.cli.jsonl import JsonLines
from mr_core.cli.lines import PlainLines
from mr_core.errors import BundleError, CancelledError, HostError, InternalError, UsageError
from mr_core.events import Cancel, Event, Reporter

_PATIENCE_SECONDS = 2.0
_BROKEN_PIPE = 128 + signal.SIGPIPE


class Out:
    """The one JSON lines sink of a process: events, result and error share its sequence."""

    def __init__(self) -> None:
        self._lines: JsonLines | None = None

    def lines(self, *, as_json: bool) -> JsonLines | None:
        """Return the sink when JSON was asked for."""
        if as_json and self._lines is None:
            self._lines = JsonLines(sys.stdout)
        return self._lines if as_json else None


class Session:
    """Holds the sinks and the cancel token of a command; use as a context manager.

    Events go to stderr (bars on a terminal, lines elsewhere) or, with ``--json``, as JSON lines to stdout; with
    ``quiet`` nowhere, so that the outcome is all there is. The first Ctrl-C or SIGTERM asks the running call to stop
    and clean up; one that comes two seconds later ends the process at once, and the next run cleans up.
    """

    def __init__(self, *, as_json: bool, quiet: bool, verbose: bool) -> None:
        self.cancel = Cancel()
        self.as_json = as_json
        self._json = click.get_current_context().ensure_object(Out).lines(as_json=as_json)
        self._events = None if quiet else self._json
        self._sink: Any = None
        if self._json is None and not quiet:
            self._sink = self._human(verbose=verbose)

    @staticmethod
    def _human(*, verbose: bool) -> Any:
        if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_PROGRESS"):
            from mr_core.cli.console import RichConsole  # noqa: PLC0415 - rich costs start-up time only bars need

            return RichConsole(sys.stderr, verbose=verbose)
        return PlainLines(sys.stderr, verbose=verbose)

    @property
    def report(self) -> Reporter:
        """Where events go."""

        def deliver(event: Event) -> None:
            sink = self._events or self._sink
            if sink is not None:
                sink(event)

        return deliver

    def show_output(self) -> None:
        """Show the lines that child processes write, unless ``--quiet`` was given."""
        if self._sink is not None:
            self._sink.show_output = True

    def __enter__(self) -> Session:  # noqa: PYI034 - final in practice
        asked = 0.0

        def stop(_signal: int, _frame: object) -> None:
            nonlocal asked
            if not self.cancel.is_set:
                asked = time.monotonic()
                self.cancel.set()
            elif time.monotonic() - asked > _PATIENCE_SECONDS:
                raise KeyboardInterrupt

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop showing progress."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def result(self, value: Any, text: str | Callable[[], str] = "") -> None:
        """Give the outcome: an object as the last JSON line, or text on stdout."""
        self.close()
        if self._json is not None:
            self._json.result(value)
        else:
            shown = text if isinstance(text, str) else text()
            if shown:
                click.echo(shown)

    def ask(self, question: str) -> None:
        """Ask a yes-or-no question on the terminal; raise `CancelledError` for no."""
        self.close()
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if not click.confirm(question, default=True, err=True):
                raise CancelledError
        finally:
            signal.signal(signal.SIGINT, previous)
            if self._json is None:
                self._sink = self._human(verbose=False)


def run_command(command: click.Command, name: str) -> None:
    """Run a command line and end the process with the exit status of its outcome; never returns normally."""
    before_options = sys.argv[1:]
    if "--" in before_options:
        before_options = before_options[: before_options.index("--")]
    out = Out()
    lines = out.lines(as_json="--json" in before_options)
    code: int = 0
    try:
        code = command.main(prog_name=name, standalone_mode=False, obj=out) or 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except click.ClickException as error:
        code = _fail(_usage(error), lines)
    except BundleError as error:
        code = _fail(error, lines)
    except (KeyboardInterrupt, click.Abort):
        code = _fail(CancelledError(), lines)
    except BrokenPipeError:
        code = _BROKEN_PIPE
    except SystemExit:  # without `standalone_mode` click exits for one reason: nobody reads the output any more
        code = _BROKEN_PIPE
    except OSError as error:
        code = _fail(_host_error(error), lines if error.filename is not None else None)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is reported as one
        traceback.print_exc()
        code = _fail(InternalError(f"Cannot finish: {type(error).__name__}: {error}"), lines)
    sys.exit(_flush(code))


def _flush(code: int) -> int:
    """Write what is still buffered; when nobody can take it, say so by the status and keep Python from trying again."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            if number == 1 and not isinstance(error, BrokenPipeError):
                _fail(_host_error(error), None)
            code = _BROKEN_PIPE if isinstance(error, BrokenPipeError) else code or HostError.exit_code
    return code


def _host_error(error: OSError) -> HostError:
    reason = (error.strerror or str(error)).lower()
    if error.filename is None:
        return HostError(f"Cannot write the outcome: {reason}", hint="check where standard output goes")
    return HostError(f"Cannot use `{str(error.filename)[:200]}`: {reason}", hint="check that path")


def _usage(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    hint = f"`{context.command_path} --help` explains it" if context is not None else ""
    message = error.format_message().strip().rstrip(".")
    return UsageError(f"Cannot read the command line: {message[:1].lower()}{message[1:]}", hint=hint)


def _fail(error: BundleError, lines: JsonLines | None) -> int:
    with contextlib.suppress(OSError):  # nobody reads it; the status still tells
        if lines is not None:
            lines.error(error)
        else:
            click.echo(f"{click.style('error', fg='red', bold=True)}: {error.message}", err=True)
            if error.hint:
                click.echo(f"{click.style('hint', fg='cyan')}: {error.hint}", err=True)
    return error.exit_code
