"""Start real container engines: Docker's daemon and podman's service, each with storage of its own on a short path."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.need import missing, need

_PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class RunningEngine:
    """An engine; ``host`` is its address for the docker library, ``storage`` all it has written."""

    kind: str
    host: str
    storage: Path

    def bytes_in_use(self) -> int:
        """Return the size of all regular files of its storage."""
        return sum(
            os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(self.storage) for name in names
        )


@contextmanager
def docker_engine() -> Iterator[RunningEngine]:
    """Run ``dockerd`` without touching this host's network."""
    if os.geteuid() != 0:
        missing("root, which `dockerd` needs")
    program = need("dockerd")
    with _place() as place:
        host = f"unix://{place}/s"
        command = [program, "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"]
        # vfs needs nothing of the kernel or of the filesystem, and leaves no mounts; a small bundle has few layers.
        command += ["--bridge=none", "--storage-driver=vfs", "--host", host, "--data-root", f"{place}/d"]
        command += ["--exec-root", f"{place}/e", "--pidfile", f"{place}/p"]
        try:
            with _running(command, place, {}):
                yield RunningEngine("docker", host, place / "d")
        finally:
            for mount in ("e/netns/default", "d"):
                subprocess.run(["umount", "-q", str(place / mount)], check=False, capture_output=True)


@contextmanager
def podman_engine() -> Iterator[RunningEngine]:
    """Run ``podman system service``, which speaks Docker's API too."""
    if os.geteuid() != 0:
        missing("root, with which podman's vfs storage needs no user namespace")
    program = need("podman")
    with _place() as place:
        host = f"unix://{place}/s"
        command = [program, "--root", f"{place}/r", "--runroot", f"{place}/rr", "--tmpdir", f"{place}/t"]
        command += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        command += ["system", "service", "--time=0", host]
        (place / "tmp").mkdir()
        with _running(command, place, {"TMPDIR": f"{place}/tmp"}):
            yield RunningEngine("podman", host, place / "r")


@contextmanager
def _place() -> Iterator[Path]:
    memory = Path("/dev/shm")
    fast = str(memory) if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30 else "/tmp"
    place = Path(tempfile.mkdtemp(prefix="en-", dir=fast))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _running(command: list[str], place: Path, environment: dict[str, str]) -> Iterator[None]:
    log = place / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        _wait_until_it_answers(process, place / "s", log)
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_SECONDS)
        process.kill()
        process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    docker = pytest.importorskip("docker")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    reason = "no socket"
    while time.monotonic() < deadline and process.poll() is None:
        if socket.exists():
            try:
                client = docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=5)
            except docker.errors.DockerException as error:
                reason = str(error)
            else:
                client.close()
                return
        time.sleep(0.05)
    pytest.fail(f"the engine did not start: {reason}\n{log.read_text(errors='replace')[-3000:]}", pytrace=False)
