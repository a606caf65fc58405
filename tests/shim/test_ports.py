from __future__ import annotations

import socket
import sys

import pytest

from mr_core.errors import HostError, UsageError
from mr_installer.ports import Reservation


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a server listen on a port that is held for it")
def test_a_held_port_is_kept_from_others_but_not_from_the_server() -> None:
    with Reservation("127.0.0.1", 0) as reserved:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", reserved.port))
        with socket.create_server(("127.0.0.1", reserved.port)) as server:  # sets SO_REUSEADDR
            socket.create_connection(server.getsockname()).close()
            server.accept()[0].close()


def test_a_port_that_is_not_held_is_free_for_all() -> None:
    with Reservation("127.0.0.1", 0, hold=False) as reserved, socket.socket() as other:
        other.bind(("127.0.0.1", reserved.port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a" * 70 + ".example", "a\x00b"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(HostError, match=r"Cannot listen on `.*` port 0: [a-z]"):
        Reservation(host, 0)


@pytest.mark.parametrize("port", [-1, 65536, 1 << 40])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match=f"Cannot listen on port {port}: it is not between 0 and 65535"):
        Reservation("127.0.0.1", port)
