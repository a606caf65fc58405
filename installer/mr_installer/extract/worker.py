"""The worker process: reads jobs as JSON lines from stdin, extracts, answers as JSON lines on stdout.

Answers: ``{"ready": true}`` once; then for each job any number of ``{"bytes": n}`` (progress) and
``{"entries": […]}``, and at last ``{"done": {…}}`` or ``{"error": {…}}``. The end of stdin ends the process.
"""

from __future__ import annotations

import json
import os
import select
import time
import traceback
from typing import Any, BinaryIO, NoReturn

from mr_core.durable import write_all
from mr_core.errors import BundleError, InternalError
from mr_installer.extract.job import LayerJob, LayerResult, pack_entries
from mr_installer.extract.layer import extract_layer

_PROGRESS_SECONDS = 0.05
_IDLE_MILLISECONDS = 1000
_BATCH = 1000
_STDIN, _STDOUT = 0, 1


def serve(stage: int, parent: int) -> NoReturn:
    """Work until stdin ends or the parent is gone.

    Args:
        stage: Descriptor of the stage directory, inherited.
        parent: Process id of the parent; when it changes, the parent has died, however its pipes were inherited.
    """
    os.umask(0o022)
    try:
        _send({"ready": True})
        with open(_STDIN, "rb", closefd=False) as requests:
            _serve(requests, stage, parent)
    except BrokenPipeError:
        os._exit(1)
    os._exit(0)


def _serve(requests: BinaryIO, stage: int, parent: int) -> None:
    while line := _next_line(requests, parent):
        try:
            job = LayerJob.from_json(json.loads(line))
            result = extract_layer(job, stage, _Ticker(parent))
        except BrokenPipeError:
            raise
        except BundleError as error:
            _send({"error": pack_error(error)})
        except Exception as error:  # noqa: BLE001 - a bug here must reach the parent, with its traceback
            reason = f"{type(error).__name__}: {error}"
            bug = InternalError(f"Cannot extract layer: {reason}", traceback=traceback.format_exc())
            _send({"error": pack_error(bug)})
        else:
            _send_result(result)


def _next_line(requests: BinaryIO, parent: int) -> bytes:
    """Wait for a request; there is never more than one, so nothing hides in the reader's buffer."""
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    while not waiting.poll(_IDLE_MILLISECONDS):
        _leave_without(parent)
    return requests.readline()


def _leave_without(parent: int) -> None:
    """End the process when the parent is gone: another child of it may hold our pipes open."""
    if os.getppid() != parent:
        os._exit(1)


class _Ticker:
    """Pass progress on, at most twenty times a second, and notice that nobody reads it any more."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._next = 0.0
        self._sent = 0

    def __call__(self, done: int) -> None:
        _leave_without(self._parent)
        now = time.monotonic()
        if done != self._sent and now >= self._next:
            self._next = now + _PROGRESS_SECONDS
            self._sent = done
            _send({"bytes": done})


def _send_result(result: LayerResult) -> None:
    for start in range(0, len(result.entries), _BATCH):
        _send({"entries": pack_entries(result.entries[start : start + _BATCH])})
    _send({"done": {"bytes": result.bytes, "directories": sorted(result.directories)}})


def _send(message: dict[str, Any]) -> None:
    write_all(_STDOUT, json.dumps(message, separators=(",", ":")).encode() + b"\n")


def pack_error(error: BundleError) -> dict[str, Any]:
    """Return an error as plain values that `unpack_error` reads back; fields that JSON does not know become text."""
    fields = json.loads(json.dumps(error.fields, default=str))
    return {"code": error.code, "message": error.message, "hint": error.hint, "fields": fields}


def unpack_error(value: dict[str, Any]) -> BundleError:
    """Return the typed error of `pack_error`."""
    kinds = {kind.code: kind for kind in BundleError.__subclasses__()}
    kind = kinds.get(value["code"], InternalError)
    return kind(value["message"], hint=value["hint"], **value["fields"])
