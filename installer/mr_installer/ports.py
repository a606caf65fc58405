"""Choose a TCP port for a server, and keep others from getting it until the server listens."""

from __future__ import annotations

import socket
import sys
from typing import Self

from mr_core.errors import HostError, UsageError

_MOST = 65535


class Reservation:
    """A port that was free a moment ago.

    On Linux the socket stays bound without listening: the kernel gives the port to nobody who asks for any free one,
    while a server that sets ``SO_REUSEADDR``, as they all do, can still listen on it. Elsewhere it can only be closed
    before the server starts.
    """

    __slots__ = ("_socket", "port")

    def __init__(self, host: str, port: int, *, hold: bool = True) -> None:
        """Bind ``port`` (0: any free one) on ``host``.

        Raises:
            UsageError: when ``port`` is not a port number.
            HostError: when it is in use, not allowed, or ``host`` is not an address of this machine.
        """
        if not 0 <= port <= _MOST:
            raise UsageError(f"Cannot listen on port {port}: it is not between 0 and {_MOST}")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            self._socket = socket.socket(family, kind, protocol)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.bind(address)
                self.port: int = self._socket.getsockname()[1]
            except OSError:
                self._socket.close()
                raise
        except (OSError, ValueError) as error:  # ValueError: a name that is none, such as one with a NUL
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise HostError(
                f"Cannot listen on `{host}` port {port}: {reason[:1].lower()}{reason[1:]}",
                hint="stop what uses the port, or let the system choose one with port 0",
                host=host,
                port=port,
            ) from error
        if not (hold and sys.platform == "linux"):
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
