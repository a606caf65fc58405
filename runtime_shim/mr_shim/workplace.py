"""Where a server works: private directories, and the address it is about to listen on."""

from __future__ import annotations

import binascii
import os
import socket
import stat

from mr_shim.errors import HOST, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def temporary_directory(prefix: str, environment: Mapping[str, str]) -> str:
    """Return the path of the private temporary directory: the same for each user and release, so that none pile up.

    It is short, because servers put Unix sockets with long names below it (macOS allows 103 bytes in all).
    """
    base = environment.get("TMPDIR", "")
    base = base.rstrip("/") if base.startswith("/") and os.path.isdir(base) else "/tmp"  # noqa: PTH112, S108 - see below
    # `pathlib` costs 4 ms; the fixed place is the system's own, and what is made there is private and checked.
    return f"{base}/mr-{binascii.crc32(os.fsencode(f'{os.geteuid()}:{prefix}')):08x}"


def make_private(path: str) -> None:
    """Create the directory ``path`` for this user only, or check that it is one.

    Raises:
        ShimError: status 9 when it cannot be created, or somebody else could write there.
    """
    hint = "set TMPDIR to a directory that only you can write to"
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102 - as above
    except FileExistsError:
        pass
    except OSError as error:
        raise ShimError(HOST, f"Cannot create directory `{path}`: {error.strerror}", hint) from error
    try:
        found = os.lstat(path)
    except OSError as error:
        raise ShimError(HOST, f"Cannot read directory `{path}`: {error.strerror}", hint) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ShimError(HOST, f"Cannot use directory `{path}`: it is not private to this user", hint)


def make_hub_cache(wanted: str, private: str) -> str:
    """Return a hub cache directory that exists: ``wanted``, or ``private`` where that cannot be created.

    Without one, ``/v1/models`` of mlx_lm answers 200 with an empty body.
    """
    wanted = os.path.expandvars(wanted)
    try:
        os.makedirs(wanted, exist_ok=True)  # noqa: PTH103 - as above
    except OSError:
        make_private(private)
        return private
    return wanted


def check_address(host: str, port: int) -> None:
    """Bind ``host`` and ``port`` for a moment, so that a port in use is one clear line and not a traceback.

    Another process can still take the port before the server does; the server itself fails then.

    Raises:
        ShimError: status 9 when a server could not listen there.
    """
    try:
        name = host.encode() if host.isascii() else host  # text would import the codec for international names, 2 ms
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not count
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise ShimError(
            HOST,
            f"Cannot listen on `{shown}`: {reason[:1].lower()}{reason[1:]}",
            "stop what uses the port, or choose another with `--port`",
        ) from error


def check_socket(path: str) -> None:
    """Raise `ShimError` (status 9) when a server already answers on the socket ``path``, or it cannot be created."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            parent = os.path.dirname(path)  # noqa: PTH120 - as above
            if os.access(parent, os.W_OK):
                return
            reason = f"`{parent}` is not a directory that this user can write to"
        except ConnectionRefusedError:
            return  # left behind by a server that is gone; servers replace it
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        else:
            reason = "address already in use"
    raise ShimError(HOST, f"Cannot listen on `{path}`: {reason}", "choose another path with `--uds`")
