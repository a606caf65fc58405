"""Become the backend's server: lease, environment, private directories, then ``exec`` in this same process."""

from __future__ import annotations

import os
import sys

from mr_shim.command import server_command
from mr_shim.environ import clean_environment, redact_arguments, redact_environment
from mr_shim.errors import HOST, INVALID_INPUT, ShimError
from mr_shim.lease import take_lease
from mr_shim.options import resolve_paths
from mr_shim.workplace import check_address, check_socket, make_hub_cache, make_private, temporary_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from mr_shim.options import Options
    from mr_shim.release import Release
    from mr_shim.spec import LaunchSpec


class Start:
    """Everything that decides a start, before anything has been touched."""

    __slots__ = ("arguments", "directory", "environment", "prefix", "temporary")

    def __init__(self, release: Release, spec: LaunchSpec, options: Options, inherited: Mapping[str, str]) -> None:
        """Plan the start.

        Raises:
            ShimError: for wrong options, or a model that does not exist.
        """
        resolve_paths(options)
        self.prefix = release.prefix
        self.arguments = server_command(spec, options, prefix=release.prefix, python=release.python)
        self.temporary = temporary_directory(release.prefix, inherited)
        self.directory = f"{self.temporary}/work"
        self.environment = isolated_environment(release, inherited, self.temporary, spec.environment)

    def to_json(self) -> dict[str, Any]:
        """Return plain values fit to be shown: secrets are hidden."""
        return {
            "argv": redact_arguments(self.arguments),
            "environment": redact_environment(self.environment),
            "directory": self.directory,
        }


def isolated_environment(
    release: Release, inherited: Mapping[str, str], temporary: str, settings: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment that servers and probes of ``release`` run in."""
    try:
        here = os.getcwd()  # noqa: PTH109 - `pathlib` costs 4 ms
    except OSError:
        here = "/"
    return clean_environment(inherited, prefix=release.prefix, directory=here, temporary=temporary, settings=settings)


def serve(release: Release, spec: LaunchSpec, options: Options) -> NoReturn:
    """Replace this process by the server; the process id stays, signals and the exit status are the server's own.

    Raises:
        ShimError: when it cannot be started.
    """
    start = Start(release, spec, options, os.environ)
    take_lease(release.prefix)  # stays open: the kernel closes it when the server ends
    if options.uds:
        check_socket(options.uds)
    elif "port" in spec.options:
        check_address(options.host, options.port)
    become(start.arguments, start.environment, temporary=start.temporary, directory=start.directory)


def become(arguments: list[str], environment: dict[str, str], *, temporary: str, directory: str) -> NoReturn:
    """Make the private directories and ``exec``.

    Raises:
        ShimError: when one of the two fails.
    """
    make_private(temporary)
    make_private(directory)
    environment["HF_HUB_CACHE"] = make_hub_cache(environment["HF_HUB_CACHE"], f"{temporary}/hub")
    program = arguments[0]
    try:
        os.chdir(directory)
        sys.stdout.flush()
        os.execve(program, arguments, environment)  # noqa: S606 - an argument list, no shell
    except FileNotFoundError as error:
        raise ShimError(
            INVALID_INPUT, f"Cannot run `{program}`: no such file", "install the backend again with `mr-install`"
        ) from error
    except OSError as error:
        raise ShimError(
            HOST,
            f"Cannot run `{program}`: {error.strerror}",
            "check its permissions, and that its filesystem is not mounted `noexec`",
        ) from error
