"""Decode parsed TOML and JSON into typed values, reporting all problems (50 at most) with their paths in one error.

A `Decoder` walks a tree of plain values. Each accessor returns a usable value even after a problem, so that one pass
collects them all; `Decoder.finish` raises them together. A holder of the decoded dataclass never has to check again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mr_core.errors import BundleError, InvalidInputError, printable

T = TypeVar("T")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MOST_PROBLEMS = 50
_MOST_LETTERS = 1000


def parse_json(data: bytes | str, what: str, *, limit: int = 4 << 20) -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN, at most ``limit`` bytes, and only text that UTF-8 can hold.

    Args:
        data: Bytes in UTF-8, or the text they stand for.
        what: ``Cannot read <what>: …``.
        limit: Most bytes.

    Raises:
        InvalidInputError: naming ``what`` and, for broken JSON, the place.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"Cannot read {what}: a surrogate stands alone at {error.start}") from error
    if len(raw) > limit:
        raise InvalidInputError(f"Cannot read {what}: {len(raw)} bytes, more than the {limit} allowed")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"duplicate key {key[:100]!r}")
            found[key] = value
        return found

    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is not JSON")

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
        if _SURROGATE.search(raw):  # pairs are fine; a lone one would fail far from here, when it is written
            dump_json(value)
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"Cannot read {what}: a surrogate stands alone in a string") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"Cannot read {what}: {error}") from error
    return value


def dump_json(value: Any) -> bytes:
    """Return the canonical JSON of this project: sorted keys, no spaces, UTF-8, no trailing newline."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class _Problems:
    """The problems of one walk: the first 50 and how many more there were, so that hostile input fills no memory."""

    __slots__ = ("_more", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._more = 0

    def add(self, text: str) -> None:
        if len(self._texts) < _MOST_PROBLEMS:
            self._texts.append(text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…")
        else:
            self._more += 1

    def all(self) -> list[str]:
        return [*self._texts, f"and {self._more} more"] if self._more else list(self._texts)


class Decoder:
    """A position in a tree of plain values, and the list of problems shared by the whole walk."""

    __slots__ = ("_path", "_problems", "_seen", "value", "what")

    def __init__(self, value: Any, what: str, *, _path: str = "", _problems: _Problems | None = None) -> None:
        self.value = value
        self.what = what
        self._path = _path
        self._problems = _Problems() if _problems is None else _problems
        self._seen: set[str] = set()

    def problem(self, text: str, key: str = "") -> None:
        """Record a problem at this position, or at ``key`` below it."""
        path = self._join(key) if key else self._path
        self._problems.add(f"{path}: {text}" if path else text)

    def finish(self, *, hint: str = "") -> None:
        """Raise `InvalidInputError` with the recorded problems (the first 50, and how many more), if there is any."""
        problems = self._problems.all()
        if problems:
            text = "\n  ".join(problems)
            raise InvalidInputError(f"Cannot read {self.what}: {text}", hint=hint, problems=problems)

    def _join(self, key: str) -> str:
        shown = key if _PLAIN_KEY.fullmatch(key) else f'"{printable(key, most=100)}"'
        return f"{self._path}.{shown}" if self._path else shown

    def _child(self, value: Any, path: str) -> Decoder:
        return Decoder(value, self.what, _path=path, _problems=self._problems)

    def _get(self, key: str) -> Any:
        self._seen.add(key)
        return self.value.get(key) if isinstance(self.value, dict) else None

    def has(self, key: str) -> bool:
        """Whether this table holds ``key``."""
        return isinstance(self.value, dict) and key in self.value

    def table(self, key: str, *, required: bool = False) -> Decoder:
        """Return the table at ``key``; an empty one when it is absent."""
        value = self._get(key)
        if value is None:
            if required:
                self.problem("required table is missing", key)
            value = {}
        elif not isinstance(value, dict):
            self.problem(f"expected a table, found {_kind(value)}", key)
            value = {}
        return self._child(value, self._join(key))

    def tables(self, key: str, *, required: bool = False) -> list[Decoder]:
        """Return the list of tables at ``key``."""
        items = self._list(key, required=required)
        found = []
        for index, item in enumerate(items):
            child = self._child(item, f"{self._join(key)}[{index}]")
            if isinstance(item, dict):
                found.append(child)
            else:
                child.problem(f"expected a table, found {_kind(item)}")
        return found

    def entries(self) -> Iterator[tuple[str, Decoder]]:
        """Yield every key of this table with its value as a decoder, in order of keys."""
        if isinstance(self.value, dict):
            for key in sorted(self.value):
                self._seen.add(key)
                yield key, self._child(self.value[key], self._join(key))

    def _list(self, key: str, *, required: bool) -> list[Any]:
        value = self._get(key)
        if value is None:
            if required:
                self.problem("required list is missing", key)
            return []
        if not isinstance(value, list):
            self.problem(f"expected a list, found {_kind(value)}", key)
            return []
        return value

    def text(self, key: str, default: str | None = None, *, pattern: str = "", limit: int = 4096) -> str:
        """Return the string at ``key``; required when there is no ``default``."""
        value = self._get(key)
        if value is None:
            if default is None:
                self.problem("required string is missing", key)
            return default or ""
        return self._text(value, self._join(key), pattern, limit)

    def _text(self, value: Any, path: str, pattern: str, limit: int) -> str:
        if not isinstance(value, str):
            self._problems.add(f"{path}: expected a string, found {_kind(value)}")
            return ""
        if len(value) > limit or "\x00" in value:
            self._problems.add(f"{path}: too long, or holds a NUL character")
            return ""
        if pattern and re.fullmatch(pattern, value) is None:
            self._problems.add(f"{path}: `{value[:100]}` does not match `{pattern}`")
        return value

    def texts(self, key: str, *, required: bool = False, pattern: str = "") -> tuple[str, ...]:
        """Return the list of strings at ``key``; empty when absent and not ``required``."""
        items = self._list(key, required=required)
        return tuple(self._text(item, f"{self._join(key)}[{i}]", pattern, 4096) for i, item in enumerate(items))

    def text_map(self, key: str, *, pattern: str = "") -> dict[str, str]:
        """Return the table of strings at ``key``; ``pattern`` applies to its values."""
        table = self.table(key)
        return {name: self._text(item.value, item._path, pattern, 4096) for name, item in table.entries()}  # noqa: SLF001

    def integer(self, key: str, default: int | None = None, *, least: int = 0, most: int = 1 << 62) -> int:
        """Return the integer at ``key`` within ``least`` and ``most``."""
        value = self._get(key)
        if value is None:
            if default is None:
                self.problem("required integer is missing", key)
            return default or 0
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(f"expected an integer, found {_kind(value)}", key)
            return default or 0
        if not least <= value <= most:
            self.problem(f"{value} is not between {least} and {most}", key)
            return least
        return value

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return the boolean at ``key``."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(f"expected true or false, found {_kind(value)}", key)
            return default
        return value

    def parsed(self, key: str, parse: Callable[[Any, str], T], default: T) -> T:
        """Return ``parse(value, path)``; its `BundleError` becomes a problem, and ``default`` the value."""
        value = self._get(key)
        if value is None:
            self.problem("required value is missing", key)
            return default
        try:
            return parse(value, key)
        except BundleError as error:
            self.problem(error.message, key)
            return default

    def refuse_unknown(self) -> None:
        """Record a problem for every key that no accessor asked for: files written by people are checked whole."""
        if isinstance(self.value, dict):
            for key in self.value:
                if key not in self._seen:
                    known = ", ".join(sorted(self._seen))
                    self.problem(f"unknown field; known here: {known}", key)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return type(value).__name__
