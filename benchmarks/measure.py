"""Run whole commands and measure them: wall seconds, and the peak memory of the process and of its whole tree."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

_POLL_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run; memory in MiB: of the process itself (peak RSS), and of its tree (peak sum of PSS)."""

    seconds: float
    peak_mib: float
    tree_mib: float


def run(command: Sequence[str], *, environment: dict[str, str] | None = None, memory: bool = False) -> Run:
    """Run ``command`` to its end; its output is shown only when it fails. Polling memory costs a little time."""
    begin = time.monotonic()
    process = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
    )
    watch = _Watch(process.pid) if memory else None
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    tree = watch.stop() if watch else 0.0
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}\n{output.decode(errors='replace')}")
    return Run(seconds=seconds, peak_mib=usage.ru_maxrss / 1024, tree_mib=tree)


class _Watch:
    """Samples the memory of a process tree from a thread."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            total = 0
            with contextlib.suppress(psutil.Error):
                for member in [self._process, *self._process.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        total += member.memory_full_info().pss
            self._peak = max(self._peak, total / (1 << 20))

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return self._peak


@dataclass(kw_only=True)
class Figure:
    """A measured ratio or value; ``met`` is for the reader, nothing fails by it. Without a target it is only shown."""

    name: str
    value: float
    unit: str
    target: float | None
    detail: dict[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.target is None or self.value <= self.target

    def line(self) -> str:
        shown = f"{self.name:<62} {self.value:8.3f} {self.unit:<4}"
        if self.target is None:
            return shown
        return f"{shown} target {self.target:g} {self.unit:<4} {'met' if self.met else 'MISSED'}"


def median(
    action: Callable[[], Run], *, runs: int, before: Callable[[], None] | None = None
) -> tuple[float, list[float]]:
    """Return the median wall seconds of ``runs`` runs, and all of them; ``before`` is not timed."""
    seconds = []
    for _ in range(runs):
        if before is not None:
            before()
        seconds.append(action().seconds)
    return statistics.median(seconds), [round(value, 3) for value in seconds]


def alternate(
    first: Callable[[], Run], second: Callable[[], Run], *, runs: int, before: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Time two actions in turn, so that a drifting machine hits both; the first turn warms up and does not count."""
    one, two = [], []
    for turn in range(runs + 1):
        before()
        one_seconds = first().seconds
        before()
        two_seconds = second().seconds
        if turn:
            one.append(one_seconds)
            two.append(two_seconds)
    return one, two


def write_results(path: Path, figures: list[Figure]) -> None:
    """Write what was seen, with the machine it was seen on."""
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "python": platform.python_version(),
    }
    rows = [{**asdict(figure), "met": figure.met} for figure in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "figures": rows}, indent=2, default=str) + "\n")
