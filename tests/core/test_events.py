"""Reporters are throttled, never lose an end, and cannot break what they watch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time

import pytest

from mr_core.cli.jsonl import JsonLines
from mr_core.cli.lines import PlainLines
from mr_core.errors import CancelledError, IntegrityError
from mr_core.events import (
    BlobFinished,
    BlobProgress,
    Cancel,
    Event,
    Notice,
    Outcome,
    Phase,
    PhaseFinished,
    SafeReporter,
    Unit,
)


def test_progress_is_throttled_and_ends_are_not() -> None:
    seen: list[Event] = []
    report = SafeReporter(seen.append)
    for offset in range(0, 1000, 10):
        report(BlobProgress(digest="d", offset=offset, total=1000))
    report(BlobProgress(digest="d", offset=1000, total=1000))
    report(BlobFinished(digest="d", total=1000))
    offsets = [event.offset for event in seen if isinstance(event, BlobProgress)]
    assert len(offsets) < 20
    assert offsets[-1] == 1000
    assert isinstance(seen[-1], BlobFinished)


def test_a_reporter_that_raises_is_detached_after_one_notice() -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        seen.append(event)
        raise RuntimeError("sink is broken")

    report = SafeReporter(broken)
    report(Notice(code="a", message="a"))
    report(Notice(code="b", message="b"))
    assert [event.code for event in seen if isinstance(event, Notice)] == ["a", "reporter-detached"]


def test_a_phase_reports_its_failure() -> None:
    seen: list[Event] = []
    with pytest.raises(IntegrityError), Phase(seen.append, "verify", total=10, unit=Unit.BYTES) as phase:
        phase.progress(20)
        raise IntegrityError("Cannot go on")
    last = seen[-1]
    assert isinstance(last, PhaseFinished)
    assert last.outcome is Outcome.FAILED
    assert getattr(seen[1], "done") == 10  # noqa: B009 - a union member


def test_cancel_interrupts_a_sleep() -> None:
    cancel = Cancel()
    cancel.sleep(0)
    cancel.set()
    with pytest.raises(CancelledError):
        cancel.sleep(60)


SET_AT_EVERY_LINE = """
import sys
from mr_core.errors import CancelledError
from mr_core.events import Cancel

def sleep(line):
    token, left = Cancel(), line
    def trace(frame, event, _):
        nonlocal left
        if event == "line" and frame.f_code is not sleep.__code__:
            left -= 1
            if left == 0:
                token.set()  # as a signal handler does, between any two steps of the wait
        return trace
    sys.settrace(trace)
    try:
        token.sleep(0.001)
        stopped = False
    except CancelledError:
        stopped = True
    sys.settrace(None)
    return left, stopped, token.is_set

for line in range(1, 100):
    left, stopped, is_set = sleep(line)
    assert is_set == (left <= 0)
    if left > 0:
        break
    if line == 1:
        assert stopped
print(line)
"""


def test_a_signal_handler_may_set_the_token_at_any_point_of_a_sleep() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SET_AT_EVERY_LINE], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) > 3


def test_a_set_token_wakes_everybody_who_sleeps() -> None:
    cancel = Cancel()
    stopped: list[float] = []

    def sleeper() -> None:
        with pytest.raises(CancelledError):
            cancel.sleep(60)
        stopped.append(time.monotonic())

    threads = [threading.Thread(target=sleeper, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    cancel.set()
    for thread in threads:
        thread.join(20)
    assert len(stopped) == 4


def test_a_reporter_may_cause_another_event() -> None:
    seen: list[Event] = []

    def sink(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Notice) and event.code == "outer":
            report(Notice(code="inner", message="from within"))

    report = SafeReporter(sink)
    thread = threading.Thread(target=lambda: report(Notice(code="outer", message="")), daemon=True)
    thread.start()
    thread.join(20)
    assert [event.code for event in seen if isinstance(event, Notice)] == ["outer", "inner"]


def test_nothing_follows_the_outcome_and_fields_replace_nothing_of_ours() -> None:
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines.result({"v": 7, "seq": 7, "event": "mine", "path": "a"})
    lines(Notice(code="late", message="from a thread"))
    lines.error(IntegrityError("Cannot read it"))
    lines.result({})
    (only,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert only == {"v": 1, "seq": 1, "event": "result", "path": "a"}


def test_json_lines_are_numbered_and_end_with_the_outcome() -> None:
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines(Notice(code="x", message="line\nbreak"))
    lines(PhaseFinished(phase="fetch", seconds=0.5, outcome=Outcome.RESUMED))
    lines.error(IntegrityError("Cannot read it", hint="do not", path="a"))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["seq"] for line in found] == [1, 2, 3]
    assert [line["event"] for line in found] == ["notice", "phase-finished", "error"]
    assert found[1]["outcome"] == "resumed"
    assert found[2]["path"] == "a"
    assert found[2]["code"] == "integrity"
    assert found[2]["exit_code"] == 6
    assert found[2]["message"] == "Cannot read it"
    assert all(line["v"] == 1 for line in found)


def test_plain_lines_write_one_line_for_a_phase() -> None:
    stream = io.StringIO()
    with Phase(PlainLines(stream), "extract", "mlx-lm", total=1500, unit=Unit.BYTES) as phase:
        phase.progress(700)
    assert stream.getvalue().startswith("extract     mlx-lm 1.5 kB (")
    assert stream.getvalue().count("\n") == 1
