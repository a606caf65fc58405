"""Ask a server over HTTP whether it is ready."""

from __future__ import annotations

import http.client


def connect_host(host: str) -> str:
    """Return the address at which a client on this machine reaches a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound


def server_url(host: str, port: int) -> str:
    """Return the address to give to clients on this machine, without a path."""
    name = connect_host(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def is_healthy(host: str, port: int, path: str, *, timeout: float = 1.0) -> bool:
    """Whether the server answers 200 on ``path`` within ``timeout`` seconds; no proxy is ever asked."""
    connection = http.client.HTTPConnection(connect_host(host), port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        with connection.getresponse() as response:
            return response.status == http.client.OK
    except (OSError, UnicodeError, http.client.HTTPException):  # UnicodeError: a host or a path that HTTP cannot carry
        return False
    finally:
        connection.close()
