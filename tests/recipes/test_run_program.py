"""Programs that git, uv and steps of a recipe are: what they start ends with them, and nothing can hold up a cancel."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mr_bundler import process
from mr_bundler.process import Finished, run_program
from mr_core.errors import CancelledError, HostError
from mr_core.events import Cancel, Event, Notice, Output


def run(code: str, *arguments: object, **options: object) -> Finished:
    values: dict[str, object] = {"what": "python", "source": "p", "environ": dict(os.environ), **options}
    return run_program([sys.executable, "-c", code, *map(str, arguments)], **values)  # type: ignore[arg-type]  # any of them


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """Return the processes that wrote their number below ``tmp_path / "pids"``; end those that outlive the test."""
    (place := tmp_path / "pids").mkdir()

    def alive() -> list[int]:
        found = [psutil.Process(number) for path in place.iterdir() if psutil.pid_exists(number := int(path.name))]
        psutil.wait_procs(found, timeout=0.5)  # one that is being killed closes its output before it is gone
        return [each.pid for each in found if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    yield alive
    for number in alive():
        psutil.Process(number).kill()


# Starts one that sleeps; sys.argv: place of numbers, "setsid" or "", what both do afterwards in seconds
FAMILY = """
import os, pathlib, sys, time
place, leaves, child, parent = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
ready, told = os.pipe()
if os.fork() == 0:
    if leaves:
        os.setsid()
    (place / str(os.getpid())).touch()
    os.write(told, b"x")
    time.sleep(child)
    print("the child ends", flush=True)
    os._exit(0)
os.read(ready, 1)
(place / str(os.getpid())).touch()
print("started", flush=True)
time.sleep(parent)
"""


def test_lines_log_and_status() -> None:
    events: list[Event] = []
    code = "import os, sys; print('one', flush=True); os.write(2, b'a\\rb\\r\\nc \\xff'); sys.exit(7)"
    ended = run(code, report=events.append)
    assert ended == Finished(status=7, log=("one", "a", "b", "c \ufffd"))
    assert events == [Output(source="p", line=line) for line in ended.log]
    assert run("print('https://me:secret@example.org/x')").log == ("https://example.org/x",)
    assert run("print(*range(50), sep='\\n')", kept=3).log == ("47", "48", "49")
    assert max(map(len, run("print('x' * 3_000_000)").log)) < 200_000, "no line fills the memory"
    assert run("import os; os.kill(os.getpid(), 9)").status == -9


def test_stdout_apart(tmp_path: Path) -> None:
    code = "import os, sys; print('out', os.getcwd(), oct(os.umask(0))); print('err', file=sys.stderr)"
    ended = run(code, apart=True, cwd=tmp_path, umask=0o027)
    assert (ended.output, ended.log) == (f"out {tmp_path} 0o27\n", ("err",))
    large = run("import sys; sys.stderr.write('e' * 300_000); print('o' * 300_000)", apart=True)
    assert len(large.output) == 300_001


def test_input_is_empty_and_what_cannot_run() -> None:
    assert run("import sys; print(repr(sys.stdin.read()))").log == ("''",)
    with pytest.raises(HostError, match="Cannot run the tool: No such file") as caught:
        run_program(["/nothing/here"], what="the tool", source="x", environ={}, hint="install it")
    assert caught.value.hint == "install it"


@pytest.mark.parametrize("leaves", ["", "setsid"])
def test_cancel_waits_for_nobody(tmp_path: Path, children: Callable[[], list[int]], leaves: str) -> None:
    """The pipe stays open as long as a grandchild lives: it is killed, or, when it left the group, left alone."""
    cancel = Cancel()

    def report(event: Event) -> None:
        if event == Output(source="p", line="started"):
            threading.Timer(0.2, cancel.set).start()

    begin = time.monotonic()
    with pytest.raises(CancelledError):
        run(FAMILY, tmp_path / "pids", leaves, 60, 60, report=report, cancel=cancel)
    assert time.monotonic() - begin < 20
    assert len(children()) == (1 if leaves else 0)


def test_what_it_leaves_running_is_killed(tmp_path: Path, children: Callable[[], list[int]]) -> None:
    begin = time.monotonic()
    ended = run(FAMILY, tmp_path / "pids", "", 60, 0)
    assert (ended.status, ended.log) == (0, ("started",))
    assert time.monotonic() - begin < 20
    assert children() == []


def test_who_left_the_group_is_waited_for_and_that_can_be_cancelled(
    tmp_path: Path, children: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_NOTICE_SECONDS", 0.2)
    events: list[Event] = []
    assert run(FAMILY, tmp_path / "pids", "setsid", 1.5, 0, report=events.append).log == ("started", "the child ends")
    assert [event.code for event in events if isinstance(event, Notice)] == ["process-outlived"]
    cancel = Cancel()

    def report(event: Event) -> None:
        if isinstance(event, Notice):
            cancel.set()

    with pytest.raises(CancelledError):
        run(FAMILY, tmp_path / "pids", "setsid", 60, 0, report=report, cancel=cancel)
    assert len(children()) == 1


def test_one_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    code = "import os, sys, time; os.close(1); os.close(2); time.sleep(0.5); open(sys.argv[1], 'w'); os._exit(4)"
    assert run(code, tmp_path / "done").status == 4
    assert (tmp_path / "done").exists()


def test_a_limit_of_time(tmp_path: Path, children: Callable[[], list[int]]) -> None:
    ended = run(FAMILY, tmp_path / "pids", "", 60, 60, seconds=2)
    assert ended.status == -9
    assert ended.log[-1] == "stopped after 2 seconds"
    assert children() == []
