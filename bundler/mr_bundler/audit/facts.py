"""What is notable about one file: whether it is a binary, starts an interpreter, or runs code when Python starts.

Most files of an environment are sources and data, of which there is nothing to say; so looking must cost next to
nothing for them, and what is found may be cached by the file's content and path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mr_bundler.binaries.binary import Binary
from mr_bundler.binaries.formats import is_binary, read_binary
from mr_core.decode import Decoder
from mr_core.durable import host_errors
from mr_core.errors import printable

HEAD_BYTES = 4096
"""So many first bytes of a file are enough for `read_facts`."""
_MOST_TEXT_BYTES = 1 << 20
_SHEBANG_BYTES = 512  # twice what Linux reads (BINPRM_BUF_SIZE)
# pip and uv cannot write a path with spaces, or a long one, into a shebang; their scripts look like this instead.
_TRAMPOLINE = re.compile(rb"#!\s*/bin/sh\s*\n'''exec' [\"']?(/[^\"'\n]+?)[\"']? \"\$0\"")
_PTH = re.compile(r"(?:^|.*/)(?:site|dist)-packages/[^/]+\.pth")
_EDITABLE = re.compile(r"(?:^|/)__editable__[^/]*$")
_NOTES = {"direct_url.json", "uv_cache.json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What one file is, beyond its bytes.

    Attributes:
        binary: For ELF and Mach-O files.
        shebang: The first line of a script without ``#!``: interpreter and arguments.
        startup: Lines of a ``.pth`` file that Python runs when it starts.
        traces: What the file tells of the machine its environment was installed on, one short text for each.
    """

    binary: Binary | None = None
    shebang: str = ""
    startup: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without empty ones, that `from_json` reads back."""
        value: dict[str, Any] = {} if self.binary is None else {"binary": self.binary.to_json()}
        if self.shebang:
            value["shebang"] = self.shebang
        texts = {"startup": self.startup, "traces": self.traces}
        return value | {key: list(lines) for key, lines in texts.items() if lines}

    @classmethod
    def from_json(cls, value: Any) -> FileFacts:
        """Read what `to_json` wrote; raise `InvalidInputError` for anything else."""
        read = Decoder(value, "facts of a file")
        if not isinstance(value, dict):
            read.problem("expected a table")
        found = cls(
            binary=Binary.decode(read.table("binary")) if read.has("binary") else None,
            shebang=read.text("shebang", ""),
            startup=read.texts("startup"),
            traces=read.texts("traces"),
        )
        read.finish()
        return found


def read_facts(place: Path | str, path: str, head: bytes) -> FileFacts | None:
    """Return what is notable about a regular file, `None` for nothing.

    Args:
        place: Where it lies.
        path: Its path relative to the root of the tree.
        head: Its first `HEAD_BYTES` bytes, or all of them.

    Raises:
        HostError: when the file cannot be read. A malformed binary is no error: its `Binary` says so.
    """
    if is_binary(head):
        binary = read_binary(place, head)
        return None if binary is None else FileFacts(binary=binary)
    shebang = _shebang(head) if head.startswith(b"#!") else ""
    startup: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    if path.endswith(".pth") and _PTH.fullmatch(path):
        startup, traces = _pth_lines(_whole(place, head))
    elif path.endswith(".json") and path.rpartition("/")[2] in _NOTES:
        traces = _note_traces(path, _whole(place, head))
    elif path == "pyvenv.cfg" or path.endswith("/pyvenv.cfg"):
        traces = ("the Python of a virtual environment",)
    if "__editable__" in path and _EDITABLE.search(path):
        traces = (*traces, "an editable installation")
    return FileFacts(shebang=shebang, startup=startup, traces=traces) if shebang or startup or traces else None


def _whole(place: Path | str, head: bytes) -> bytes:
    if len(head) < HEAD_BYTES:
        return head
    with host_errors("read", place), Path(place).open("rb") as file:
        return file.read(_MOST_TEXT_BYTES)


def _shebang(head: bytes) -> str:
    if match := _TRAMPOLINE.match(head):
        return _shown(match[1])
    line = head[2:_SHEBANG_BYTES].partition(b"\n")[0].strip()
    return "" if line.startswith(b"[") else _shown(line)  # `#![…]` is an attribute of Rust


def _shown(line: bytes) -> str:
    return printable(line.decode(errors="backslashreplace"))


def _pth_lines(content: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the lines that `site.addpackage` runs, and traces for those that are absolute paths.

    Python 3.12.4 splits lines as `str.splitlines` does, older ones only at line breaks; the former finds more.
    """
    lines = [line.rstrip() for line in content.decode("utf-8-sig", errors="backslashreplace").splitlines()]
    code = tuple(printable(line) for line in lines if line.startswith(("import ", "import\t")))
    absolute = any(line.startswith("/") for line in lines)
    return code, ("an absolute entry of sys.path",) if absolute else ()


def _note_traces(path: str, content: bytes) -> tuple[str, ...]:
    if not path.rpartition("/")[0].endswith(".dist-info"):
        return ()
    if path.endswith("uv_cache.json"):
        return ("a note of uv's cache",)
    return ("a `file:` address",) if b'"file:' in content else ()
