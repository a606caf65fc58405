"""An https server of one directory that knows ranges, and fails on demand: what release assets lie on."""

from __future__ import annotations

import contextlib
import http.server
import re
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from support.registry import make_certificate


@dataclass
class Plan:
    """What happens to the next requests, in their order; afterwards all is well.

    Each item is a status to answer with, ``cut N`` to end the body after N bytes, or ``to ADDRESS`` to redirect.
    """

    steps: list[str] = field(default_factory=list)


class FileServer:
    """A context manager; ``url`` is where the directory is, ``certificate`` what a client must trust."""

    def __init__(self, directory: Path, scratch: Path, *, ranges: bool = True, tls: bool = True) -> None:
        self.directory, self.ranges, self.tls = directory, ranges, tls
        self.certificate, self._key = scratch / "server.pem", scratch / "server.key"
        self.plan = Plan()
        self.asked: list[tuple[str, str]] = []
        """Path and ``Range`` of each request."""

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"files": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if self.tls:
            make_certificate(self.certificate, self._key)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self._key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(http.server.BaseHTTPRequestHandler):
    files: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client does not trust us, or goes away
            super().handle()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.files.asked.append((self.path, wanted))
        step = self.files.plan.steps.pop(0) if self.files.plan.steps else ""
        place = self.files.directory / unquote(self.path).lstrip("/")
        if step.isdigit() or not place.is_file():
            self.send_error(int(step or 404))
            return
        if step.startswith("to "):
            self.send_response(302)
            self.send_header("Location", step[3:])
            self.end_headers()
            return
        content, begin = place.read_bytes(), 0
        if self.files.ranges and (match := re.fullmatch(r"bytes=(\d+)-", wanted)):
            begin = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end = begin + int(step[4:]) if step.startswith("cut ") else len(content)
        self.wfile.write(content[begin:end])
