"""Turn a launch spec and options into an argument list. Pure: nothing here looks at this machine."""

from __future__ import annotations

import json

from mr_shim.errors import UNSUPPORTED, ShimError
from mr_shim.options import DEFAULT_MODE
from mr_shim.spec import OPTION_NAMES, POSITIONAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mr_shim.options import Options
    from mr_shim.spec import LaunchSpec, ProbeSpec

PYTHON_FLAGS = ("-s", "-P", "-B")
"""No user site, no working directory on ``sys.path``, no bytecode written into the release.

The same three as variables (`mr_shim.environ.PYTHON_VARIABLES`) reach child interpreters; the flags reach those that
``multiprocessing`` starts even when something empties the environment. ``-I`` would ignore the variables.
"""
SHIM_FLAGS = ("-I", "-S", "-B")
"""How the shim itself runs: nothing of the bundle's site-packages is imported before ``exec``."""
BOOTSTRAP = (
    'import sys; sys.path.insert(0, sys.prefix + "/.mr/shim"); '
    "from mr_shim.main import run; run()"
)  # fmt: skip
"""Program text that enters the shim from the release's own interpreter."""


def shim_command(prefix: str, *arguments: str) -> list[str]:
    """Return the command that runs the shim of the release at ``prefix``, such as ``shim_command(prefix, "probe")``."""
    return [f"{prefix}/bin/python3.12", *SHIM_FLAGS, "-c", BOOTSTRAP, *arguments]


def probe_command(spec: ProbeSpec, *, python: str, shim: str) -> list[str]:
    """Return the command that probes with the release's whole site; the shim leaves ``sys.path`` before any import."""
    text = f"import sys; sys.path.insert(0, {shim!r}); from mr_shim.probe import run; del sys.path[0]; run()"
    return [python, *PYTHON_FLAGS, "-X", "faulthandler", "-c", text, json.dumps(spec.to_json())]


def server_command(spec: LaunchSpec, options: Options, *, prefix: str, python: str) -> list[str]:
    """Return the argument list that starts the server; the program is its first item.

    Positional arguments come before flags, since a flag that takes many values would swallow them.

    Raises:
        ShimError: status 5 when the backend lacks an option or a mode that was asked for.
    """
    program = [python, *PYTHON_FLAGS, "-m", spec.module] if spec.module else [f"{prefix}/bin/{spec.script}"]
    wanted = _wanted(options)
    for name in OPTION_NAMES:
        if name in wanted and name not in spec.options:
            if name not in options.given:
                del wanted[name]  # a default of ours, which this backend cannot be told
                continue
            reason = spec.unsupported.get(name, "this backend has no such option")
            raise ShimError(UNSUPPORTED, f"Cannot use `--{name.replace('_', '-')}`: {reason}", "leave the option out")
    positional = [item for name, items in wanted.items() if spec.options[name] == POSITIONAL for item in items]
    flags = [
        item
        for name, items in wanted.items()
        if spec.options[name] != POSITIONAL
        for item in (spec.options[name], *items)
    ]
    return [*program, *spec.arguments, *positional, *flags, *_mode(spec, options.mode), *options.extra]


def _wanted(options: Options) -> dict[str, list[str]]:
    wanted = {"model": [options.model]}
    if options.uds:
        wanted["uds"] = [options.uds]
    else:
        wanted["host"] = [options.host]
        wanted["port"] = [str(options.port)]
    if options.served_model_name:
        wanted["served_model_name"] = options.served_model_name
    if options.chat_template:
        wanted["chat_template"] = [options.chat_template]
    return wanted


def _mode(spec: LaunchSpec, mode: str) -> tuple[str, ...]:
    if mode in spec.modes:
        return spec.modes[mode]
    if mode == DEFAULT_MODE:
        return ()
    known = ", ".join(f"`{name}`" for name in sorted({DEFAULT_MODE, *spec.modes}))
    raise ShimError(UNSUPPORTED, f"Cannot serve mode `{mode}`: this backend has {known}", "choose one of these modes")
