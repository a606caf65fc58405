"""Worker processes: same result as in this process, typed errors, and no process left behind, whatever happens."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from mr_core.errors import CancelledError, HostError, IntegrityError, UnsupportedError, UsageError
from mr_core.events import Cancel, Event, Notice
from mr_installer.extract import ExtractionPool, LayerJob, LayerResult, finish_tree
from mr_installer.python_path import find_python
from support import tars
from support.tars import archive, directory, file


def layers(place: Path, count: int = 5) -> list[LayerJob]:
    """Disjoint layers of different kinds."""
    jobs = []
    for number in range(count):
        top = f"backend/d{number}"
        members = [file(f"{top}/{index}", f"{number} {index}".encode() * 500) for index in range(60)]
        kind = ("zstd", "gzip", "none")[number % 3]
        jobs.append(tars.job(place, archive(directory(top), *members), kind, name=f"layer{number}"))
    return jobs


def workers_of(process: int | None = None) -> list[psutil.Process]:
    """Return the live extraction workers of a process; other tests' servers may be its children too."""
    return [child for child in psutil.Process(process).children() if is_alive(child) and is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "-S" in process.cmdline() and any("mr_installer" in part for part in process.cmdline())
    except psutil.Error:
        return False


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    place = tmp_path / "stage"
    place.mkdir()
    return place


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_same_result_for_any_number_of_workers(workers: int, stage: Path, tmp_path: Path) -> None:
    jobs = layers(tmp_path)
    notices: list[Event] = []
    with ExtractionPool(stage, workers, report=notices.append) as pool:
        assert len(workers_of()) == workers
        results = [future.result() for future in [pool.submit(job) for job in jobs]]
    assert not workers_of()
    assert not notices
    assert results == [tars.extract(job, tmp_path / "reference") for job in jobs]
    assert tars.tree(stage) == tars.tree(tmp_path / "reference")


@pytest.mark.parametrize("workers", [0, 2])
def test_progress_is_one_rising_total(workers: int, stage: Path, tmp_path: Path) -> None:
    big = []
    for number in range(3):
        members = [file(f"backend/{number}-{index}", bytes(500_000)) for index in range(20)]
        big.append(tars.job(tmp_path, archive(*members), name=f"layer{number}"))
    seen: list[int] = []
    with ExtractionPool(stage, workers, progress=seen.append) as pool:
        total = sum(future.result().bytes for future in [pool.submit(job) for job in big])
    assert total == 30_000_000
    assert seen[-1] == total
    assert all(before < after for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_are_ours_and_the_pool_goes_on(workers: int, stage: Path, tmp_path: Path) -> None:
    hostile = archive(file("backend/ok"), tars.header("../outside"))
    unknown = LayerJob.from_json({**tars.job(tmp_path, b"", name="u").to_json(), "compression": "bzip2"})
    missing = LayerJob.from_json({**tars.job(tmp_path, b"", name="m").to_json(), "path": str(tmp_path / "gone")})
    with ExtractionPool(stage, workers) as pool:
        futures = [pool.submit(job) for job in (tars.job(tmp_path, hostile), unknown, missing)]
        with pytest.raises(IntegrityError) as caught:
            futures[0].result()
        with pytest.raises(UnsupportedError, match="bzip2"):
            futures[1].result()
        with pytest.raises(HostError, match="gone"):
            futures[2].result()
        children = workers_of()
        assert pool.submit(tars.job(tmp_path, tars.sample(), name="good")).result().bytes
        assert workers_of() == children, "an error is an answer; the worker stays"
    with pytest.raises(IntegrityError) as here:
        tars.extract(tars.job(tmp_path, hostile), tmp_path / "local")
    local, error = here.value, caught.value
    assert (error.message, error.hint, error.fields) == (local.message, local.hint, local.fields)
    assert (error.fields["rule"], error.fields["member"], error.fields["offset"]) == ("path-parent", "../outside", 1024)


def test_a_killed_worker_is_an_error_and_is_replaced(stage: Path, tmp_path: Path) -> None:
    first, second, third = layers(tmp_path, 3)
    with ExtractionPool(stage, 1) as pool:
        (worker,) = workers_of()
        pool.submit(third).result()
        worker.suspend()
        future = pool.submit(first)
        time.sleep(0.1)
        worker.kill()
        with pytest.raises(HostError, match="killed by signal 9") as caught:
            future.result(timeout=5)
        assert caught.value.fields["layer"] == str(first.digest)
        assert pool.submit(second).result(timeout=5).bytes
        assert workers_of() != [worker]
    assert not workers_of()


def test_a_worker_killed_while_idle_is_replaced_silently(stage: Path, tmp_path: Path) -> None:
    with ExtractionPool(stage, 1) as pool:
        (worker,) = workers_of()
        pool.submit(layers(tmp_path, 1)[0]).result()
        worker.kill()
        worker.wait(5)
        assert pool.submit(tars.job(tmp_path, tars.sample(), name="next")).result(timeout=5).bytes


@pytest.mark.parametrize("ready", [True, False], ids=["busy", "starting"])
def test_cancel_stops_a_worker_that_does_not_answer(ready: bool, stage: Path, tmp_path: Path) -> None:
    cancel = Cancel()
    first, second, third = layers(tmp_path, 3)
    with ExtractionPool(stage, 1, cancel=cancel) as pool:
        if ready:
            pool.submit(third).result()
        (worker,) = workers_of()
        worker.suspend()
        futures = [pool.submit(first), pool.submit(second)]
        time.sleep(0.05)
        cancel.set()
        started = time.monotonic()
        for future in futures:
            with pytest.raises(CancelledError):
                future.result(timeout=5)
        assert time.monotonic() - started < 1
    assert not workers_of()


def test_cancel_stops_extraction_in_this_process(stage: Path, tmp_path: Path) -> None:
    cancel = Cancel()
    tar = archive(*(file(f"backend/{number}", bytes(600_000)) for number in range(10)))

    def stop(_done: int) -> None:
        cancel.set()

    with ExtractionPool(stage, 0, cancel=cancel, progress=stop) as pool, pytest.raises(CancelledError):
        pool.submit(tars.job(tmp_path, tar)).result()
    assert len(tars.tree(stage)) < 10


def test_an_error_in_the_block_ends_everything_at_once(stage: Path, tmp_path: Path) -> None:
    pool = ExtractionPool(stage, 2)
    futures: list[Future[LayerResult]] = []

    def fail() -> None:
        with pool:
            for worker in workers_of():
                worker.suspend()
            futures.extend(pool.submit(job) for job in layers(tmp_path))
            raise KeyError

    started = time.monotonic()
    with pytest.raises(KeyError):
        fail()
    assert time.monotonic() - started < 2
    assert all(future.done() for future in futures)
    assert not workers_of()
    with pytest.raises(UsageError):
        pool.submit(layers(tmp_path, 1)[0])


def test_a_progress_callback_that_raises_ends_the_worker(stage: Path, tmp_path: Path) -> None:
    def broken(_done: int) -> None:
        raise ZeroDivisionError

    with ExtractionPool(stage, 1, progress=broken) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.submit(layers(tmp_path, 1)[0]).result()
        assert not workers_of(), "it may be in the middle of a layer"


def in_process_notice(events: list[Event]) -> str:
    (notice,) = events
    assert isinstance(notice, Notice)
    assert notice.code == "extraction-in-process"
    return notice.message


@pytest.mark.parametrize(
    ("program", "why"), [("missing", "does not start"), ("false", "ended at once"), ("liar", "no module")]
)
def test_without_workers_layers_are_extracted_here(program: str, why: str, stage: Path, tmp_path: Path) -> None:
    python = tmp_path / program
    if program == "false":
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
    if program == "liar":
        python.write_text("#!/bin/sh\necho 'no module' >&2\nexit 1\n")
        python.chmod(0o755)
    events: list[Event] = []
    with ExtractionPool(stage, 2, report=events.append, python=python) as pool:
        results = [future.result() for future in [pool.submit(job) for job in layers(tmp_path)]]
    assert why in in_process_notice(events)
    assert len(finish_tree(stage, results)) == 300


def test_a_host_program_is_never_started_again(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = tmp_path / "model-host"
    host.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    host.chmod(0o755)
    for value in (str(host), "", None):
        monkeypatch.setattr(sys, "executable", value)
        assert find_python() is None
    events: list[Event] = []
    with ExtractionPool(stage, 2, report=events.append) as pool:
        assert pool.submit(layers(tmp_path, 1)[0]).result().bytes
    assert "Python interpreter" in in_process_notice(events)
    assert not (tmp_path / "started").exists()


def test_workers_are_small(stage: Path, tmp_path: Path) -> None:
    tar = archive(*(file(f"backend/{number}", os.urandom(4 << 20)) for number in range(10)))
    with ExtractionPool(stage, 1) as pool:
        pool.submit(tars.job(tmp_path, tar, "zstd")).result()
        (worker,) = workers_of()
        assert worker.memory_info().rss < 60 << 20, "does it import more than it needs?"


def run_host(place: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that embeds the library, without a `__main__` guard, from another directory."""
    script = place / "host.py"
    head = """
        import json, os, sys, time
        from pathlib import Path
        from mr_installer.extract import ExtractionPool, LayerJob
        print("host", flush=True)
        stage, jobs = Path(sys.argv[1]), [LayerJob.from_json(job) for job in json.loads(sys.argv[2])]
    """
    script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    jobs = json.dumps([job.to_json() for job in layers(place)])
    command = [sys.executable, str(script), str(place / "stage"), jobs, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")


def test_main_module_of_the_host_is_not_run_again(stage: Path, tmp_path: Path) -> None:
    body = """
        with ExtractionPool(stage) as pool:
            print(sum(future.result().bytes > 0 for future in [pool.submit(job) for job in jobs]))
    """
    with run_host(tmp_path, body) as host:
        assert host.communicate(timeout=20)[0] == "host\n5\n"
        assert host.returncode == 0
    assert len(tars.tree(stage)) == 305


@pytest.mark.parametrize("inherited", [False, True], ids=["pipes closed", "pipes inherited by a fork"])
def test_workers_end_when_the_host_is_killed(inherited: bool, stage: Path, tmp_path: Path) -> None:
    body = """
        with ExtractionPool(stage) as pool:
            pool.submit(jobs[0]).result()
            if sys.argv[3] == "True" and os.fork() == 0:
                os.close(1)
                time.sleep(30)
                os._exit(0)
            print("started", flush=True)
            time.sleep(30)
    """
    with run_host(tmp_path, body, str(inherited)) as host:
        assert host.stdout is not None
        assert [host.stdout.readline(), host.stdout.readline()] == ["host\n", "started\n"]
        children = workers_of(host.pid)
        workers = [child for child in children if "-I" in child.cmdline()]
        assert len(workers) == 2
        host.kill()
        try:
            assert wait_for(lambda: not any(is_alive(worker) for worker in workers))
        finally:
            for child in children:
                if is_alive(child):
                    child.kill()


def test_ctrl_c_is_for_the_host_alone(stage: Path, tmp_path: Path) -> None:
    with ExtractionPool(stage, 1) as pool:
        (worker,) = workers_of()
        pool.submit(layers(tmp_path, 1)[0]).result()
        worker.send_signal(signal.SIGINT)
        assert pool.submit(tars.job(tmp_path, tars.sample(), name="next")).result().bytes
        assert workers_of() == [worker]
