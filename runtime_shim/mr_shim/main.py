"""Entry of the shim: ``serve``, ``probe``, ``--version`` and ``--help``, run by the release's own interpreter."""

from __future__ import annotations

import os
import sys

from mr_shim import CONTRACT
from mr_shim.errors import HOST, USAGE, ShimError
from mr_shim.options import USAGE_TEXT, parse_options
from mr_shim.release import Release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_TRY = "run `mr-serve --help`"


def run() -> NoReturn:
    """Run the subcommand in ``sys.argv`` and end this process, or become another program."""
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
    except ShimError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os._exit(HOST)  # whoever read the output is gone; nothing is left to flush
    sys.exit(0)


def _run(arguments: Sequence[str]) -> None:
    command = arguments[0] if arguments else "--help"
    match command:
        case "serve":
            _serve(arguments[1:])
        case "probe":
            _probe(arguments[1:])
        case "--help" | "-h":
            sys.stdout.write(USAGE_TEXT)
        case "--version":
            _version()
        case _:
            raise ShimError(USAGE, f"Cannot run `{command}`: the shim has `serve` and `probe`", _TRY)


def _serve(arguments: Sequence[str]) -> None:
    options = parse_options(arguments)
    if options.help:
        sys.stdout.write(USAGE_TEXT)
        return
    if options.version:
        _version()
        return
    from mr_shim.serve import Start, serve  # noqa: PLC0415 - `--help` needs none of it

    release = Release(sys.prefix)
    spec = release.launch()
    if options.print:
        import json  # noqa: PLC0415 - already loaded by the release; here for its name

        start = Start(release, spec, options, os.environ)
        sys.stdout.write(json.dumps(start.to_json(), indent=2, ensure_ascii=False) + "\n")
        return
    serve(release, spec, options)


def _probe(arguments: Sequence[str]) -> None:
    if arguments:
        raise ShimError(USAGE, f"Cannot read the options: unexpected argument `{arguments[0]}`", "`probe` takes none")
    from mr_shim.command import probe_command  # noqa: PLC0415 - `serve` needs none of it
    from mr_shim.serve import become, isolated_environment  # noqa: PLC0415 - as above
    from mr_shim.workplace import temporary_directory  # noqa: PLC0415 - as above

    release = Release(sys.prefix)
    spec = release.probe()
    settings = release.launch().environment
    temporary = temporary_directory(release.prefix, os.environ)
    become(
        probe_command(spec, python=release.python, shim=release.shim),
        isolated_environment(release, os.environ, temporary, settings),
        temporary=temporary,
        directory=f"{temporary}/work",
    )


def _version() -> None:
    sys.stdout.write(f"{Release(sys.prefix).title}\nlaunch contract {CONTRACT}\n")
