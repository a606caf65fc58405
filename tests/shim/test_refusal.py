"""Lines that may be the shim's refusal: kept back, then dropped or delivered in order."""

from __future__ import annotations

import pytest

from mr_core.errors import NotFoundError
from mr_core.events import Event, Notice, Output
from mr_installer import refusal
from mr_installer.refusal import HeldRefusal, read_refusal

ERROR, HINT = "error: Cannot find model `m`: no such file", "hint: check the path"


def feed(held: HeldRefusal, *lines: str) -> None:
    for line in lines:
        held(Output(source="server", line=line))


def lines_of(events: list[Event]) -> list[str]:
    return [event.line for event in events if isinstance(event, Output)]


def test_a_refusal_is_dropped_and_what_came_before_is_not() -> None:
    events: list[Event] = []
    held = HeldRefusal(events.append)
    feed(held, "hint: not ours", "warning: a library", ERROR, HINT)
    held.release_old()
    held.drop()
    held.release()
    assert lines_of(events) == ["hint: not ours", "warning: a library"]


def test_other_output_is_never_delayed_and_keeps_its_order() -> None:
    events: list[Event] = []
    held = HeldRefusal(events.append)
    for count, line in enumerate(["starts", "error: something else", "hint: x"], start=1):
        feed(held, line)
        assert len(events) == count
    feed(held, ERROR)
    held(Notice(code="log-failed", message="full"))
    assert lines_of(events)[-1] == "hint: x"
    feed(held, HINT, HINT)
    assert lines_of(events)[-3:] == [ERROR, HINT, HINT]
    feed(held, ERROR)
    held.release()
    feed(held, ERROR)
    assert lines_of(events)[-2:] == [ERROR, ERROR]


def test_a_line_that_stays_the_last_is_delivered_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    held = HeldRefusal(events.append)
    feed(held, ERROR)
    monkeypatch.setattr(refusal, "_HOLD_SECONDS", 0)
    held.release_old()
    assert lines_of(events) == [ERROR]


def test_only_the_last_words_with_a_status_of_the_shim_are_a_refusal() -> None:
    found = read_refusal(4, ["warning: x", ERROR, HINT, ""])
    assert isinstance(found, NotFoundError)
    assert (found.message, found.hint) == (ERROR.removeprefix("error: "), HINT.removeprefix("hint: "))
    assert read_refusal(1, [ERROR]) is None
    assert read_refusal(4, [ERROR, "more"]) is None
    assert read_refusal(4, [HINT]) is None
