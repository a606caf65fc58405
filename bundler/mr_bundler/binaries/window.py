"""A stretch of a file that is read piece by piece, so that a library of a gigabyte costs a few small reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mr_core.durable import host_errors

MOST_TEXT_BYTES = 1024
"""Longest text of a binary that is believed: names of libraries and search paths are paths."""
_STEP = 256


class Window:
    """Bytes ``start`` to ``start + size`` of something; every read is exact and stays inside.

    All methods raise `ValueError` for what lies outside, because the files read here say themselves where to look.
    """

    __slots__ = ("_read", "_start", "size")

    def __init__(self, read: Callable[[int, int], bytes], size: int, start: int = 0) -> None:
        self._read = read
        self._start = start
        self.size = size

    @classmethod
    def of(cls, content: bytes) -> Window:
        """Return a window onto bytes in memory."""
        return cls(lambda size, offset: content[offset : offset + size], len(content))

    def take(self, offset: int, size: int) -> bytes:
        """Return exactly ``size`` bytes."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"it is truncated: {size} bytes at {offset:#x} lie outside its {self.size} bytes")
        content = self._read(size, self._start + offset)
        while len(content) < size:  # a read may be short
            rest = self._read(size - len(content), self._start + offset + len(content))
            if not rest:
                raise ValueError(f"it is truncated at {offset + len(content):#x}")
            content += rest
        return content

    def part(self, offset: int, size: int) -> Window:
        """Return the window of ``size`` bytes at ``offset``."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"it is truncated: a part of {size} bytes at {offset:#x} lies outside")
        return Window(self._read, size, self._start + offset)

    def text(self, offset: int, most: int = MOST_TEXT_BYTES) -> str:
        """Return the text that ends with a NUL; bytes that are not UTF-8 become escapes."""
        content = b""
        while len(content) < most:
            piece = self.take(offset + len(content), min(_STEP, self.size - offset - len(content)))
            text, end, _ = piece.partition(b"\0")
            content += text
            if end:
                return content.decode(errors="backslashreplace")
            if not piece:
                break
        raise ValueError(f"the text at {offset:#x} does not end within {most} bytes")


@contextlib.contextmanager
def open_window(place: Path | str) -> Iterator[Window]:
    """Open the whole of a file; raise `HostError` when it cannot be read."""
    with host_errors("read", place):
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def read(size: int, offset: int) -> bytes:
        with host_errors("read", place):
            return os.pread(descriptor, size, offset)

    try:
        with host_errors("read", place):
            size = os.fstat(descriptor).st_size
        yield Window(read, size)
    finally:
        os.close(descriptor)
