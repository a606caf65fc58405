"""Commands of ``mr-install``: they parse arguments, call the library, and print its outcome."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

import mr_installer as library  # its names load when they are used, so that `--help` is quick
from mr_core import __version__
from mr_core.cli.arguments import PathText, check_location, parse_target
from mr_core.cli.options import DefaultGroup, completion_command, output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.errors import CancelledError, ProbeError
from mr_core.events import Notice
from mr_core.platform import Target

if TYPE_CHECKING:
    from types import ModuleType

    from mr_core.registry_options import RegistryOptions
    from mr_installer import InstallPlan

ASK_ABOVE = 1_000_000_000
"""Bytes to fetch from which on a terminal is asked first."""


class InstallGroup(DefaultGroup):
    """``mr-install BACKEND`` installs."""

    default_command = "install"

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer backends beside the commands: the first word may be either."""
        names = _known_names(ctx, self.params[0], incomplete)
        return [*super().shell_complete(ctx, incomplete), *(CompletionItem(name) for name in names)]


def _text() -> ModuleType:
    """Return the module that formats outcomes, loaded when the first one is shown."""
    from mr_installer.cli import text  # noqa: PLC0415 - it needs the whole library

    return text


def _installed_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of installed backends."""
    installer = library.Installer(ctx.params.get("root"))
    return [status.backend for status in installer.list() if status.backend.startswith(incomplete)]


def _known_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of the catalogue."""
    from mr_installer.catalogue import known_backends  # noqa: PLC0415 - read for completion alone

    return [name for name in known_backends() if name.startswith(incomplete)]


def _root_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--root",
        type=PathText(file_okay=False),
        help="Directory that holds the backends.  [default: $MR_ROOT, else ~/.docker/model-runner]",
    )(command)


def _check_version(ctx: click.Context, parameter: click.Parameter, text: str) -> str:
    if text and not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}", text):
        raise click.BadParameter(f"`{text}` is not a version such as 580 or 580.65.06", ctx=ctx, param=parameter)
    return text


def _backend(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("backend", shell_complete=_installed_names)(command)


@click.group(cls=InstallGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="mr-install")
def main() -> None:
    """Install LLM inference backends, and start their OpenAI-compatible servers.

    \b
      mr-install mlx-lm --from docker://registry.example/bundles/mlx-lm:0.32.2
      mr-install serve mlx-lm --model ~/models/tiny
      mr-install status

    The new release is fetched, checked byte by byte and imported before it replaces the old one, which stays on disk
    for `mr-install rollback`.

    \b
    Exit status: 0 done, 2 wrong usage, 3 invalid input, 4 not found, 5 unsupported host, 6 integrity,
    7 unavailable, 8 access denied, 9 this machine (disk, lock, port), 11 probe failed, 130 cancelled, 1 a bug,
    141 nobody reads the output.
    """


@main.command(short_help="Install a backend (the default command).")
@click.argument("backend", shell_complete=_known_names, metavar="BACKEND[@VERSION]")
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    default="",
    callback=check_location,
    help="docker://REFERENCE, oci:DIRECTORY[:NAME], oci-archive:FILE, or a path.  [default: $MR_REPOSITORY]",
)
@click.option(
    "--target",
    metavar="OS/ARCH+ACCELERATOR",
    callback=parse_target,
    help="Consider this target only, such as linux/amd64+cpu.",
)
@click.option(
    "--assume-cuda-driver",
    "cuda_driver",
    metavar="VERSION",
    default="",
    callback=_check_version,
    help="Take this host for one with this NVIDIA driver: to prepare a disk or image for a machine that has it.",
)
@click.option("--probe/--no-probe", default=True, help="Import the backend's modules before it becomes active.")
@click.option("--dry-run", is_flag=True, help="Show the plan, change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a large download.")
@click.option("--keep-blobs", is_flag=True, help="Keep downloaded blobs after extraction.")
@_root_option
@registry_options
@output_options
def install(
    session: Session,
    backend: str,
    *,
    source: str,
    target: Target | None,
    cuda_driver: str,
    probe: bool,
    dry_run: bool,
    yes: bool,
    keep_blobs: bool,
    root: Path | None,
    registry: RegistryOptions,
) -> None:
    """Install BACKEND, or make the version that was asked for the active one.

    \b
      mr-install mlx-lm --from docker://127.0.0.1:5000/bundles/mlx-lm:0.32.2 --insecure-registry 127.0.0.1:5000
      mr-install mlx-lm --from oci:dist/layout:mlx-lm-0.32.2
      mr-install mlx-lm --from oci-archive:mlx-lm.tar
      mr-install mlx-lm@0.32.1                (a version on disk: no network)
    """
    name, _, version = backend.partition("@")
    installer = library.Installer(
        root, registry=registry, cuda_driver=cuda_driver, report=session.report, cancel=session.cancel
    )
    if dry_run:
        plan = installer.plan(name, version=version, source=source, target=target, probe=probe)
        session.result(plan, lambda: _text().show_plan(plan))
        return

    def confirm(plan: InstallPlan) -> None:
        asks = sys.stdin.isatty() and sys.stderr.isatty() and not session.as_json and not yes
        if asks and plan.fetch_bytes > ASK_ABOVE:
            session.ask(f"Fetch {show_bytes(plan.fetch_bytes)} and use {show_bytes(plan.disk_bytes)} of disk?")

    done = installer.install(
        name,
        version=version,
        source=source,
        target=target,
        probe=probe,
        options=library.StageOptions(keep_blobs=keep_blobs),
        confirm=confirm,
    )
    session.result(done, lambda: _text().show_installed(done))


