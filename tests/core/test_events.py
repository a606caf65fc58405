"""Reporters are throttled, never lose an end, and cannot break what they watch."""

from __future__ import annotations

import io
import json

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
