"""HTTP to one registry: the only module that uses `requests`, and the border its errors do not cross.

`requests` is imported when a session is made, not with this module: it takes longer than everything else that
``mr-install --help`` needs.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import SplitResult, urljoin, urlsplit

from mr_core.errors import AccessDeniedError, BundleError, HostError, UnavailableError
from mr_core.events import Cancel
from mr_core.registry_auth import find_credentials
from mr_core.registry_errors import connection_failure, refused, status_failure
from mr_core.registry_options import RegistryOptions
from mr_core.retry import RETRY_STATUSES, TransientFailure, call_with_retries, parse_retry_after

if TYPE_CHECKING:
    import requests

SMALL_BODY_BYTES = 64 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_POOL = 16
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCHEME = re.compile(r"(?:^|,)\s*(basic|bearer)\b", re.IGNORECASE)


class UploadBody:
    """The bytes of an upload as `requests` wants them: a length, and chunks that can be had once."""

    def __init__(self, chunks: Iterator[bytes], size: int) -> None:
        self._chunks = chunks
        self._size = size
        self.started = False

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self.started = True
        yield from self._chunks


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, as it is sent again after a challenge or a redirect."""

    method: str
    what: str
    headers: dict[str, str]
    body: bytes | UploadBody | None
    read_timeout: float | None