@main.command(short_help="Show what an install would do.")
@click.argument("backend", shell_complete=_known_names, metavar="BACKEND[@VERSION]")
@click.option("--from", "source", metavar="SOURCE", default="", callback=check_location, help="As for install.")
@click.option("--target", metavar="OS/ARCH+ACCELERATOR", callback=parse_target, help="As for install.")
@_root_option
@registry_options
@output_options
def plan(
    session: Session, backend: str, *, source: str, target: Target | None, root: Path | None, registry: RegistryOptions
) -> None:
    """Show what `install` would do: source, digest, target, bytes to fetch, bytes on disk."""
    name, _, version = backend.partition("@")
    installer = library.Installer(root, registry=registry, report=session.report, cancel=session.cancel)
    planned = installer.plan(name, version=version, source=source, target=target)
    session.result(planned, lambda: _text().show_plan(planned))


@main.command(name="list", short_help="List installed backends.")
@_root_option
@output_options
def list_(session: Session, *, root: Path | None) -> None:
    """List every backend below the root: state, version, target, size."""
    installer = library.Installer(root)
    found = installer.list()
    session.result({"root": installer.root.path, "backends": found}, lambda: _text().show_list(installer, found))


@main.command(short_help="Show the state of one backend, or of all.")
@click.argument("backend", required=False, shell_complete=_installed_names)
@_root_option
@output_options
def status(session: Session, backend: str | None, *, root: Path | None) -> None:
    """Show the state of BACKEND: active release, other releases, digests and source."""
    installer = library.Installer(root)
    found = [installer.status(backend)] if backend else installer.list()
    value = found[0] if backend else {"root": installer.root.path, "backends": found}
    session.result(value, lambda: _text().show_status(installer, found))


@main.command(short_help="Activate the release that was active before.")
@_backend
@_root_option
@output_options
def rollback(session: Session, backend: str, *, root: Path | None) -> None:
    """Activate the previous release of BACKEND again: no network, no copying."""
    installer = library.Installer(root, report=session.report, cancel=session.cancel)
    done = installer.rollback(backend)
    session.result(done, lambda: f"{done.backend} {done.version} is active again ({done.release})")


