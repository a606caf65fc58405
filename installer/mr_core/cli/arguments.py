"""Check what stands on the command line: a malformed argument is the caller's move (status 2), and is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mr_core.errors import BundleError
from mr_core.location import parse_location
from mr_core.platform import Target
from mr_core.reference import is_registry


def check_location(ctx: click.Context, parameter: click.Parameter, text: str) -> str:
    """Return a location that parses; an empty one only when the option was left out."""
    if text or _was_given(ctx, parameter):
        try:
            parse_location(text)
        except BundleError as error:
            raise _bad(ctx, parameter, error) from error
    return text


def parse_target(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Target | None:
    """Return the target that was named."""
    if text is None:
        return None
    try:
        return Target.parse(text, parameter.opts[0])
    except BundleError as error:
        raise _bad(ctx, parameter, error) from error


class PathText(click.Path):
    """A path, given as a `pathlib.Path`.

    The empty text is refused: it comes from a variable that is not set, and would mean the current directory.
    """

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; refuse what is empty or holds a line break."""
        text = str(value)
        if not text or "\n" in text or "\r" in text:
            self.fail("it is empty or holds a line break", param, ctx)
        return super().convert(value, param, ctx)


def check_hosts(ctx: click.Context, parameter: click.Parameter, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return registries that are spelled HOST or HOST:PORT."""
    for host in hosts:
        if not is_registry(host):
            raise click.BadParameter(f"`{host}` is not HOST or HOST:PORT", ctx=ctx, param=parameter)
    return hosts


def _was_given(ctx: click.Context, parameter: click.Parameter) -> bool:
    source = ctx.get_parameter_source(parameter.name or "")
    return source is click.core.ParameterSource.COMMANDLINE


def _bad(ctx: click.Context, parameter: click.Parameter, error: BundleError) -> click.BadParameter:
    text = f"{error.message}; {error.hint}" if error.hint else error.message
    return click.BadParameter(text, ctx=ctx, param=parameter)
