"""The options of ``mr-serve``: the same for every backend, parsed in microseconds (``argparse`` costs 12 ms)."""

from __future__ import annotations

import os

from mr_shim.errors import NOT_FOUND, USAGE, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_MODE = "completion"
MOST_SOCKET_BYTES = 103
"""Longest path of a Unix socket that macOS (104 with the final NUL) and Linux (108) both take."""
_VALUES = ("model", "host", "port", "uds", "served-model-name", "chat-template", "mode")
_SWITCHES = ("print", "help", "version")
_REPEATABLE = ("served-model-name",)
_TRY_HELP = "see `mr-serve --help`; options of the backend itself go after `--`"

USAGE_TEXT = f"""\
Usage: mr-serve --model DIR [OPTIONS] [-- BACKEND OPTIONS]

Start this backend's OpenAI-compatible server in place of this process.

  --model DIR                model directory or file
  --host HOST                address to listen on (default {DEFAULT_HOST})
  --port N                   TCP port, 0 to 65535 (default {DEFAULT_PORT})
  --uds PATH                 listen on a Unix socket instead
  --served-model-name NAME   name of the model in the API; may be repeated
  --chat-template TEMPLATE   chat template, in the form the backend takes
  --mode MODE                what to serve (default {DEFAULT_MODE})
  --print                    show the command and environment as JSON, start nothing
  --version                  show backend, version, target and launch contract
  --help                     show this text

Options of the backend itself go after `--` and are passed on unchanged.
"""


class Options:
    """What the caller asked for; ``given`` holds the names of the options that were written out."""

    __slots__ = (
        "chat_template",
        "extra",
        "given",
        "help",
        "host",
        "mode",
        "model",
        "port",
        "print",
        "served_model_name",
        "uds",
        "version",
    )

    def __init__(self) -> None:
        self.model = ""
        self.host = DEFAULT_HOST
        self.port = DEFAULT_PORT
        self.uds = ""
        self.served_model_name: list[str] = []
        self.chat_template = ""
        self.mode = DEFAULT_MODE
        self.print = False
        self.help = False
        self.version = False
        self.extra: list[str] = []
        self.given: set[str] = set()


def parse_options(arguments: Sequence[str]) -> Options:
    """Parse the arguments of ``mr-serve``; dashes and underscores in names are the same.

    Raises:
        ShimError: status 2, naming the argument.
    """
    options = Options()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            options.extra = rest
            break
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--"):
            raise _refuse(f"unexpected argument `{argument}`", "give the model as `--model DIR`")
        text, equals, value = argument[2:].partition("=")
        name = text.replace("_", "-")
        if name in _SWITCHES:
            if equals:
                raise _refuse(f"`--{name}` takes no value")
            setattr(options, name, True)
            continue
        if name not in _VALUES:
            raise _refuse(f"unknown option `--{text}`", _suggest(name))
        if not equals:
            if not rest or rest[0].startswith("-"):
                raise _refuse(f"`--{name}` needs a value", f"write `--{name}=VALUE` when the value begins with `-`")
            value = rest.pop(0)
        _store(options, name, value)
    _check_text([*arguments])
    if not (options.help or options.version):
        _check(options)
    return options


def _store(options: Options, name: str, value: str) -> None:
    field = name.replace("-", "_")
    if not value:
        raise _refuse(f"`--{name}` is empty")
    if name in _REPEATABLE:
        if value.startswith("-"):  # a backend would read it as an option
            raise _refuse(f"`--{name}` begins with `-`")
        options.served_model_name.append(value)
    elif field in options.given:
        raise _refuse(f"`--{name}` is given twice")
    elif name == "port":
        options.port = _port(value)
    else:
        setattr(options, field, value)
    options.given.add(field)


def _port(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) <= 5 and int(value) <= 65535):
        raise _refuse(f"port `{value}` is not a number from 0 to 65535")
    return int(value)


def _check_text(arguments: list[str]) -> None:
    for argument in arguments:
        if "\x00" in argument or "\n" in argument or "\r" in argument:
            raise _refuse(f"{argument!r} holds a NUL or newline character", "pass long values in a file")


def _check(options: Options) -> None:
    if not options.model:
        raise _refuse("`--model` is missing", "give a model directory: `--model DIR`")
    if options.host.startswith("-"):
        raise _refuse(f"host `{options.host}` begins with `-`")
    if options.uds and options.given & {"host", "port"}:
        raise _refuse("`--uds` excludes `--host` and `--port`", "leave one of them out")


def resolve_paths(options: Options) -> None:
    """Make the paths in ``options`` absolute, because the server gets a working directory of its own.

    Raises:
        ShimError: status 4 when the model does not exist, 2 when a socket path is too long.
    """
    model = _absolute(options.model)
    if not os.path.exists(model):  # noqa: PTH110 - `pathlib` costs 4 ms
        hint = "check the path given as `--model`"
        if "/" in options.model and not options.model.startswith((".", "/")):
            hint = "a model on a hub has to be downloaded first; then give its directory"
        raise ShimError(NOT_FOUND, f"Cannot find model `{options.model}`: no such file or directory", hint)
    options.model = model
    if options.uds:
        options.uds = _absolute(options.uds)
        if len(os.fsencode(options.uds)) > MOST_SOCKET_BYTES:
            raise _refuse(f"socket path is longer than {MOST_SOCKET_BYTES} bytes", "choose a shorter path")
    if options.chat_template:
        template = _absolute(options.chat_template)
        # Text that is not a path stays as it is: some backends take the template itself.
        options.chat_template = template if os.path.isfile(template) else options.chat_template  # noqa: PTH113 - as above


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)  # noqa: PTH100 - as above; links stay, model stores are full of them
    except OSError as error:
        raise ShimError(
            NOT_FOUND,
            f"Cannot find `{path}`: the working directory is gone ({error.strerror})",
            "give an absolute path",
        ) from error


def _suggest(name: str) -> str:
    import difflib  # noqa: PLC0415 - costs 10 ms, and only a mistake needs it

    near = difflib.get_close_matches(name, (*_VALUES, *_SWITCHES), n=1)
    return f"did you mean `--{near[0]}`? Options of the backend itself go after `--`" if near else _TRY_HELP


def _refuse(reason: str, hint: str = _TRY_HELP) -> ShimError:
    return ShimError(USAGE, f"Cannot read the options: {reason}", hint)
