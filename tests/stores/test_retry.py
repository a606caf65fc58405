"""When to try again, in pure values; and readers that verify."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_core.digest import Digest
from mr_core.errors import CancelledError, IntegrityError, UnavailableError
from mr_core.events import Cancel
from mr_core.reader import VerifyingReader
from mr_core.retry import RetryPolicy, TransientFailure, call_with_retries, parse_retry_after

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 400, None),
        ("Fri, 99 Foo 2027 08:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.integers(1, 200), st.one_of(st.none(), st.floats(0, 1e9)), st.floats(0, 1))
def test_no_wait_is_longer_than_its_cap(failures: int, retry_after: float | None, draw: float) -> None:
    policy = RetryPolicy()
    wait = policy.delay(failures, retry_after, draw)
    cap = policy.longest_delay if retry_after is None else max(policy.longest_delay, policy.longest_retry_after)
    assert 0 < wait <= cap
    if retry_after is not None:
        assert wait >= min(retry_after, policy.longest_retry_after)


def failing(count: int, **fields: Any) -> tuple[Callable[[], int], list[int]]:
    calls: list[int] = []

    def attempt() -> int:
        calls.append(1)
        if len(calls) <= count:
            raise TransientFailure(UnavailableError("Cannot x: y"), **fields)
        return len(calls)

    return attempt, calls


def test_attempts_end_with_success_or_with_the_policy() -> None:
    policy = RetryPolicy(attempts=4, connect_attempts=2, first_delay=0.001)
    attempt, calls = failing(3)
    assert call_with_retries(attempt, policy, Cancel()) == 4
    cases: list[tuple[dict[str, bool], int]] = [({}, 4), ({"connecting": True}, 2), ({"final": True}, 1)]
    for fields, most in cases:
        attempt, calls = failing(99, **fields)
        with pytest.raises(UnavailableError):
            call_with_retries(attempt, policy, Cancel())
        assert len(calls) == most


def test_a_deadline_ends_the_attempts() -> None:
    attempt, calls = failing(99, retry_after=50.0)
    with pytest.raises(UnavailableError):
        call_with_retries(attempt, RetryPolicy(deadline=10), Cancel())
    assert len(calls) == 1


def test_nothing_is_tried_after_a_cancel() -> None:
    cancel = Cancel()
    cancel.set()
    attempt, calls = failing(0)
    with pytest.raises(CancelledError):
        call_with_retries(attempt, RetryPolicy(), cancel)
    assert calls == []


@given(st.binary(max_size=200), st.integers(1, 50), st.sampled_from(["sha256", "sha512"]))
def test_right_bytes_pass_in_pieces_of_any_size(content: bytes, piece: int, algorithm: str) -> None:
    digest = Digest(algorithm, hashlib.new(algorithm, content).hexdigest())
    reader = VerifyingReader(io.BytesIO(content), digest, len(content))
    assert b"".join(iter(lambda: reader.read(piece), b"")) == content
    reader.finish()
    assert reader.position == len(content)


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(1, 300))
def test_other_bytes_never_pass_whole(wanted: bytes, given_bytes: bytes, piece: int) -> None:
    if wanted == given_bytes:
        return
    reader = VerifyingReader(io.BytesIO(given_bytes), Digest.of(wanted), len(wanted))
    got = b""

    def read_all() -> None:
        nonlocal got
        while chunk := reader.read(piece):
            got += chunk
        reader.finish()

    with pytest.raises(IntegrityError):
        read_all()
    assert len(got) < max(1, len(wanted))


def test_stopping_early_is_noticed() -> None:
    reader = VerifyingReader(io.BytesIO(b"abc"), Digest.of(b"abc"), 3)
    reader.read(2)
    with pytest.raises(IntegrityError, match="only 2 of 3"):
        reader.finish()
