"""The referrers API in front of a real registry that has none, as the distribution specification 1.1 has it.

Manifests with a ``subject`` go through to the registry and are remembered; the list of a subject's referrers is
computed from them. Everything else passes as through any `FaultProxy`, faults included.
"""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from mr_core.digest import Digest
from mr_core.manifest import MEDIA_INDEX
from support.wire import FaultProxy, Seen, _Handler

_LIST = re.compile(r"/v2/(.+)/referrers/([^/]+)")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")


class ReferrersApi(FaultProxy):
    """A registry with the referrers API.

    Attributes:
        page: Most entries of a page; 0 for all.
        answers: What to answer to the next requests for a list instead: status, headers, body.
        deletable: Whether manifests may be deleted.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.page = 0
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.deletable = True
        self.listed: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}


class _ReferrersHandler(_Handler):
    proxy: ReferrersApi

    def _pass_on(self) -> None:
        parts = urlsplit(self.path)
        listing, manifest = _LIST.fullmatch(parts.path), _MANIFEST.fullmatch(parts.path)
        if listing and self.command == "GET":
            self.proxy.seen.append(Seen(self.command, self.path, dict(self.headers)))
            self._list(listing[1], listing[2], parse_qs(parts.query))
        elif manifest and self.command == "PUT":
            self.proxy.seen.append(Seen(self.command, self.path, dict(self.headers)))
            self._put(manifest[1])
        elif manifest and self.command == "DELETE":
            self.proxy.seen.append(Seen(self.command, self.path, dict(self.headers)))
            self._delete(manifest[1], manifest[2])
        else:
            super()._pass_on()

    def _put(self, repository: str) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, text = self._forward(body)
        subject = json.loads(body).get("subject")
        if status == 201 and subject:
            value = json.loads(body)
            entry = {"mediaType": value["mediaType"], "digest": str(Digest.of(body)), "size": len(body)}
            entry["artifactType"] = value.get("artifactType") or value["config"]["mediaType"]
            if value.get("annotations"):
                entry["annotations"] = value["annotations"]
            with self.proxy.lock:
                self.proxy.listed.setdefault((repository, subject["digest"]), {})[entry["digest"]] = entry
            headers["OCI-Subject"] = subject["digest"]
        self._reply(status, headers, text)

    def _delete(self, repository: str, digest: str) -> None:
        if not self.proxy.deletable:
            self._reply(405, {}, b"")
            return
        status, headers, text = self._forward(b"")
        if status == 202:
            with self.proxy.lock:
                for (place, _), entries in self.proxy.listed.items():
                    if place == repository:
                        entries.pop(digest, None)
        self._reply(status, headers, text)

    def _list(self, repository: str, subject: str, query: dict[str, list[str]]) -> None:
        if self.proxy.answers:
            self._reply(*self.proxy.answers.pop(0))
            return
        with self.proxy.lock:
            entries = list(self.proxy.listed.get((repository, subject), {}).values())
        headers = {"Content-Type": MEDIA_INDEX}
        wanted = query.get("artifactType", [""])[0]
        if wanted:
            entries = [entry for entry in entries if entry["artifactType"] == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        start = int(query.get("start", ["0"])[0])
        if self.proxy.page and start + self.proxy.page < len(entries):
            more = f"&artifactType={quote(wanted)}" if wanted else ""
            path = f"/v2/{repository}/referrers/{subject}?start={start + self.proxy.page}{more}"
            headers["Link"] = f'<{path}>; rel="next"'
        entries = entries[start : start + self.proxy.page] if self.proxy.page else entries
        body = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": entries}).encode()
        self._reply(200, headers, body)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body=body or None, headers=dict(self.headers))
            reply = upstream.getresponse()
            text = reply.read()
            kept = {"Content-Type", "Docker-Content-Digest", "Location"}
            return reply.status, {name: value for name, value in reply.getheaders() if name in kept}, text
        finally:
            upstream.close()

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._answer(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)


ReferrersApi.handler = _ReferrersHandler
