"""When and how long to wait before asking a server again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mr_core.errors import UnavailableError
from mr_core.events import Cancel

T = TypeVar("T")

RETRY_STATUSES = frozenset({408, 429, 499, 500, 502, 503, 504, 522})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often to try and how long to wait; all times in seconds.

    A server that cannot even be connected to is given up sooner (after waits of 1.5 s at most in all) than one that
    answers with a passing error (7.5 s): the first is most often a mistyped or missing server, and somebody waits.
    """

    attempts: int = 5
    connect_attempts: int = 3
    first_delay: float = 0.5
    longest_delay: float = 8.0
    longest_retry_after: float = 60.0
    deadline: float = 180.0

    def delay(self, failures: int, retry_after: float | None, draw: float) -> float:
        """Return how long to wait after ``failures`` failures in a row.

        Args:
            failures: At least 1.
            retry_after: What the server asked for; it is obeyed up to a cap.
            draw: A random number from 0 to 1, so that many clients do not come back at once.
        """
        backoff = min(self.longest_delay, self.first_delay * 2.0 ** (failures - 1)) * (0.5 + draw / 2)
        if retry_after is None:
            return backoff
        return max(backoff, min(retry_after, self.longest_retry_after))


class TransientFailure(Exception):  # noqa: N818 - never leaves this package: `call_with_retries` turns it into its error
    """An attempt failed in a way that may pass."""

    def __init__(
        self,
        error: UnavailableError,
        *,
        retry_after: float | None = None,
        connecting: bool = False,
        final: bool = False,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after = retry_after
        self.connecting = connecting
        self.final = final


def call_with_retries(attempt: Callable[[], T], policy: RetryPolicy, cancel: Cancel) -> T:
    """Call ``attempt`` until it returns, raises something else, or the policy gives up.

    Raises:
        UnavailableError: the last failure.
        CancelledError: when asked to stop, also in the middle of a wait.
    """
    begin = time.monotonic()
    failures = 0
    while True:
        cancel.check()
        try:
            return attempt()
        except TransientFailure as failure:
            failures += 1
            wait = policy.delay(failures, failure.retry_after, random.random())  # noqa: S311 - jitter, not a secret
            most = policy.connect_attempts if failure.connecting else policy.attempts
            late = time.monotonic() - begin + wait > policy.deadline
            if failure.final or failures >= most or late:
                raise failure.error from failure.__cause__
        cancel.sleep(wait)


def parse_retry_after(value: str, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for; it holds seconds or an HTTP date (RFC 9110, 10.2.3).

    Args:
        value: The header, empty when there is none.
        now: Seconds since the epoch.
    """
    import email.utils  # noqa: PLC0415 - takes long to import, and is rarely needed

    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
