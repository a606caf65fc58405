"""Locks hold between processes and survive a replaced lock file."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_core.errors import CancelledError, HostError
from mr_core.events import Cancel, Event, Notice
from mr_core.flock import try_lock, wait_lock

HOLD = (
    "import sys; from pathlib import Path; from mr_core.flock import try_lock;"
    "lock = try_lock(Path(sys.argv[1]), shared=sys.argv[2] == 'shared'); print(lock is not None, flush=True);"
    "sys.stdin.read()"
)


def hold(path: Path, kind: str = "exclusive") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_exclusive_excludes_another_process_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = hold(path)
    assert try_lock(path) is None
    assert try_lock(path, shared=True) is None
    end(process)
    lock = try_lock(path)
    assert lock is not None
    lock.release()
    lock.release()


def test_shared_holders_exclude_the_exclusive_one_only(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = hold(path, "shared")
    shared = try_lock(path, shared=True)
    assert shared is not None
    assert try_lock(path) is None
    shared.release()
    end(process)


def test_waiting_ends_with_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = hold(path)
    threading.Timer(0.2, process.kill).start()
    begin = time.monotonic()
    with wait_lock(path, what="it", timeout=30):
        assert time.monotonic() - begin < 25
    process.communicate()


def test_waiting_has_an_end_and_names_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = hold(path)
    with pytest.raises(HostError, match="another process") as caught:
        wait_lock(path, what="`mlx-lm`", timeout=0.1)
    assert caught.value.fields["lock"] == str(path)
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        wait_lock(path, what="`mlx-lm`", cancel=cancel)
    end(process)


def test_a_lock_on_a_file_that_was_replaced_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = try_lock(path)
    assert first is not None
    path.unlink()
    second = try_lock(path)  # another inode: a fresh lock, and the one everybody else sees
    assert second is not None
    assert try_lock(path) is None
    first.release()
    assert try_lock(path) is None
    second.release()


def test_a_missing_file_stays_missing_when_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        try_lock(tmp_path / "lock", create=False)
    assert not (tmp_path / "lock").exists()


def opened(path: Path) -> int:
    """Return how the one descriptor of this process on ``path`` was opened."""
    found = [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
    (descriptor,) = [one for one in found if os.readlink(f"/proc/self/fd/{one}") == str(path)]
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_exclusive_lock_is_taken_on_a_writable_descriptor(tmp_path: Path) -> None:
    path = tmp_path.resolve() / "lock"
    for create, shared, mode in ((True, False, os.O_RDWR), (False, False, os.O_RDWR), (False, True, os.O_RDONLY)):
        lock = try_lock(path, shared=shared, create=create)
        assert lock is not None
        with lock:
            assert opened(path) == mode, "NFS takes an exclusive lock on a writable descriptor only"


READ_ONLY = """
import os, sys
from pathlib import Path
from mr_core.errors import HostError
from mr_core.flock import try_lock

if os.getuid() == 0:
    os.setuid(65534)
path = Path(sys.argv[1])
for shared, create in ((True, True), (True, False), (False, False)):
    with try_lock(path, shared=shared, create=create):
        print("held")
for place, shared in ((path, False), (path.with_name("absent"), True)):
    try:
        try_lock(place, shared=shared)
    except HostError as error:
        print(error.fields["errno"])
"""


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A directory that another user can read and not write, with a lock file."""
    place = Path(tempfile.mkdtemp())
    (place / "lock").touch()
    (place / "lock").chmod(0o444)
    place.chmod(0o555)
    yield place
    place.chmod(0o755)
    shutil.rmtree(place)


def test_a_file_that_may_only_be_read_can_be_locked(read_only: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(read_only / "lock")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["held", "held", "held", "EACCES", "EACCES"]


FORKED = """
import os, signal, sys
from pathlib import Path
from mr_core.flock import try_lock

path = Path(sys.argv[1])

def forked(step):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        step()
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    return child

def is_free():
    lock = try_lock(path)
    if lock is not None:
        lock.release()
    return lock is not None

lock = try_lock(path)
children = [forked(lock.release), forked(lambda: None)]
print("taken" if not is_free() else "given back by a child")
lock.release()
print("free" if is_free() else "kept by a child")
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


def test_a_forked_child_neither_keeps_nor_gives_back_a_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == ["taken", "free"]


def test_a_long_wait_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = hold(path)
    events: list[Event] = []
    with pytest.raises(HostError):
        wait_lock(path, what="`mlx-lm`", timeout=0.3, report=events.append)
    assert events == []
    with pytest.raises(HostError):
        wait_lock(path, what="`mlx-lm`", timeout=1.3, report=events.append)
    text = "waiting for another process that works on `mlx-lm`"
    assert events == [Notice(code="waiting-for-lock", message=text)]
    end(process)


def test_a_directory_that_goes_away_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "lock"
    path.parent.mkdir()
    process = hold(path)
    threading.Timer(0.2, shutil.rmtree, [path.parent]).start()
    with pytest.raises(HostError, match="directory does not exist, or was removed"):
        wait_lock(path, what="it", timeout=30)
    end(process)


def test_a_pipe_in_the_place_of_a_lock_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    lock = try_lock(tmp_path / "lock", shared=True, create=False)
    if lock is not None:
        lock.release()
