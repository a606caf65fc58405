"""Run a few long tasks in threads, so that the first failure, or a wish to stop, ends them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeAlias, TypeVar

from mr_core.errors import CancelledError
from mr_core.events import Cancel

T = TypeVar("T")
_POLL_SECONDS = 0.1
Check: TypeAlias = Callable[[], None]
"""Raises `CancelledError` when a task should end; tasks call it between pieces of work."""


def run_tasks(tasks: Sequence[Callable[[Check], T]], *, jobs: int, cancel: Cancel) -> list[T]:
    """Run ``tasks`` in up to ``jobs`` threads, begun in their order, and return their results in that order.

    Raises:
        CancelledError: when ``cancel`` was set; all tasks have ended then.
        Exception: the first failure, in the order of ``tasks``.
    """
    stop = Cancel()
    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="mr-build") as pool:
        futures = [pool.submit(task, stop.check) for task in tasks]
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
                cancel.check()
                if any(future.exception() is not None for future in done):
                    break
        finally:
            # also after Ctrl-C: leaving the pool waits for what runs, and that looks at `stop`
            stop.set()
            for future in futures:
                future.cancel()
    failed = [error for future in futures if not future.cancelled() and (error := future.exception()) is not None]
    if failed:
        raise _first_cause(failed)
    return [future.result() for future in futures]


def _first_cause(errors: Sequence[BaseException]) -> BaseException:
    """Return the error that made the others stop: those were only cancelled."""
    return next((error for error in errors if not isinstance(error, CancelledError)), errors[0])
