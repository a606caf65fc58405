"""Kill -9 at every step: the old release (or nothing) is active, and the next run ends like an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mr_core.errors import HostError
from mr_installer import Installer
from mr_installer.root import Root
from support.bundles import BACKEND, GOOD, NEXT, Bundles
from support.invariants import check_invariants

STEPS = ("journal", "stage", "sync", "seal", "place", "probe", "commit", "settle", "clean")
AFTER_COMMIT = ("settle", "clean")

# The real transaction in a process of its own, killed by the kernel at the named step.
KILLED = """
import os, signal, sys
from mr_core.events import Cancel, discard
from mr_core.open_store import open_source
from mr_core.location import parse_location
from mr_installer import Installer
from mr_installer.root import Root
from mr_installer.transaction import apply_plan

root, source, step = sys.argv[1:]
plan = Installer(root).plan("tiny", source=source)
opened, _ = open_source(parse_location(source))

def checkpoint(name):
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)

apply_plan(plan, Root.at(root), opened, report=discard, cancel=Cancel(), checkpoint=checkpoint)
"""


def kill_at(step: str, root: Path, source: str) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(root), source, step], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL, f"it never came to {step}"


@pytest.mark.parametrize("step", STEPS)
def test_killed_first_install(bundles: Bundles, root: Path, step: str) -> None:
    kill_at(step, root, bundles.source(GOOD))
    active = check_invariants(root, settled=False)
    assert (active is not None) == (step in AFTER_COMMIT)
    done = Installer(root).install(BACKEND, source=bundles.source(GOOD))
    assert check_invariants(root) == done.release


@pytest.mark.parametrize("step", STEPS)
def test_killed_upgrade(bundles: Bundles, root: Path, step: str) -> None:
    installer = Installer(root)
    first = installer.install(BACKEND, source=bundles.source(GOOD))
    kill_at(step, root, bundles.source(NEXT))
    active = check_invariants(root, settled=False)
    assert (active == first.release) == (step not in AFTER_COMMIT)
    assert installer.verify(BACKEND, deep=True).release == active
    second = installer.install(BACKEND, source=bundles.source(NEXT))
    assert installer.rollback(BACKEND).release == first.release  # a change under the lock recovers all leftovers
    assert check_invariants(root) == first.release
    assert installer.rollback(BACKEND).release == second.release


def test_an_installed_already_run_finishes_what_a_crash_left(bundles: Bundles, root: Path) -> None:
    kill_at("settle", root, bundles.source(GOOD))
    assert not (root / BACKEND / "bin" / "mr-serve").exists()
    Installer(root).install(BACKEND, source=bundles.source(GOOD))
    check_invariants(root)


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.35, 0.5])
def test_killed_at_any_moment_through_the_command_line(bundles: Bundles, root: Path, delay: float) -> None:
    installer = Installer(root)
    first = installer.install(BACKEND, source=bundles.source(GOOD))
    program = str(Path(sys.executable).with_name("mr-install"))
    command = [program, BACKEND, "--from", bundles.source(NEXT), "--root", str(root), "-q"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(delay)
        process.kill()
    assert check_invariants(root, settled=False) is not None
    second = installer.install(BACKEND, source=bundles.source(NEXT))
    assert installer.rollback(BACKEND).release == first.release
    check_invariants(root)
    assert second.version == NEXT


def test_killed_uninstall_is_finished_by_the_next_change(bundles: Bundles, root: Path) -> None:
    installer = Installer(root)
    installer.install(BACKEND, source=bundles.source(GOOD))
    directory = Root.at(root).backend(BACKEND)
    # What a crash right after the removal of the commit point leaves.
    directory.journal.write_text(json.dumps({"format": 1, "operation": "uninstall", "transaction": "0badcafe"}))
    directory.python.unlink()
    assert not installer.is_installed(BACKEND)
    done = installer.install(BACKEND, source=bundles.source(NEXT))
    assert directory.release_ids() == [done.release]
    check_invariants(root)


def test_a_damaged_journal_and_leftovers_do_not_stop_anybody(bundles: Bundles, root: Path) -> None:
    directory = Root.at(root).backend(BACKEND)
    stage = directory.state / "stage-dead"
    (stage / "sub").mkdir(parents=True)
    (stage / "sub" / "file").write_text("x")
    (stage / "sub").chmod(0o500)
    directory.journal.write_bytes(b"\x00{")
    (directory.state / ".record.1.tmp").write_text("")
    Installer(root).install(BACKEND, source=bundles.source(GOOD))
    check_invariants(root)


def test_several_processes_install_the_same_at_once(bundles: Bundles, root: Path) -> None:
    program = str(Path(sys.executable).with_name("mr-install"))
    commands = [
        [program, BACKEND, "--from", bundles.source(version), "--root", str(root), "-q"]
        for version in (GOOD, NEXT, GOOD, NEXT)
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for command in commands]
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert check_invariants(root) is not None
    assert len(Installer(root).status(BACKEND).releases) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A filesystem of 48 MB."""
    place = tmp_path / "small disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small filesystem needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("this environment cannot mount a small filesystem")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.root
def test_too_little_space_is_refused_before_the_first_byte(bundles: Bundles, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (30 << 20))
    with pytest.raises(HostError, match="are free") as caught:
        Installer(small_disk / "root").install(BACKEND, source=bundles.source(GOOD))
    assert caught.value.exit_code == 9
    assert not (small_disk / "root").exists()


@pytest.mark.root
def test_a_disk_that_fills_up_during_extraction(bundles: Bundles, small_disk: Path) -> None:
    from mr_core.events import Event, PhaseStarted  # noqa: PLC0415 - used here alone

    def fill(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "extract":
            (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - (4 << 20)))

    root = small_disk / "root"
    with pytest.raises(HostError, match="no space left") as caught:
        Installer(root, report=fill).install(BACKEND, source=bundles.source(GOOD))
    assert "free some disk space" in caught.value.hint
    assert check_invariants(root) is None
    (small_disk / "filler").unlink()
    Installer(root).install(BACKEND, source=bundles.source(GOOD))
    check_invariants(root)
