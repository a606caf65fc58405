"""Credentials for a registry, from the Docker configuration and its helpers, through oras.

oras is imported on the first 401 only. It is used for looking entries up and nothing else: it ignores
``DOCKER_CONFIG``, runs helpers without a timeout and would take ``ORAS_USER`` for any host.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from mr_core.decode import Decoder, parse_json
from mr_core.errors import AccessDeniedError, HostError
from mr_core.registry_options import RegistryOptions

_HELPER_SECONDS = 30.0


def find_credentials(registry: str, repository: str, options: RegistryOptions) -> str | None:
    """Return the value of a Basic ``Authorization`` header for ``registry``, or `None` to stay anonymous.

    Order: explicit credentials, ``credHelpers``, ``credsStore``, ``auths``.

    Raises:
        AccessDeniedError: when a credential helper fails.
        HostError: when one cannot be run.
        InvalidInputError: when the Docker configuration is not valid JSON of its form.
    """
    if options.username:
        pair = f"{options.username}:{options.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"
    config = _docker_config(options)
    for part in ("credHelpers", "credsStore", "auths"):
        if config.get(part):
            found = _look_up(registry, repository, {part: config[part]})
            if found:
                return f"Basic {found}"
    return None


def _docker_config(options: RegistryOptions) -> dict[str, Any]:
    try:
        directory = options.docker_config or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    except RuntimeError:  # a user without a home, as in many containers
        return {}
    path = directory / "config.json"
    try:
        raw = path.read_bytes()
    except OSError:  # absent or unreadable: anonymous, like docker
        return {}
    what = f"Docker configuration `{path}`"
    read = Decoder(parse_json(raw, what), what)
    auths: dict[str, dict[str, str]] = {}
    for host, entry in read.table("auths").entries():
        auths[host] = {"auth": entry.text("auth", "")}
    config = {"credHelpers": read.text_map("credHelpers"), "credsStore": read.text("credsStore", ""), "auths": auths}
    read.finish()
    return config


def _look_up(registry: str, repository: str, config: dict[str, Any]) -> str | None:
    import oras.auth.base  # noqa: PLC0415 - slow, and not needed for anonymous access
    import oras.container  # noqa: PLC0415

    class Credentials(oras.auth.base.AuthBackend):  # type: ignore[misc]  # oras has no types
        """oras's look-up over one part of the configuration, with our own way to run a helper."""

        def __init__(self) -> None:
            super().__init__()
            self._auth_config = config

        def _get_auth_from_creds_store(self, suffix: str, hostname: str) -> str | None:
            return _ask_helper(suffix, hostname)

    backend = Credentials()
    container = oras.container.Container(repository)
    container.registry = registry  # its own parser takes `localhost` for a namespace of Docker Hub
    backend.load_configs(container)
    return getattr(backend, "_basic_auth", None)


def _ask_helper(suffix: str, host: str) -> str | None:
    """Return base64 ``user:secret`` from ``docker-credential-<suffix> get``, or `None` when it has no entry.

    The protocol is that of docker/docker-credential-helpers: the host on stdin, JSON on stdout.
    """
    program = f"docker-credential-{suffix}"
    if "/" in suffix:
        raise AccessDeniedError(f"Cannot run credential helper `{program}`: it is not a plain name")
    try:
        done = subprocess.run(
            [program, "get"], input=host.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as error:
        raise AccessDeniedError(
            f"Cannot get credentials for `{host}`: `{program}` did not answer in {_HELPER_SECONDS:.0f} seconds",
            hint="unlock your keychain, or pass a user name and a password",
        ) from error
    except OSError as error:
        raise HostError(f"Cannot run credential helper `{program}`: {error.strerror}") from error
    if done.returncode != 0:
        if b"credentials not found" in done.stdout + done.stderr:
            return None
        raise AccessDeniedError(
            f"Cannot get credentials for `{host}`: `{program}` failed with status {done.returncode}",
            hint=f"run `docker login {host}` again",
        )
    try:
        answer = json.loads(done.stdout)
        pair = f"{answer['Username']}:{answer['Secret']}".encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AccessDeniedError(f"Cannot get credentials for `{host}`: `{program}` gave no valid answer") from error
    return base64.b64encode(pair).decode("ascii")
