"""Locks hold between processes and survive a replaced lock file."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mr_core.errors import CancelledError, HostError
from mr_core.events import Cancel
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
