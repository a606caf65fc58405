"""The JSON lines sink: one object a line on stdout; nothing follows the first ``result`` or ``error``.

Every object has ``v`` (version of this form, 1), ``seq`` (counts from 1) and ``event`` (a stable name). The same
stability promise as for the library holds: fields are added, never renamed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from enum import Enum
from pathlib import Path
from typing import IO, Any

from mr_core.digest import Digest
from mr_core.errors import BundleError
from mr_core.events import Event
from mr_core.platform import Platform, Target
from mr_core.reference import Reference

VERSION = 1
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class JsonLines:
    """Writes events as JSON lines, until the outcome has been written; usable from any thread."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._sequence = 0
        self._ended = False
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write one event; its name is the class name in ``kebab-case``."""
        name = _WORD.sub("-", type(event).__name__).lower()
        self._write(name, plain(event))

    def result(self, value: Any) -> None:
        """Write the last line of a successful run."""
        shown = plain(value)
        self._write("result", shown if isinstance(shown, dict) else {"value": shown}, last=True)

    def error(self, error: BundleError) -> None:
        """Write the last line of a failed run."""
        fields = {
            "code": error.code,
            "exit_code": error.exit_code,
            "retryable": error.retryable,
            "message": error.message,
            "hint": error.hint,
        }
        self._write("error", {**plain(error.fields), **fields}, last=True)

    def _write(self, name: str, fields: dict[str, Any], *, last: bool = False) -> None:
        with self._lock:
            if self._ended:  # a thread that still runs has nothing to say any more
                return
            ours = {"v": VERSION, "seq": self._sequence + 1, "event": name}
            line = json.dumps({**ours, **fields, **ours}, ensure_ascii=True, default=str)  # first, and never replaced
            self._sequence += 1
            self._ended = last
            self._stream.write(line + "\n")
            self._stream.flush()


def plain(value: Any) -> Any:
    """Return ``value`` as JSON types: dataclasses become objects, enums their values, paths and digests their text."""
    if isinstance(value, Digest | Platform | Reference | Target):
        return str(value)
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    match value:
        case Enum():
            return value.value
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case _:
            return str(value)
