"""A faulty wire: an in-process proxy in front of a real registry that breaks replies and requests on demand."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_CHUNK = 16 << 10


@dataclass(kw_only=True)
class Fault:
    """What to do to the requests that match, ``times`` times; offsets count bytes of the body.

    Attributes:
        path: A regular expression to find in the path.
        status: Answer with this status instead of asking the registry; ``headers`` go with it.
        reset_at: Reset the connection after so many bytes of the reply's body.
        cut_at: End the connection after so many bytes of the reply's body.
        flip_at: Flip one bit of that byte of the reply's body.
        stall_at: Stop sending at that byte until the proxy is closed.
        content_range: Replace the reply's ``Content-Range``.
        drop_headers: Remove these headers from the reply.
        reset_upload_at: Reset the connection after reading so many bytes of the request's body.
        lose_reply: Pass the request on, then reset the connection instead of answering.
    """

    method: str = "GET"
    path: str = ""
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    reset_at: int | None = None
    cut_at: int | None = None
    flip_at: int | None = None
    stall_at: int | None = None
    content_range: str = ""
    drop_headers: tuple[str, ...] = ()
    reset_upload_at: int | None = None
    lose_reply: bool = False


@dataclass
class Seen:
    """A request that came through; ``sent`` counts the bytes of its body that reached the registry."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0


class FaultProxy:
    """A context manager; ``host`` is where it listens, ``seen`` what it was asked; ``tls``: certificate, key.

    Attributes:
        watch: Called with a moment (``asked``, ``half``, ``answered``) and the number of the request, from 1.
    """

    handler: type[_Handler]

    def __init__(self, upstream: str, *faults: Fault, tls: tuple[Path, Path] | None = None) -> None:
        self.upstream = upstream
        self._tls = tls
        self.faults = list(faults)
        self.seen: list[Seen] = []
        self.connections = 0
        self.watch: Callable[[str, int], None] = lambda _moment, _number: None
        self.ignore_ranges = False
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        handler = type("Handler", (self.handler,), {"proxy": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def count(self, method: str, path: str = "") -> int:
        """Return how many requests of a method matched a path."""
        return sum(seen.method == method and re.search(path, seen.path) is not None for seen in self.seen)

    def sent(self, path: str = "/blobs/") -> int:
        """Return how many bytes of request bodies reached the registry on matching paths."""
        return sum(seen.sent for seen in self.seen if re.search(path, seen.path) is not None)

    def take(self, method: str, path: str) -> Fault:
        """Record a request and return the fault it meets, perhaps an empty one."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return Fault()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each reply waits 40 ms for an acknowledgement of its headers
    proxy: FaultProxy

    def setup(self) -> None:
        super().setup()
        self.proxy.connections += 1

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client dropped the connection between two requests
            super().handle()

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        try:
            self._pass_on()
        except OSError:  # the client went away, or the registry closed an upload we broke
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - names of http.server

    def _pass_on(self) -> None:
        self.asked = Seen(self.command, self.path, dict(self.headers))
        with self.proxy.lock:
            self.proxy.seen.append(self.asked)
            self.number = len(self.proxy.seen)
        self.proxy.watch("asked", self.number)
        fault = self.proxy.take(self.command, self.path)
        if fault.status:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(fault.status, {"Content-Length": "0", **fault.headers})
            return
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if not (self.proxy.ignore_ranges and name.lower() == "range"):
                    upstream.putheader(name, value)
            upstream.endheaders()
            if not self._pass_body(upstream, fault):
                return
            reply = upstream.getresponse()
            self.proxy.watch("answered", self.number)
            if fault.lose_reply:
                reply.read()
                self._reset()
                return
            self._pass_reply(reply, fault)
        finally:
            upstream.close()

    def _pass_body(self, upstream: http.client.HTTPConnection, fault: Fault) -> bool:
        left = int(self.headers.get("Content-Length", 0))
        passed = 0
        halfway = False
        while left:
            chunk = self.rfile.read(min(left, _CHUNK))
            if not chunk:
                return False
            if fault.reset_upload_at is not None and passed + len(chunk) > fault.reset_upload_at:
                self._reset()
                return False
            upstream.send(chunk)
            self.asked.sent += len(chunk)
            passed += len(chunk)
            left -= len(chunk)
            if left and passed >= left and not halfway:
                halfway = True
                self.proxy.watch("half", self.number)
        return True

    def _pass_reply(self, reply: http.client.HTTPResponse, fault: Fault) -> None:
        headers = {name: value for name, value in reply.getheaders() if name not in fault.drop_headers}
        if fault.content_range:
            headers["Content-Range"] = fault.content_range
        self._answer(reply.status, headers)
        position = 0
        while chunk := reply.read(_CHUNK):
            start, position = position, position + len(chunk)
            if fault.flip_at is not None and start <= fault.flip_at < position:
                changed = bytearray(chunk)
                changed[fault.flip_at - start] ^= 1
                chunk = bytes(changed)
            for stop in (fault.reset_at, fault.cut_at, fault.stall_at):
                if stop is not None and position > stop:
                    self.wfile.write(chunk[: stop - start])
                    self._stop(fault)
                    return
            self.wfile.write(chunk)

    def _stop(self, fault: Fault) -> None:
        if fault.stall_at is not None:
            self.proxy.closing.wait(60)
        if fault.reset_at is not None:
            time.sleep(0.05)  # a reset discards what the client has not read yet
            self._reset()
        self.close_connection = True

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


FaultProxy.handler = _Handler
