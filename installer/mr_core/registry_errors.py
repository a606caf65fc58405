"""What a registry's failures mean to the caller: whose move it is."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

from mr_core.errors import (
    AccessDeniedError,
    BundleError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    printable,
)
from mr_core.retry import RETRY_STATUSES, TransientFailure


def status_failure(what: str, host: str, status: int, body: str) -> BundleError:
    """Return the error for a response that the caller did not expect.

    Args:
        what: ``Cannot <what>: …``.
        host: The registry.
        status: Of the response.
        body: Its text, in which the distribution specification puts ``{"errors": [{"code", "message"}]}``.
    """
    said = _reason(body)
    if status in {401, 403}:
        return refused(what, host, body, anonymous=False)
    if status == 404:
        return NotFoundError(f"Cannot {what}: `{host}` does not have it{said}", hint="check repository, tag and digest")
    if status == 429:
        return UnavailableError(
            f"Cannot {what}: `{host}` says there were too many requests{said}",
            hint="wait a while, or log in: most registries allow more to known users",
            status=status,
        )
    if status in RETRY_STATUSES or status >= 500:
        return UnavailableError(f"Cannot {what}: `{host}` answers with status {status}{said}", status=status)
    if "DIGEST_INVALID" in body or "SIZE_INVALID" in body:
        return IntegrityError(f"Cannot {what}: `{host}` received other bytes{said}", status=status)
    if "HTTP request to an HTTPS server" in body:
        return UnavailableError(
            f"Cannot {what}: `{host}` speaks https, not plain http", hint="do not name it with `--insecure-registry`"
        )
    if 300 <= status < 400:
        return UnavailableError(f"Cannot {what}: `{host}` redirects to an unknown place", status=status)
    if 400 <= status < 500:
        return InvalidInputError(f"Cannot {what}: `{host}` refuses it with status {status}{said}", status=status)
    return UnavailableError(f"Cannot {what}: `{host}` answers with unexpected status {status}", status=status)


def refused(what: str, host: str, body: str, *, anonymous: bool) -> AccessDeniedError:
    """Return the error for missing or refused credentials."""
    said = _reason(body)
    if anonymous:
        return AccessDeniedError(
            f"Cannot {what}: `{host}` asks for credentials, and none are known", hint=f"run `docker login {host}`"
        )
    return AccessDeniedError(
        f"Cannot {what}: `{host}` denies access{said}",
        hint=f"check that your account may do this; `docker login {host}` sets new credentials",
    )


def connection_failure(what: str, host: str, error: Exception, *, once: bool = False) -> TransientFailure:
    """Return a failure for an exception of requests, urllib3 or the socket layer.

    Args:
        what: ``Cannot <what>: …``.
        host: The registry.
        error: The exception.
        once: Whether the request must not be sent again.
    """
    names = {type(cause).__name__ for cause in _causes(error)}
    if names & {"SSLError", "SSLCertVerificationError"}:
        plain = "WRONG_VERSION_NUMBER" in str(error) or "record layer" in str(error)
        reason = "it does not speak https" if plain else "its certificate is not trusted"
        detail = _innermost(error)
        failure = UnavailableError(
            f"Cannot {what}: no secure connection to `{host}`: {reason} ({detail})",
            hint=(
                f"if it is meant to speak plain http, say `--insecure-registry {host}`"
                if plain
                else "name its certificate authority with `--ca FILE`"
                f", or say `--insecure-registry {host}` if it speaks plain http"
            ),
        )
        return TransientFailure(failure, final=True)
    if names & {"InvalidURL", "LocationParseError", "MissingSchema", "InvalidSchema", "InvalidProxyURL"}:
        return TransientFailure(UnavailableError(f"Cannot {what}: bad address ({_innermost(error)})"), final=True)
    connecting = bool(names & {"NewConnectionError", "NameResolutionError", "ConnectTimeout", "ConnectTimeoutError"})
    if "gaierror" in names or "NameResolutionError" in names:
        reason, hint = f"the name of `{host}` cannot be resolved", "check the name, and your network connection"
    elif "ConnectionRefusedError" in names:
        reason, hint = f"`{host}` refuses connections", "check host and port, and that the registry runs"
    elif connecting:
        reason, hint = f"`{host}` cannot be reached ({_innermost(error)})", "check your network connection and proxy"
    elif names & {"ReadTimeout", "ReadTimeoutError", "TimeoutError"}:
        reason, hint = f"`{host}` stopped answering", "try again later"
    else:
        reason, hint = f"the connection to `{host}` broke ({_innermost(error)})", "try again"
    failure = UnavailableError(f"Cannot {what}: {reason}", hint=hint, host=host)
    return TransientFailure(failure, connecting=connecting, final=once)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, what it was raised from, and what urllib3 keeps in ``reason`` or in its arguments."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        linked = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        queue.extend(item for item in linked if isinstance(item, BaseException))


def _innermost(error: BaseException) -> str:
    deepest = error
    for cause in _causes(error):
        if isinstance(cause, OSError) or type(cause).__module__.startswith("urllib3"):
            deepest = cause
    text = str(deepest)
    if isinstance(deepest, OSError) and not isinstance(deepest, socket.gaierror) and deepest.strerror:
        text = deepest.strerror
    return printable(text) or type(deepest).__name__


def _reason(body: str) -> str:
    """Return `` (CODE: message)`` of the first error in a body of the distribution specification."""
    try:
        first = json.loads(body)["errors"][0]
        text = f"{first.get('code', '')}: {first.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return f" ({printable(text)})"
