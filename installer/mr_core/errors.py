"""The one tree of errors, and the exit status each of them maps to.

BundleError                      code              exit   whose move
├── InternalError                internal          1      ours: a bug
├── UsageError                   usage             2      the caller
├── InvalidInputError            invalid-input     3      author of the recipe, lock, config or bundle
├── NotFoundError                not-found         4      reference, backend or release does not exist
├── UnsupportedError             unsupported       5      this host cannot run it
├── IntegrityError               integrity         6      stop: bytes differ, or a tar entry is refused
├── UnavailableError             unavailable       7      wait: network, 429, 5xx
├── AccessDeniedError            access-denied     8      credentials or policy
├── HostError                    host              9      disk full, permission, lock held, noexec
├── BuildError                   build             10     a build step failed
├── ProbeError                   probe             11     intact, but does not work here
└── CancelledError               cancelled         130    the user

A class exists only where a script would act differently. Text has the form
``Cannot <verb> <object>: <reason>`` without a final period; ``hint`` holds one action.
"""

from __future__ import annotations

import re
from typing import ClassVar

_WORD = re.compile(r"\S+")
_USER = re.compile(r"://[^/?#]*@")
_PASSWORD = re.compile(r"://(?!\[)[^/?#@:]*:(?![0-9]{0,5}(?:[/?#]|$))")  # a colon that is not that of a port
_QUERY = re.compile(r"\?[^#]*")


def redact(text: str) -> str:
    """Return ``text`` with user names, passwords and queries removed from every URL in it."""
    return _WORD.sub(_redact_word, text) if "://" in text else text


def _redact_word(word: re.Match[str]) -> str:
    """Return a word without secrets; takes a time in proportion to its length, for it may be hostile.

    User and password end at the last `@` of all, for a password may hold a bare `@`, `/` or `?`. A user alone ends at
    the last `@` before the path, for a path may hold one too (``@sha256:…``).
    """
    text = word[0]
    last = text.rfind("@")
    password = _PASSWORD.search(text)
    if password is not None and password.end() <= last:
        text = f"{text[: password.start()]}://{text[last + 1 :]}"
    begin, mark, rest = _USER.sub("://", text).partition("://")
    return begin + mark + _QUERY.sub("?…", rest) if mark else text


def printable(text: str, *, most: int = 200) -> str:
    """Return hostile text as one printable line of at most ``most`` characters; what was escaped may take more."""
    shown = _escape(text[:most])
    return shown if len(text) <= most else f"{shown}…"


def _escape(text: str) -> str:
    """Replace whatever a terminal would obey (escape sequences, direction marks) by its Python escape."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _shown(text: str) -> str:
    """Return the text of a message as it may be shown: without secrets, printable, with its line breaks."""
    return "\n".join(_escape(line) for line in redact(text).split("\n"))


def _without_secrets(value: object) -> object:
    match value:
        case str():
            return redact(value)
        case dict():
            return {key: _without_secrets(item) for key, item in value.items()}
        case list():
            return [_without_secrets(item) for item in value]
        case tuple():
            return tuple(_without_secrets(item) for item in value)
        case _:
            return value


class BundleError(Exception):
    """Base of every error that leaves this project's libraries.

    Attributes:
        code: Stable slug that scripts may test.
        exit_code: Process exit status the command line uses.
        retryable: Whether the same call may succeed later without a change.
        message: ``Cannot <verb> <object>: <reason>``; several reasons have a line each. Safe to show on a terminal.
        hint: One action the reader can take next, or an empty string.
        fields: Facts for ``--json`` (paths, digests, sizes in bytes), without secrets but otherwise as they are: do not
            show them on a terminal unescaped.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **fields: object) -> None:
        self.message = _shown(message)
        self.hint = _shown(hint)
        self.fields = {key: _without_secrets(value) for key, value in fields.items()}
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class InternalError(BundleError):
    """A state that should be impossible: a bug of ours."""


class UsageError(BundleError):
    """The caller combined arguments that make no sense together."""

    code = "usage"
    exit_code = 2


class InvalidInputError(BundleError):
    """A recipe, lock, configuration, manifest or bundle does not have the form it must have."""

    code = "invalid-input"
    exit_code = 3


class NotFoundError(BundleError):
    """A reference, backend, release or file that was named does not exist."""

    code = "not-found"
    exit_code = 4


class UnsupportedError(BundleError):
    """This host cannot run, or this tool cannot read, what was asked for; every reason is listed."""

    code = "unsupported"
    exit_code = 5


class IntegrityError(BundleError):
    """Bytes differ from their digest, or a tar entry breaks a rule; never retried blindly."""

    code = "integrity"
    exit_code = 6


class UnavailableError(BundleError):
    """The other side did not answer, or asked us to come back later."""

    code = "unavailable"
    exit_code = 7
    retryable = True


class AccessDeniedError(BundleError):
    """Credentials are missing or refused, or a policy forbids it."""

    code = "access-denied"
    exit_code = 8


class HostError(BundleError):
    """This machine stands in the way: disk full, permission, lock held, noexec, port in use."""

    code = "host"
    exit_code = 9


class BuildError(BundleError):
    """A build step failed; ``fields['log']`` names the log when there is one."""

    code = "build"
    exit_code = 10


class ProbeError(BundleError):
    """The bundle is intact but does not work here; the previous release stays active."""

    code = "probe"
    exit_code = 11


class CancelledError(BundleError):
    """The user or the host asked to stop."""

    code = "cancelled"
    exit_code = 130

    def __init__(self, message: str = "Cancelled", *, hint: str = "", **fields: object) -> None:
        super().__init__(message, hint=hint, **fields)
