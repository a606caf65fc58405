"""The referrers of a manifest in a registry: its referrers API where it has one, the fallback tag elsewhere.

Nothing in the protocol makes changing a fallback tag atomic. The threads of one process take turns; against others, a
writer reads its list again a moment later, and merges once more when somebody else's write has removed its entry. What
another client overwrites after that is lost: only the API prevents it.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from mr_core.digest import Digest
from mr_core.errors import AccessDeniedError, InvalidInputError, NotFoundError, UnavailableError
from mr_core.manifest import MAX_MANIFEST_BYTES, MEDIA_INDEX, Descriptor
from mr_core.referrer_index import (
    Referrer,
    fallback_name,
    ordered,
    parse_referrers,
    with_referrers,
)
from mr_core.registry_session import RegistrySession, RemoteStream

if TYPE_CHECKING:
    import requests

_NO_API = frozenset({400, 404, 405, 406, 501})
_ATTEMPTS = 8
_LONGEST_SETTLE = 2.0
_MAX_PAGES = 64
_NEXT = re.compile(r'<([^<>]{1,2000})>\s*;[^,]*\brel="?next"?')


class Documents(Protocol):
    """What the list of a fallback tag is read and written with: the repository itself."""

    def resolve(self, name: str) -> Descriptor:
        """Return what a tag points to."""

    def read_document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest or an index, verified."""

    def write_manifest(self, name: str, raw: bytes, media_type: str) -> str:
        """Write a manifest under a tag or its digest; return the subject that the registry says it has recorded."""


class RegistryReferrers:
    """The lists of referrers in one repository; remembers whether the registry has the API."""

    def __init__(self, session: RegistrySession, path: str, where: str, documents: Documents) -> None:
        self._session = session
        self._path = path
        self._where = where
        self._documents = documents
        self._has_api: bool | None = None
        self._lock = threading.Lock()

    def read(self, subject: Digest, *, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Return the referrers of ``subject``, sorted; the registry may have left other types out already."""
        if self._has_api is not False:
            found = self._query(subject, artifact_type)
            self._has_api = found is not None
            if found is not None:
                return found
        raw = self._read_list(subject)
        return () if raw is None else parse_referrers(raw, self._named(subject))

    def write(self, subject: Digest, new: Sequence[Referrer], *, replace: bool) -> None:
        """Write artifact manifests, and list them where the registry does not do that itself."""
        unlisted: list[Descriptor] = []
        for referrer in new:
            entry = referrer.listed
            recorded = self._documents.write_manifest(str(entry.digest), referrer.raw, entry.media_type)
            self._documents.read_document(entry)
            if recorded != str(subject):
                unlisted.append(entry)
        if unlisted:
            with self._lock:
                self._write_list(subject, unlisted, replace=replace)
        elif new:
            self._has_api = True
            if replace:
                self._remove_others(subject, [referrer.listed for referrer in new])

    def _query(self, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
        """Ask the API, page by page; `None` when there is none."""
        url = f"{self._path}/referrers/{subject}"
        if artifact_type:
            url += f"?{urlencode({'artifactType': artifact_type})}"
        what = f"list referrers of {self._named(subject)}"
        found: list[Descriptor] = []
        asked: set[str] = set()
        while url not in asked:
            asked.add(url)
            with self._session.request(
                "GET", url, what=what, accept=_NO_API | {200}, headers={"Accept": MEDIA_INDEX}
            ) as response:
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
                if response.status_code != 200 or media_type != MEDIA_INDEX:
                    if found:
                        raise UnavailableError(f"Cannot {what}: a later page is missing")
                    return None
                stream = RemoteStream(
                    response, what=what, host=self._session.host, offset=0, cancel=self._session.cancel
                )
                found += parse_referrers(_read_page(stream, what), self._named(subject))
                follow = self._next(response, what)
            checked = ordered(found, self._named(subject))
            if not follow:
                return checked
            url = follow
            if len(asked) >= _MAX_PAGES:
                break
        raise InvalidInputError(f"Cannot {what}: its pages do not end")

    def _next(self, response: requests.Response, what: str) -> str:
        """Return the address of the next page (RFC 8288), empty when there is none; it stays on the registry."""
        match = _NEXT.search(response.headers.get("Link", "")[:8192])
        return "" if match is None else self._session.resolve_link(response, match[1], what)

    def _read_list(self, subject: Digest) -> bytes | None:
        try:
            listed = self._documents.resolve(fallback_name(subject))
        except NotFoundError:
            return None
        return self._documents.read_document(listed)

    def _write_list(self, subject: Digest, new: Sequence[Descriptor], *, replace: bool) -> None:
        """Add entries to the fallback tag until they are seen there after everybody's writes."""
        where = self._named(subject)
        for attempt in range(_ATTEMPTS):
            begin = time.monotonic()
            raw = self._read_list(subject)
            # Two writers that replace each other's entries would never end: after the first time, entries are added.
            changed = with_referrers(raw, new, replace=replace and attempt == 0, where=where)
            if raw is not None and _same(raw, changed, where):
                return
            self._documents.write_manifest(fallback_name(subject), changed, MEDIA_INDEX)
            # Whoever read the old list before this write has written it back by then, most probably.
            settle = 2 * (time.monotonic() - begin) * (0.5 + random.random())  # noqa: S311 - jitter
            self._session.cancel.sleep(min(_LONGEST_SETTLE, settle))
        raise UnavailableError(
            f"Cannot list referrers of {where}: others keep writing the tag `{fallback_name(subject)}`",
            hint="run it again when they are done",
        )

    def _remove_others(self, subject: Digest, new: Sequence[Descriptor]) -> None:
        """Delete the referrers that new ones replace; a registry that refuses that keeps them."""
        kinds = {entry.artifact_type for entry in new}
        digests = {entry.digest for entry in new}
        for entry in self.read(subject):
            if entry.artifact_type in kinds and entry.digest not in digests:
                what = f"delete {entry.digest}"
                url = f"{self._path}/manifests/{entry.digest}"
                try:
                    self._session.request("DELETE", url, what=what, accept=_NO_API | {200, 202}).close()
                except AccessDeniedError:
                    return

    def _named(self, subject: Digest) -> str:
        return f"{self._where}@{subject}"


def _same(raw: bytes, changed: bytes, where: str) -> bool:
    """Whether two lists have the same entries: another client may have written the same in another order."""
    return parse_referrers(raw, where) == parse_referrers(changed, where)


def _read_page(stream: RemoteStream, what: str) -> bytes:
    raw = bytearray()
    while chunk := stream.read(MAX_MANIFEST_BYTES + 1 - len(raw)):
        raw += chunk
        if len(raw) > MAX_MANIFEST_BYTES:
            raise InvalidInputError(f"Cannot {what}: a page has more than {MAX_MANIFEST_BYTES} bytes")
    return bytes(raw)
