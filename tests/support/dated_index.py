"""A package index on loopback that says when each file was uploaded (PEP 691 and PEP 700), for locks of another day."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


@dataclass
class DatedIndex:
    """Serves the wheels of a directory; ``uploaded`` gives the time of a file by its name. A context manager."""

    wheelhouse: Path
    uploaded: Mapping[str, str]
    url: str = field(default="", init=False)

    def __enter__(self) -> Self:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def do_HEAD(self) -> None:
                index.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Send a wheel, or the page of a distribution."""
        kind, name = [part for part in request.path.split("/") if part][:2]
        if kind == "files":
            body, media_type = (self.wheelhouse / name).read_bytes(), "application/octet-stream"
        else:
            page = self._page(name)
            if not page["files"]:
                request.send_error(404)
                return
            body, media_type = json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json"
        request.send_response(200)
        request.send_header("Content-Type", media_type)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def _page(self, name: str) -> dict[str, Any]:
        base = self.url.removesuffix("/simple")
        files = []
        for wheel in sorted(self.wheelhouse.glob("*.whl")):
            if wheel.name.partition("-")[0].replace("_", "-") == name:
                content = wheel.read_bytes()
                files.append(
                    {
                        "filename": wheel.name,
                        "url": f"{base}/files/{wheel.name}",
                        "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
                        "size": len(content),
                        "upload-time": self.uploaded[wheel.name],
                    }
                )
        return {"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": files}