@main.command(short_help="Check an installed backend against its digests.")
@_backend
@click.option("--deep", is_flag=True, help="Read and digest every file.")
@_root_option
@output_options
def verify(session: Session, backend: str, *, deep: bool, root: Path | None) -> None:
    """Check the active release of BACKEND: its papers, or with --deep every byte of it."""
    installer = library.Installer(root, report=session.report, cancel=session.cancel)
    done = installer.verify(backend, deep=deep)
    read = f", {show_bytes(done.bytes)} read" if deep else "; add --deep to read every byte"
    session.result(done, f"{done.backend} {done.release} is intact: {done.files} files{read}")


@main.command(short_help="Import a backend's modules again.")
@_backend
@_root_option
@output_options
def probe(session: Session, backend: str, *, root: Path | None) -> None:
    """Import the modules of BACKEND's active release, with its own Python, and show versions and seconds."""
    installer = library.Installer(root, report=session.report, cancel=session.cancel)
    done = installer.probe(backend)
    session.result(done, lambda: _text().show_probe(done))


@main.command(short_help="Start a backend's server and watch it.")
@_backend
@click.option("--model", required=True, type=PathText(), help="Model directory or file.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on.  [default: a free one]")
@click.option("--served-model-name", "names", multiple=True, help="Name of the model in the API. May be repeated.")
@click.option("--log", type=PathText(dir_okay=False), help="Append the server's output to this file.")
@click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds to become healthy.  [default: the backend's]")
@click.argument("extra", nargs=-1, metavar="[-- BACKEND OPTIONS]")
@_root_option
@output_options
def serve(
    session: Session,
    backend: str,
    *,
    model: Path,
    host: str,
    port: int,
    names: tuple[str, ...],
    log: Path | None,
    timeout: float | None,
    extra: tuple[str, ...],
    root: Path | None,
) -> None:
    """Start the OpenAI-compatible server of BACKEND, wait until it is healthy, print its URL, and watch it.

    Ctrl-C stops it. What comes after `--` goes to the backend unchanged. To start it without supervision, as a service
    manager does, run <root>/BACKEND/bin/mr-serve.

    \b
      mr-install serve mlx-lm --model ~/models/tiny --port 8080
      mr-install serve mlx-lm --model ~/models/tiny -- --log-level DEBUG
    """
    from mr_installer.server import describe  # noqa: PLC0415 - used by this command alone
    from mr_installer.supervision import Stopped  # noqa: PLC0415 - same

    installer = library.Installer(root, report=session.report, cancel=session.cancel)
    session.show_output()
    server = installer.serve(backend, model, host=host, port=port, names=names, extra=extra, log=log, timeout=timeout)
    with server:
        session.report(Notice(code="serving", message=f"serving {model} at {server.url} (Ctrl-C stops it)"))
        if not session.as_json:
            click.echo(server.url)
        with contextlib.suppress(CancelledError):
            server.wait(cancel=session.cancel)
        reason = server.stop() if server.reason is None else server.reason
    if not isinstance(reason, Stopped):
        raise ProbeError(f"Cannot go on serving: {describe(reason)}", hint="read its output above", tail=server.tail)
    session.result({"backend": backend, "url": server.url, "outcome": "stopped"}, "stopped")


@main.command(short_help="Remove a backend.")
@_backend
@click.option("--force", is_flag=True, help="Remove it even while a server of it runs.")
@_root_option
@output_options
def uninstall(session: Session, backend: str, *, force: bool, root: Path | None) -> None:
    """Remove every release of BACKEND. Refuses while a server of it runs."""
    installer = library.Installer(root, report=session.report, cancel=session.cancel)
    done = installer.uninstall(backend, force=force)
    session.result(done, f"{done.backend}: removed {', '.join(done.releases) or 'leftovers'}")


main.add_command(completion_command("mr-install"))
