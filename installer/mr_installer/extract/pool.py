"""Extract several layers at once in worker processes, because one Python process parses only one layer at a time.

Threads would take turns (the strict reader holds the interpreter lock), and `multiprocessing` would import the host's
main module again; so workers are plain interpreters that are told what to do over a pipe. Where none can be started
(an embedding program, no processes left), the layers are extracted in this process, one after another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from mr_core.errors import UsageError
from mr_core.events import Cancel, Level, Notice, Reporter, discard
from mr_installer.extract.job import LayerJob, LayerResult
from mr_installer.extract.layer import extract_layer
from mr_installer.extract.tree_writer import open_directory
from mr_installer.extract.worker_process import WorkerFailed, WorkerProcess
from mr_installer.python_path import find_python


class ExtractionPool:
    """Worker processes that extract layers below ``stage``, which exists and is empty at first.

    Use it as a context manager. Leaving the block waits for the layers that were submitted; leaving it by an error, or
    setting ``cancel``, stops them at once. What a stopped layer wrote stays in the stage.

    Args:
        stage: Directory to fill.
        workers: Processes; 0 extracts in this process.
        progress: Called from other threads with the bytes of all files extracted so far; never goes back.
        report: Told once, by a notice ``extraction-in-process``, when no worker could be started.
        cancel: Stops everything when set.
        python: Interpreter for the workers, default the running one.
    """

    def __init__(
        self,
        stage: Path,
        workers: int = 2,
        *,
        progress: Callable[[int], None] | None = None,
        report: Reporter = discard,
        cancel: Cancel | None = None,
        python: Path | None = None,
    ) -> None:
        self._stage = stage
        self._slots = max(1, workers)
        self._cancel = _Stop(cancel)
        self._report = report
        self._progress = _Total(progress)
        self._python = (python or find_python()) if workers > 0 else None
        self._said = workers == 0
        self._lock = threading.Lock()
        self._in_process = threading.Lock()
        self._idle: SimpleQueue[WorkerProcess | None] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = open_directory(self._stage)
        for _ in range(self._slots):
            self._idle.put(self._start())
        self._threads = ThreadPoolExecutor(self._slots, thread_name_prefix="mr-extract")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._threads is not None:
            if kind is not None:
                self._cancel.set()
            self._threads.shutdown(wait=True, cancel_futures=kind is not None)
            self._threads = None
        while not self._idle.empty():
            if (worker := self._idle.get()) is not None:
                worker.close()
        os.close(self._descriptor)

    def submit(self, job: LayerJob) -> Future[LayerResult]:
        """Extract ``job`` as soon as a worker is free, in the order of submission.

        The future raises what `extract_layer` raises; `HostError` when the worker died, and `CancelledError`.
        """
        if self._threads is None:
            raise UsageError("Cannot extract layer: the pool is not open")
        return self._threads.submit(self._run, job)

    def _run(self, job: LayerJob) -> LayerResult:
        worker = self._idle.get()
        try:
            self._cancel.check()
            if worker is not None and not worker.is_alive:
                worker.close()
                worker = self._start()
            tick = self._progress.part()
            if worker is not None:
                try:
                    return worker.run(job, tick, self._cancel)
                except WorkerFailed as error:
                    worker = None
                    self._give_up(str(error))
            return self._run_here(job, tick)
        finally:
            self._idle.put(worker)

    def _run_here(self, job: LayerJob, tick: Callable[[int], None]) -> LayerResult:
        def checked(done: int) -> None:
            self._cancel.check()
            tick(done)

        with self._in_process:
            return extract_layer(job, self._descriptor, checked)

    def _start(self) -> WorkerProcess | None:
        if self._python is None:
            self._give_up("this program is not run by a Python interpreter of its own")
            return None
        try:
            return WorkerProcess(self._python, self._descriptor)
        except WorkerFailed as error:
            self._give_up(str(error))
            return None

    def _give_up(self, reason: str) -> None:
        """Say once that there is no worker process, and why."""
        with self._lock:
            said, self._said = self._said, True
            self._python = None
        if not said:
            message = f"layers are extracted one after another in this process: {reason}"
            self._report(Notice(code="extraction-in-process", message=message, level=Level.DETAIL))


class _Stop(Cancel):
    """The caller's token, or the pool's own wish to stop: the caller's is never set by the pool."""

    __slots__ = ("_outer",)

    def __init__(self, outer: Cancel | None) -> None:
        super().__init__()
        self._outer = outer

    @property
    def is_set(self) -> bool:
        return super().is_set or (self._outer is not None and self._outer.is_set)

    def check(self) -> None:
        if self._outer is not None:
            self._outer.check()
        super().check()


class _Total:
    """Adds up the progress of layers that are extracted at the same time."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._total = 0

    def part(self) -> Callable[[int], None]:
        """Return a callable that takes the absolute bytes of one layer."""
        seen = 0

        def tick(done: int) -> None:
            nonlocal seen
            if done <= seen or self._progress is None:
                return
            with self._lock:  # held during the call, so that no later total can overtake it
                self._total += done - seen
                seen = done
                self._progress(self._total)

        return tick
