"""The server lifecycle: start, health, failure, stop, and what happens when the supervisor dies."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from mr_core.errors import (
    BundleError,
    CancelledError,
    HostError,
    InvalidInputError,
    NotFoundError,
    ProbeError,
    UnsupportedError,
    UsageError,
)
from mr_core.events import Cancel, Event, Output, PhaseFinished, Reporter, discard
from mr_installer import supervision
from mr_installer.health import is_healthy, server_url
from mr_installer.server import Server, start_server
from mr_installer.server_guard import Child
from mr_installer.supervision import Exited, Signalled, Stopped
from mr_shim.spec import LaunchSpec
from support.fake_release import LAUNCH
from support.launching import free_port, get, is_gone
from support.shim_place import Place


def start(
    place: Place,
    *extra: str,
    port: int = 0,
    timeout: float | None = None,
    log: Path | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
    names: Sequence[str] = (),
    host: str = "127.0.0.1",
    launcher: Path | None = None,
    spec: LaunchSpec = LAUNCH,
    **environment: str,
) -> Server:
    return start_server(
        launcher or place.launcher,
        place.model,
        spec=spec,
        host=host,
        port=port,
        extra=extra,
        names=names,
        log=log,
        timeout=timeout,
        environment={**place.environment, **environment},
        report=report,
        cancel=cancel,
    )


def test_a_healthy_start_and_an_orderly_end(place: Place, tmp_path: Path) -> None:
    events: list[Event] = []
    log = tmp_path / "server.log"
    with start(place, "--say", "ü", names=["a b"], log=log, report=events.append) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        facts = get(server.port, "/facts")
        assert facts["pid"] == server.pid
        assert facts["argv"][-4:] == ["--names", "a b", "--say", "ü"]
        assert server.reason is None
        assert server.wait(0.01) is None
    assert server.reason == Stopped(forced=False)
    assert server.stop() == Stopped(forced=False)
    assert is_gone(server.pid)
    lines = [event.line for event in events if isinstance(event, Output)]
    assert lines[0] == "fake backend starts ü"
    assert "request /facts" in lines
    assert log.read_text().splitlines() == lines
    assert log.stat().st_mode & 0o777 == 0o600
    (phase,) = [event for event in events if isinstance(event, PhaseFinished)]
    assert phase.detail == {"port": server.port, "pid": server.pid}


def test_an_ipv6_address(place: Place) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with start(place, host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert is_healthy("::1", server.port, "/health")


def test_health_of_what_http_cannot_carry_is_bad(place: Place) -> None:
    with start(place) as server:
        assert not is_healthy("127.0.0.1", server.port, "/é")
        assert not is_healthy("127.0.0.1", server.port, "/a b")
        assert is_healthy("127.0.0.1", server.port, "/health")


def test_an_address_for_clients() -> None:
    assert server_url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert server_url("::", 1) == "http://[::1]:1"
    assert server_url("box.local", 1) == "http://box.local:1"


def test_a_crash_at_the_start_carries_the_log(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with pytest.raises(ProbeError) as caught:
        start(place, "--crash", "3", log=log)
    error = caught.value
    first, *lines = error.message.splitlines()
    assert first.startswith("Cannot start the server: it ended with status 3 after ")
    assert lines[-1] == "  line 59 before the crash"
    assert len(lines) == 20
    tail = error.fields["tail"]
    assert isinstance(tail, list)
    assert tail[-1] == "line 59 before the crash"
    assert error.fields["log"] == str(log)
    assert str(log) in error.hint
    assert "line 0 before the crash" in log.read_text()


def test_a_signal_at_the_start_is_named(place: Place) -> None:
    with pytest.raises(ProbeError, match="it was ended by SIGABRT"):
        start(place, "--abort")


def test_a_start_that_takes_too_long_fails_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    child = tmp_path / "child"
    begin = time.monotonic()
    with pytest.raises(ProbeError, match=r"`/health` did not answer within 0.6 s\n  fake backend starts"):
        start(place, "--hang", "--child", str(child), timeout=0.6)
    assert time.monotonic() - begin < 5
    assert is_gone(int(child.read_text()))


@pytest.mark.parametrize(
    ("extra", "change", "kind", "text"),
    [
        ((), {"model": "gone"}, NotFoundError, "Cannot find model `"),
        ((), {"bundle": "{"}, InvalidInputError, "Cannot read `"),
        ((), {"bundle": '{"launch": {"contract": 9}}'}, UnsupportedError, "launch contract 9 is newer"),
        (("a\nb",), {}, UsageError, "NUL or newline"),
        (("a\x00b",), {}, UsageError, "NUL"),
        ((), {"lease": "locked"}, HostError, "it is being removed"),
    ],
)
def test_what_the_shim_refuses_is_an_error_of_the_same_kind(
    place: Place, extra: tuple[str, ...], change: dict[str, str], kind: type[BundleError], text: str
) -> None:
    with (place.release / ".mr/lease").open("rb") as lease:
        match change:
            case {"model": _}:
                place.model.rmdir()
            case {"bundle": content}:
                (place.release / ".mr/bundle.json").write_text(content)
            case {"lease": _}:
                fcntl.flock(lease, fcntl.LOCK_EX)
        events: list[Event] = []
        with pytest.raises(kind) as caught:
            start(place, *extra, report=events.append)
    assert text in caught.value.message
    assert "\n" not in caught.value.message
    assert not [event for event in events if isinstance(event, Output)], "it is shown once, as the error"


def test_a_status_of_the_backend_is_not_mistaken_for_the_shims(place: Place) -> None:
    with pytest.raises(ProbeError, match="it ended with status 2"):
        start(place, "--no-such-option")


def test_a_missing_launcher(place: Place) -> None:
    with pytest.raises(NotFoundError, match=r"Cannot start `.*nothing`: no such file"):
        start(place, launcher=place.backend / "nothing")
    with pytest.raises(HostError, match="permission denied"):
        start(place, launcher=place.release / ".mr/bundle.json")


def test_a_log_that_cannot_be_opened(place: Place, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="Cannot open log"):
        start(place, log=tmp_path / "no" / "log")
    with pytest.raises(UsageError, match="Cannot open log"):
        start(place, log=tmp_path / "a\x00b")


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [("gone", NotFoundError, "no such file"), ("x" * 300, HostError, "too long"), ("a\x00b", UsageError, "null byte")],
)
def test_a_model_that_cannot_be_looked_at(place: Place, name: str, kind: type[BundleError], text: str) -> None:
    with pytest.raises(kind, match=f"(?i)Cannot (find|read) model .*{text}"):
        start_server(place.launcher, place.model / name, spec=LAUNCH)


@pytest.mark.parametrize(("name", "value"), [("A=B", "x"), ("A\x00B", "x"), ("A", "x\x00"), ("A", "\ud800")])
def test_an_environment_that_cannot_be_passed_on(place: Place, name: str, value: str) -> None:
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(3):
        with pytest.raises(UsageError, match="a variable cannot be passed to it") as caught:
            start(place, **{name: value})
        assert value not in caught.value.message.split("(")[0]
    assert process.num_fds() == before


@pytest.mark.parametrize("executable", [None, "", "model-host"])
def test_a_host_program_is_not_started_as_the_guard(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    program = tmp_path / "model-host"
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program) if executable else executable)
    with pytest.raises(HostError, match="no Python interpreter runs this program") as caught:
        start(place)
    assert "bin/mr-serve" in caught.value.hint
    assert not (tmp_path / "started").exists()


def fake_python(place: Path, body: str) -> str:
    """Write a program that passes for the interpreter which runs the guard."""
    python = place / "python-slow"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return str(python)


def test_a_guard_that_does_not_come_up(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told to go by its control descriptor, its sixth argument, and not killed."""
    monkeypatch.setattr(supervision, "_START_SECONDS", 0.3)
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, f"head -c 1 /dev/fd/$6; touch '{tmp_path}/told'"))
    with pytest.raises(HostError, match=r"it did not begin to run within 0.3 s"):
        start(place)
    deadline = time.monotonic() + 10
    while not (tmp_path / "told").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_guard_that_ends_at_once(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, "echo broken; exit 1"))
    with pytest.raises(HostError, match="the process that guards it ended at once") as caught:
        start(place)
    assert caught.value.fields["tail"] == ("broken",)


