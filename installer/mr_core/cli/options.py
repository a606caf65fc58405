"""Options that every command of both tools has, and a group whose default command may be left out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mr_core.cli.arguments import PathText, check_hosts
from mr_core.cli.session import Session

Command = TypeVar("Command", bound=Callable[..., Any])


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``, ``--quiet`` and ``--verbose``; the command gets a `Session` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Write JSON lines; the last one is `result` or `error`.")
    @click.option("-q", "--quiet", is_flag=True, help="Show no progress, only the outcome; with `--json` its one line.")
    @click.option("-v", "--verbose", is_flag=True, help="Show each blob, and what child processes write.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **kwargs: Any) -> Any:
        with Session(as_json=as_json, quiet=quiet, verbose=verbose) as session:
            return command(session, *args, **kwargs)

    return wrapped


def registry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how registries are talked to; the command gets ``registry=RegistryOptions``."""

    @click.option(
        "--insecure-registry",
        "insecure",
        multiple=True,
        metavar="HOST[:PORT]",
        callback=check_hosts,
        help="Talk plain http to exactly this registry. May be repeated.",
    )
    @click.option(
        "--ca",
        type=PathText(exists=True, dir_okay=False),
        help="File with the certificates to trust, instead of the system's.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, insecure: tuple[str, ...], ca: Path | None, **kwargs: Any) -> Any:
        from mr_core.registry_options import RegistryOptions  # noqa: PLC0415 - `--help` needs none of it

        registry = RegistryOptions(insecure_hosts=frozenset(insecure), ca_bundle=ca).with_environment(os.environ)
        return command(*args, registry=registry, **kwargs)

    return wrapped


class DefaultGroup(click.Group):
    """A group that runs its default command when the first argument names no command.

    ``mr-install mlx-lm`` means ``mr-install install mlx-lm``; options may stand before the backend, or before the
    name of a command.
    """

    default_command = ""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name first."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in own and args[0] not in self.commands:
            position = self._first_positional(ctx, args)
            if position is not None and args[position] in self.commands:
                args = [args[position], *args[:position], *args[position + 1 :]]
            elif args[0].startswith("-") or self.default_command:
                args = [self.default_command, *args]
        return super().parse_args(ctx, args)

    def _first_positional(self, ctx: click.Context, args: list[str]) -> int | None:
        default = self.commands[self.default_command]
        takes_value = {
            name
            for parameter in default.get_params(ctx)
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        skip = False
        for position, argument in enumerate(args):
            if skip:
                skip = False
            elif argument == "--":
                return None
            elif argument.startswith("-"):
                skip = argument in takes_value
            else:
                return position
        return None


def completion_command(program: str) -> click.Command:
    """Return a command that prints the shell completion script of ``program``."""

    @click.command(name="completion", short_help="Print a completion script for your shell.")
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    @click.pass_context
    def completion(ctx: click.Context, shell: str) -> None:
        """Print a completion script; put it where your shell looks for one.

        \b
          bash   eval "$(PROGRAM completion bash)"        in ~/.bashrc
          zsh    eval "$(PROGRAM completion zsh)"         in ~/.zshrc
          fish   PROGRAM completion fish > ~/.config/fish/completions/PROGRAM.fish
        """
        from click.shell_completion import get_completion_class  # noqa: PLC0415 - rarely needed

        kind = get_completion_class(shell)
        if kind is not None:
            variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
            click.echo(kind(ctx.find_root().command, {}, program, variable).source())

    if completion.help is not None:
        completion.help = completion.help.replace("PROGRAM", program)
    return completion
