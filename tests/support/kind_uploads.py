"""Upload sessions that survive a cut chunk, in front of the reference registry, whose sessions do not.

What arrived of a chunk is kept, the session's old addresses stay valid, and asking it gives the position, as the
distribution specification 1.1 describes chunked uploads. The bytes still go to the real registry.
"""

from __future__ import annotations

import http.client
import re
from urllib.parse import urlsplit

from support.wire import FaultProxy, Seen, _Handler

_SESSION = re.compile(r"/v2/.+/blobs/uploads/([^/]+)")


class KindUploads(FaultProxy):
    """A registry that keeps what it got; the fault `reset_upload_at` cuts a chunk, `lose_reply` its answer."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.addresses: dict[str, str] = {}
        self.received: dict[str, int] = {}


class _KindHandler(_Handler):
    proxy: KindUploads

    def _pass_on(self) -> None:
        session = _SESSION.fullmatch(urlsplit(self.path).path)
        if session is None or self.command not in {"PATCH", "GET", "PUT"}:
            super()._pass_on()
            return
        name = session[1]
        address = self.proxy.addresses.get(name, self.path)
        match self.command:
            case "PATCH":
                self._patch(name, address)
            case "GET":
                self.proxy.seen.append(Seen(self.command, self.path, dict(self.headers)))
                self._accept(204, name, address)
            case _:
                if name in self.proxy.addresses:  # the query holds the digest, and the session's state before it
                    digest = self.path.rpartition("digest=")[2]
                    self.path = f"{address}&digest={digest}"
                super()._pass_on()

    def _patch(self, name: str, address: str) -> None:
        fault = self.proxy.take(self.command, self.path)
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length if fault.reset_upload_at is None else min(length, fault.reset_upload_at))
        self.proxy.seen.append(Seen(self.command, self.path, dict(self.headers), sent=len(body)))
        at = self.proxy.received.get(name, 0)
        if not self.headers["Content-Range"].startswith(f"{at}-"):
            self._answer(416, {"Content-Length": "0"})
            return
        if body:
            upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
            upstream.request("PATCH", address, body=body, headers={"Content-Type": "application/octet-stream"})
            reply = upstream.getresponse()
            reply.read()
            assert reply.status == 202, reply.status
            parts = urlsplit(reply.headers["Location"])
            self.proxy.addresses[name] = address = f"{parts.path}?{parts.query}"
            self.proxy.received[name] = at + len(body)
            upstream.close()
        if fault.reset_upload_at is not None or fault.lose_reply:
            self._reset()
            return
        self._accept(202, name, address)

    def _accept(self, status: int, name: str, address: str) -> None:
        last = max(0, self.proxy.received.get(name, 0) - 1)
        self._answer(status, {"Location": address, "Range": f"0-{last}", "Content-Length": "0"})


KindUploads.handler = _KindHandler