def test_a_child_is_reaped_only_when_asked() -> None:
    child = Child(os.posix_spawn(sys.executable, [sys.executable, "-c", "raise SystemExit(7)"], os.environ))
    while not child.has_ended():
        time.sleep(0.01)
    if hasattr(os, "waitid"):
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert child.reap() == 7
    assert not psutil.pid_exists(child.pid)


def test_a_full_disk_does_not_stop_the_server(place: Place) -> None:
    events: list[Event] = []
    with start(place, log=Path("/dev/full"), report=events.append) as server:
        assert get(server.port, "/facts")["pid"] == server.pid
    assert [event for event in events if getattr(event, "code", "") == "log-failed"]


def test_a_port_in_use_is_refused(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(HostError, match=f"Cannot listen on `127.0.0.1` port {port}: address already in use"):
            start(place, port=port)


def test_a_port_that_was_asked_for_is_used(place: Place) -> None:
    port = free_port()
    with start(place, port=port) as server:
        assert server.port == port
        assert get(port, "/facts")["argv"][-1] == str(port)


def test_a_backend_that_cannot_share_a_held_port_gets_another_try(place: Place) -> None:
    with start(place, "--no-reuse") as server:
        assert get(server.port, "/facts")["pid"] == server.pid


def test_servers_started_together_get_ports_of_their_own(place: Place) -> None:
    servers: list[Server] = []
    threads = [threading.Thread(target=lambda: servers.append(start(place))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len({server.port for server in servers}) == 4
        assert {get(server.port, "/facts")["pid"] for server in servers} == {server.pid for server in servers}
    finally:
        for server in servers:
            server.stop()


def test_a_server_that_ignores_its_signal_is_killed_after_the_grace(place: Place, tmp_path: Path) -> None:
    child = tmp_path / "child"
    server = start(place, "--ignore-term", "--child", str(child))
    begin = time.monotonic()
    assert server.stop() == Stopped(forced=True)
    assert 0.9 < time.monotonic() - begin < 5
    assert is_gone(server.pid)
    assert is_gone(int(child.read_text()))


def test_an_end_of_its_own_is_told_and_takes_the_group_along(place: Place, tmp_path: Path) -> None:
    child = tmp_path / "child"
    with start(place, "--end-after", "0.5", "--child", str(child)) as server:
        assert server.wait(10) == Exited(status=7)
        assert is_gone(int(child.read_text()))
    assert server.reason == Exited(status=7)


def test_a_signal_from_elsewhere_is_told(place: Place) -> None:
    with start(place) as server:
        psutil.Process(server.pid).send_signal(signal.SIGKILL)
        assert server.wait(10) == Signalled(signal=signal.SIGKILL)


def test_a_start_can_be_cancelled(place: Place) -> None:
    cancel = Cancel()
    pids: list[int] = []
    others = set(psutil.Process().children(recursive=True))  # a registry that other tests of this process share

    def watch(event: Event) -> None:
        if isinstance(event, Output):
            pids.extend(child.pid for child in psutil.Process().children(recursive=True) if child not in others)
            cancel.set()

    with pytest.raises(CancelledError):
        start(place, "--hang", report=watch, cancel=cancel)
    assert pids
    assert all(is_gone(pid) for pid in pids)


def test_waiting_can_be_cancelled_and_the_server_goes_on(place: Place) -> None:
    cancel = Cancel()
    with start(place) as server:
        threading.Timer(0.1, cancel.set).start()
        with pytest.raises(CancelledError):
            server.wait(cancel=cancel)
        assert get(server.port, "/facts")["pid"] == server.pid


def test_a_reporter_that_raises_does_not_block_the_server(place: Place) -> None:
    def broken(_: Event) -> None:
        raise RuntimeError("broken")

    with start(place, report=broken) as server:
        for _ in range(3):
            get(server.port, "/facts")


SUPERVISOR = """
    import json, os, sys, time
    from pathlib import Path
    from mr_installer.server import start_server
    from mr_shim.spec import LaunchSpec
    launcher, model, child, spec, environment, mode = sys.argv[1:]
    try:
        with start_server(Path(launcher), Path(model), spec=LaunchSpec.from_json(json.loads(spec)),
                          extra=["--child", child, "--ignore-term"], environment=json.loads(environment)) as server:
            if mode != "plain" and os.fork() == 0:
                os.close(1)
                time.sleep(30)
                os._exit(0)
            print(server.pid, flush=True)
            if mode == "fork and stop":
                begin = time.monotonic()
                server.stop()
                print(time.monotonic() - begin, flush=True)
            server.wait()
    except KeyboardInterrupt:
        sys.exit(130)
"""


def supervisor_command(place: Place, child: Path, mode: str) -> list[str]:
    arguments = [str(place.launcher), str(place.model), str(child), json.dumps(LAUNCH.to_json())]
    return [sys.executable, "-c", textwrap.dedent(SUPERVISOR), *arguments, json.dumps(place.environment), mode]


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (signal.SIGKILL, "plain"),
        (signal.SIGKILL, "fork"),  # the host's child inherits our side of the control pipe, and lives on
        (signal.SIGTERM, "plain"),
        (signal.SIGINT, "plain"),
        (signal.SIGHUP, "plain"),
    ],
)
def test_a_server_never_outlives_its_supervisor(
    place: Place, tmp_path: Path, number: signal.Signals, mode: str
) -> None:
    """Its stop signal is ignored and it has a child: both are gone after the grace, however the supervisor ended."""
    child = tmp_path / "child"
    command = supervisor_command(place, child, mode)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        guard = psutil.Process(pid).parent()
        assert guard is not None
        forked = [other for other in psutil.Process(supervisor.pid).children() if other != guard]
        assert len(forked) == (mode == "fork")
        supervisor.send_signal(number)
        supervisor.wait(10)
    try:
        assert supervisor.returncode == (130 if number == signal.SIGINT else -number)
        assert is_gone(pid)
        assert is_gone(int(child.read_text()))
        assert is_gone(guard.pid)
    finally:
        for other in forked:
            other.kill()


def test_a_server_stops_although_a_forked_child_holds_the_pipe(place: Place, tmp_path: Path) -> None:
    command = supervisor_command(place, tmp_path / "child", "fork and stop")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        forked = [
            other for other in psutil.Process(supervisor.pid).children() if other.pid != psutil.Process(pid).ppid()
        ]
        try:
            assert float(supervisor.stdout.readline()) < 5
            assert is_gone(pid)
        finally:
            for other in forked:
                other.kill()


def test_a_killed_guard_takes_the_server_along(place: Place, tmp_path: Path) -> None:
    child = tmp_path / "child"
    with start(place, "--child", str(child)) as server:
        guard = psutil.Process(server.pid).parent()
        assert guard is not None
        guard.kill()
        assert server.wait(10) == Signalled(signal=signal.SIGKILL)
    assert is_gone(server.pid)
    assert is_gone(int(child.read_text()))


def test_secrets_go_by_environment_and_show_up_nowhere(place: Place, tmp_path: Path) -> None:
    events: list[Event] = []
    log = tmp_path / "log"
    with start(place, log=log, report=events.append, VLLM_API_KEY="s3cret-canary") as server:
        process = psutil.Process(server.pid)
        assert process.environ()["VLLM_API_KEY"] == "s3cret-canary"
        family = [process, *process.parents()]
        assert not [line for member in family for line in member.cmdline() if "s3cret-canary" in line]
    assert "s3cret-canary" not in log.read_text() + repr(events)


def test_nothing_is_left_open(place: Place) -> None:
    process = psutil.Process()
    with start(place):
        pass
    before = process.num_fds(), threading.active_count()
    for _ in range(3):
        with start(place):
            pass
    with pytest.raises(ProbeError):
        start(place, "--crash", "1")
    assert (process.num_fds(), threading.active_count()) == before
