"""The group of all commands of ``mr-bundle``; each lives in a module of its own and is loaded when it is called."""

from __future__ import annotations

import importlib

import click

from mr_core import __version__
from mr_core.cli.options import completion_command

_COMMANDS = {
    "new": "new:new",
    "check": "check:check",
    "lock": "lock:lock",
    "export-lock": "lock:export_lock",
    "outdated": "outdated:outdated",
    "build": "build:build",
    "audit": "audit:audit",
    "push": "push:push",
    "index": "index:index",
    "copy": "copy:copy",
    "diff": "diff:diff",
    "rebuild": "rebuild:rebuild",
    "export": "export:export",
    "load": "load:load",
    "ls": "ls:ls",
    "cache": "cache:cache",
}
"""Module and attribute of each command, in the order of a bundle's life."""


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called or described."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(f"mr_bundler.cli.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{place} is not a command")
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="mr-bundle")
def main() -> None:
    """Build self-contained LLM inference backends from recipes, and publish them as OCI images.

    \b
      mr-bundle check recipes/mlx-lm
      mr-bundle lock recipes/mlx-lm
      mr-bundle build recipes/mlx-lm --target linux/amd64+cpu
      mr-bundle push oci:dist/layout:mlx-lm-0.32.2 docker://registry.example/bundles/mlx-lm:0.32.2

    RECIPE is a directory that holds recipe.toml and its locks.

    \b
    Exit status: 0 done, 2 wrong usage, 3 invalid recipe or lock, 4 not found, 5 unsupported, 6 integrity,
    7 unavailable, 8 access denied, 9 this machine (disk, missing program), 10 build step failed, 130 cancelled,
    1 a bug, 141 nobody reads the output.
    """


main.add_command(completion_command("mr-bundle"))
