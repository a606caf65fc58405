"""An https host of release assets and git repositories on loopback, which can be down: what a forge is to a recipe."""

from __future__ import annotations

import contextlib
import http.server
import os
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from support.need import need
from support.registry import make_certificate


class ReleaseHost:
    """A context manager; from its beginning ``url`` is taken and refuses connections, until `go_up`.

    Files of ``directory`` are served as they are, and repositories in it by git's own program for that.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self.directory, self.certificate = directory, scratch / "host.pem"
        self._key, self._trusted = scratch / "host.key", scratch / "trusted.pem"
        self.git = need("git")

    def __enter__(self) -> Self:
        make_certificate(self.certificate, self._key)
        known = ssl.get_default_verify_paths().cafile
        self._trusted.write_bytes((Path(known).read_bytes() if known else b"") + self.certificate.read_bytes())
        handler = type("Handler", (_Handler,), {"host": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.server_bind()  # nobody listens yet, and nobody else gets the port
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread: threading.Thread | None = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(10)
        self._server.server_close()

    def go_up(self) -> None:
        self._server.server_activate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self._key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def trust(self) -> dict[str, str]:
        """Variables by which Python and git trust this host; uv, which reads one of them, still trusts an index."""
        return {"SSL_CERT_FILE": str(self._trusted), "GIT_SSL_CAINFO": str(self._trusted)}


class _Handler(http.server.BaseHTTPRequestHandler):
    host: ReleaseHost

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client does not trust us, or goes away
            super().handle()

    def do_GET(self) -> None:
        place = self.host.directory / unquote(urlsplit(self.path).path).lstrip("/")
        if urlsplit(self.path).query:
            self.do_POST()
        elif place.is_file():
            content = place.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """Answer git's smart protocol with `git http-backend`, a CGI program."""
        parts = urlsplit(self.path)
        environ = {
            "GIT_PROJECT_ROOT": str(self.host.directory),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "PATH_INFO": unquote(parts.path),
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        command = [self.host.git, "http-backend"]
        answer = subprocess.run(command, input=body, env={**os.environ, **environ}, capture_output=True, check=False)
        head, _, content = answer.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
