"""Compile Python files to bytecode: the program that the bundle's own interpreter runs. Standard library only.

The bytes of a ``.pyc`` depend a little on what the process compiled and imported before (two files of 5,311 differ when
the order is turned around), so every job runs in a fork of a process that never saw another job. Only the fork reads
the job, so its parent stays as it was. For the same reason almost nothing is imported here.

Protocol, on stdin and stdout: frames of a length in ASCII, a newline, and that many bytes of `marshal` (whose version
2 every Python 3 reads; `json` would import a dozen modules). The first frame out says which Python this is. Then one
frame in is one job (root, paths, needles), one frame out its result (a row for each path), until stdin ends.
"""

import gc
import hashlib
import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from _imp import source_hash

_MARSHAL = 2
_HEADER = MAGIC_NUMBER + b"\x01\0\0\0"  # PEP 552: found by its hash, which nobody compares (`unchecked-hash`)
_HASH_KEY = int.from_bytes(MAGIC_NUMBER, "little")
_TOO_DEEP = "Parser stack overflowed"  # CPython's parser has a fixed depth (Parser/pegen.c, MAXSTACK)
_DONE = 0
_END = 40  # exit status of a fork that found no more jobs


def _read(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_frame() -> bytes:
    length = b""
    while (digit := os.read(0, 1)) not in {b"\n", b""}:
        length += digit
    return _read(int(length)) if length else b""


def _write_frame(content: bytes) -> None:
    frame = b"%d\n" % len(content) + content
    while frame:
        frame = frame[os.write(1, frame) :]


def _compile(root: str, path: str, needles: list[bytes]) -> list[object]:
    """Compile one file and return its row: path, bytecode's path, size, sha256, needles found; or path and reason."""
    with open(f"{root}/{path}", "rb") as file:  # noqa: PTH123 - `pathlib` is one more import
        source = file.read()
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        content = _HEADER + source_hash(_HASH_KEY, source) + marshal.dumps(code)
    except MemoryError as error:
        if not str(error).startswith(_TOO_DEEP):
            raise  # this machine is short of memory: that says nothing about the file
        return [path, f"{type(error).__name__}: {error}"]
    except (SyntaxError, ValueError, RecursionError) as error:  # recursion is limited by a constant of the interpreter
        return [path, f"{type(error).__name__}: {error}"]
    directory, _, name = path.rpartition("/")
    directory = f"{directory}/__pycache__"
    target = f"{directory}/{name[:-3]}.{sys.implementation.cache_tag}.pyc"
    os.makedirs(f"{root}/{directory}", exist_ok=True)  # noqa: PTH103
    with open(f"{root}/{target}", "wb") as file:  # noqa: PTH123
        file.write(content)
    found = [index for index, needle in enumerate(needles) if needle in content]
    return [path, target, len(content), hashlib.sha256(content).hexdigest(), found]


def _work() -> int:
    frame = _read_frame()
    if not frame:
        return _END
    root, paths, needles = marshal.loads(frame)  # noqa: S302 - our own parent wrote it
    _write_frame(marshal.dumps([_compile(root, path, needles) for path in paths], _MARSHAL))
    return _DONE


def main() -> int:
    """Serve jobs until stdin ends; return the exit status."""
    gc.disable()
    gc.freeze()
    version = ".".join(map(str, sys.version_info[:3]))
    _write_frame(marshal.dumps([version, int.from_bytes(MAGIC_NUMBER[:2], "little")], _MARSHAL))
    while True:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = _work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells it on stderr
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                sys.stderr.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != _DONE:
            return 0 if status == _END else 1


if __name__ == "__main__":
    sys.exit(main())
