"""Start a launcher the way a user does, and talk to the fake backend behind it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, kw_only=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int

    def get(self, path: str) -> dict[str, Any]:
        return get(self.port, path)


def get(port: int, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    launcher: Path | str, model: Path, *arguments: str, environment: Mapping[str, str], cwd: Path
) -> Iterator[Running]:
    """Run the launcher and yield once the backend answers; kill what is left at the end."""
    port = free_port()
    command = [str(launcher), "--model", str(model), "--port", str(port), *arguments]
    with subprocess.Popen(command, env=environment, cwd=cwd, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(400):
                assert process.poll() is None, f"ended with {process.returncode}"
                with contextlib.suppress(OSError):
                    get(port, "/health")
                    break
                time.sleep(0.02)
            yield Running(process=process, port=port)
        finally:
            process.kill()


def run(
    launcher: Path | str, *arguments: str, environment: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run the launcher to its end."""
    return subprocess.run(
        [str(launcher), *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=30, check=False
    )


def is_gone(pid: int, *, within: float = 10.0) -> bool:
    """Whether the process ends (or is a zombie) within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False