class RegistrySession:
    """Requests to one registry, with its credentials, redirects, retries and timeouts; safe from several threads."""

    def __init__(self, host: str, repository: str, *, options: RegistryOptions, cancel: Cancel | None = None) -> None:
        from http.cookiejar import DefaultCookiePolicy  # noqa: PLC0415

        import requests  # noqa: PLC0415 - see the module's docstring
        from requests.adapters import HTTPAdapter  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        self.host = host
        self.cancel = cancel if cancel is not None else Cancel()
        self.options = options
        scheme = "http" if options.is_insecure(host) else "https"
        self.base = f"{scheme}://{'registry-1.docker.io' if host == 'docker.io' else host}"
        self._repository = repository
        self._authorization: str | None = None
        self._auth_lock = threading.Lock()
        self._authorities_checked = False
        self._errors = (requests.RequestException, HTTPError, OSError, ValueError)
        session = _plain_session()
        session.trust_env = False  # else ~/.netrc replaces our Authorization and REQUESTS_CA_BUNDLE our CA bundle
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # no state beside the pool
        for prefix in ("http://", "https://"):
            session.mount(prefix, HTTPAdapter(pool_connections=4, pool_maxsize=_POOL, max_retries=0))
        self._session = session

    def request(
        self,
        method: str,
        url: str,
        *,
        what: str,
        accept: frozenset[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | UploadBody | None = None,
        read_timeout: float | None = None,
    ) -> requests.Response:
        """Send one request and return the response with its body unread; the caller closes it.

        Args:
            method: The HTTP method.
            url: Absolute, or a path on the registry.
            what: ``Cannot <what>: …`` in errors.
            accept: Statuses that the caller handles; any other is an error.
            headers: More headers.
            body: Bytes are sent again by a retry; an `UploadBody` only until its first byte was taken.
            read_timeout: For this request, instead of the stall timeout.

        Raises:
            UnavailableError: when the server cannot be reached or fails, after the retries.
            AccessDeniedError: for 401 and 403.
            NotFoundError: for 404.
            InvalidInputError: for any other refusal of the request itself.
            IntegrityError: when the server says that it received other bytes.
            HostError: when the file with the certificates to trust cannot be used.
            CancelledError: when asked to stop.
        """
        call = _Call(method, what, dict(headers or {}), body, read_timeout)

        def consumed() -> bool:
            return isinstance(body, UploadBody) and body.started

        def attempt() -> requests.Response:
            try:
                response = self._follow(url, call)
            except self._errors as error:
                raise connection_failure(what, self.host, error, once=consumed()) from error
            if response.status_code in accept:
                return response
            with response:
                failure = status_failure(what, self.host, response.status_code, read_small(response))
                if isinstance(failure, UnavailableError) and response.status_code in RETRY_STATUSES:
                    wait = parse_retry_after(response.headers.get("Retry-After", ""), time.time())
                    raise TransientFailure(failure, retry_after=wait, final=consumed())
                raise failure

        return call_with_retries(attempt, self.options.retry, self.cancel)

    def resolve_location(self, response: requests.Response, what: str) -> str:
        """Return the absolute URL in a ``Location`` header; it must not lead from https to http.

        Raises:
            UnavailableError: when there is none, or it is not acceptable.
        """
        location = response.headers.get("Location", "")
        if not location:
            raise UnavailableError(
                f"Cannot {what}: `{self.host}` sent status {response.status_code} without a location"
            )
        url, new = self._joined(response, location, what)
        self._check_step(urlsplit(response.url), new, what)
        return url

    def resolve_link(self, response: requests.Response, link: str, what: str) -> str:
        """Return the absolute URL of a ``Link`` header's target.

        Raises:
            UnavailableError: when it leads away from the registry.
        """
        url, new = self._joined(response, link, what)
        if not self._is_home(url) or new.username is not None:
            raise UnavailableError(f"Cannot {what}: `{self.host}` continues its answer on another host")
        return url

    def close(self) -> None:
        """Close all pooled connections."""
        self._session.close()

    def _joined(self, response: requests.Response, address: str, what: str) -> tuple[str, SplitResult]:
        try:
            url = urljoin(response.url, address)
            parts = urlsplit(url)
            _origin(parts)
        except ValueError as error:
            raise UnavailableError(f"Cannot {what}: `{self.host}` redirects to a bad address") from error
        return url, parts

    def _follow(self, url: str, call: _Call) -> requests.Response:
        """Send, answer one challenge, and follow redirects by hand."""
        url = urljoin(self.base, url)
        challenged = False
        steps = 0
        while True:
            self.cancel.check()
            response = self._send(url, call)
            if response.status_code == 401 and self._is_home(url) and not challenged:
                challenged = True
                with response:
                    self._answer(response, call.what)
                if isinstance(call.body, UploadBody):
                    raise UnavailableError(f"Cannot {call.what}: `{self.host}` asked for credentials during an upload")
                continue
            if not self._redirects(response, call):
                return response
            steps += 1
            if steps > _MAX_REDIRECTS:
                response.close()
                raise UnavailableError(f"Cannot {call.what}: `{self.host}` redirects more than {_MAX_REDIRECTS} times")
            with response:
                read_small(response)
                url = self.resolve_location(response, call.what)

    @staticmethod
    def _redirects(response: requests.Response, call: _Call) -> bool:
        """Whether to go where a response points to: not with a body that cannot be read twice."""
        if response.status_code not in _REDIRECTS or isinstance(call.body, UploadBody):
            return False
        return call.method in {"GET", "HEAD"} or response.status_code in {307, 308}

    def _send(self, url: str, call: _Call) -> requests.Response:
        # `identity`: a blob's digest is over the bytes as they are stored, so nobody may recode them on the way.
        headers = {"User-Agent": self.options.user_agent, "Accept-Encoding": "identity", **call.headers}
        if self._authorization is not None and self._is_home(url):
            headers["Authorization"] = self._authorization
        ca = self.options.ca_bundle
        if ca is not None and not self._authorities_checked and url.lower().startswith("https:"):
            _check_authorities(ca)
            self._authorities_checked = True
        return self._session.request(
            call.method,
            url,
            headers=headers,
            data=call.body,
            stream=True,
            allow_redirects=False,
            timeout=(self.options.connect_timeout, call.read_timeout or self.options.stall_timeout),
            verify=str(ca) if ca is not None else True,
            proxies=self.options.proxies_for(url),
        )

    def _answer(self, response: requests.Response, what: str) -> None:
        """Prepare the credentials that a 401 asks for, or say why that is impossible."""
        challenge = response.headers.get("WWW-Authenticate", "")
        sent = response.request.headers.get("Authorization")
        text = read_small(response)
        schemes = {found.lower() for found in _SCHEME.findall(_QUOTED.sub('""', challenge))}
        with self._auth_lock:
            if self._authorization is not None and self._authorization != sent:
                return  # another thread has just found them
            if sent is not None:
                raise refused(what, self.host, text, anonymous=False)
            if "basic" not in schemes and "bearer" in schemes:
                raise AccessDeniedError(
                    f"Cannot {what}: `{self.host}` asks for token authentication, which is not supported yet",
                    hint="copy the bundle with skopeo, and install it with `--from oci:DIRECTORY`",
                )
            self._authorization = find_credentials(self.host, self._repository, self.options)
            if self._authorization is None:
                raise refused(what, self.host, text, anonymous=True)

    def _is_home(self, url: str) -> bool:
        return _origin(urlsplit(url)) == _origin(urlsplit(self.base))

    def _check_step(self, old: SplitResult, new: SplitResult, what: str) -> None:
        shown = f"{new.scheme}://{new.hostname}"
        if new.scheme not in {"http", "https"} or not new.hostname or new.username is not None:
            raise UnavailableError(f"Cannot {what}: `{self.host}` redirects to a bad address `{shown}`")
        if new.scheme == "https" or _origin(new) == _origin(urlsplit(self.base)):
            return
        if old.scheme == "https" or not self.options.is_insecure(new.netloc):
            raise UnavailableError(
                f"Cannot {what}: `{self.host}` redirects to plain http on `{new.netloc}`",
                hint="the registry is set up wrongly; ask whoever runs it for https",
            )


def _plain_session() -> requests.Session:
    import requests  # noqa: PLC0415 - see the module's docstring

    class Session(requests.Session):
        """Leaves redirects alone: even unfollowed ones, requests parses, and reads their bodies of any length."""

        def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - its signature
            return None

    return Session()


class RemoteStream:
    """The body of a response as a blob stream."""

    __slots__ = ("_cancel", "_host", "_response", "_what", "offset")

    def __init__(self, response: requests.Response, *, what: str, host: str, offset: int, cancel: Cancel) -> None:
        self.offset = offset
        self._response = response
        self._what = what
        self._host = host
        self._cancel = cancel

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; raise `UnavailableError` when the connection broke or stalled."""
        self._cancel.check()
        return _read(self._response, min(size, 256 << 10), self._what, self._host)

    def close(self) -> None:
        """Give the connection back when the body was read to its end, drop it otherwise."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_small(response: requests.Response) -> str:
    """Return the start of a small body as text, and free the connection when that was all of it."""
    try:
        return _read(response, SMALL_BODY_BYTES, "read", "the registry").decode("utf-8", "replace")
    except BundleError:
        return ""


def _read(response: requests.Response, size: int, what: str, host: str) -> bytes:
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - comes with requests, which is imported late

    try:
        chunk: bytes = response.raw.read(size, decode_content=False)
    except (HTTPError, OSError, ValueError) as error:
        raise connection_failure(what, host, error).error from error
    return chunk


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    """Return what two addresses must have in common to be one place; raise `ValueError` for a bad port."""
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _check_authorities(ca: Path) -> None:
    """Raise `HostError` unless a file of certificates can be used: asking again would not mend it."""
    import ssl  # noqa: PLC0415 - comes with requests, which is imported late

    try:
        if not ca.is_dir():  # a directory of hashed names is looked into when a connection is made
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
    except OSError as error:
        reason = "it holds no certificates" if isinstance(error, ssl.SSLError) else (error.strerror or "").lower()
        raise HostError(
            f"Cannot read certificates `{ca}`: {reason}",
            hint="check `--ca`, `SSL_CERT_FILE` and `REQUESTS_CA_BUNDLE`",
            path=str(ca),
        ) from error
