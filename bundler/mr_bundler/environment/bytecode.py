"""Compile the Python files of an environment, in parallel and still reproducibly.

Files are shared out in chunks that depend only on the files of one owner, and every chunk is compiled in a fork of a
process that never compiled anything else (`bytecode_worker`). So neither the number of jobs nor their order nor other
distributions have a say in the bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from mr_bundler.parallel import Check, run_tasks
from mr_bundler.recipe.recipe import SITE_PACKAGES
from mr_core.errors import BuildError
from mr_core.events import Cancel
from mr_core.file_manifest import FileEntry

MAGIC = 3531
"""Magic number of CPython 3.12's bytecode (``Lib/importlib/_bootstrap_external.py``)."""
_CHUNK_BYTES = 2 << 20
_CHUNK_FILES = 400
_WORKER = Path(__file__).with_name("bytecode_worker.py")
_ROOTS = (SITE_PACKAGES.rpartition("/")[0] + "/", ".mr/shim/")
_MARSHAL = 2
_SUFFIX = ".cpython-312.pyc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What became of the Python files of a layer.

    Attributes:
        entries: Bytecode files, sorted by path.
        failed: Reason by path of files that are not Python, such as templates.
        needles: Indexes of the needles found, by path of bytecode.
        sources: Source by path of bytecode.
    """

    entries: tuple[FileEntry, ...]
    failed: Mapping[str, str]
    needles: Mapping[str, tuple[int, ...]]
    sources: Mapping[str, str]


def is_source(path: str) -> bool:
    """Whether ``path``, relative to the root of the tree, gets bytecode beside it."""
    return path.endswith(".py") and path.startswith(_ROOTS)


def source_of(path: str) -> str:
    """Return the source of a bytecode file, ``a/__pycache__/b.cpython-312.pyc`` of ``a/b.py``."""
    directory, _, name = path.rpartition("/")
    return f"{directory.rpartition('/')[0]}/{name.removesuffix(_SUFFIX)}.py"


def bytecode_identity(python: str) -> str:
    """Return a text that changes whenever the same source may give other bytecode.

    Args:
        python: Identity or exact version of the interpreter that compiles.
    """
    return f"{hashlib.sha256(_WORKER.read_bytes()).hexdigest()} {_CHUNK_BYTES} {_CHUNK_FILES} {python}"


def plan_chunks(sources: Iterable[FileEntry]) -> list[tuple[str, ...]]:
    """Share the sources of one owner out; the result depends on nothing else."""
    chunks: list[list[str]] = []
    held = 0
    for source in sorted(sources, key=lambda item: item.path.encode()):
        if not chunks or held + source.size > _CHUNK_BYTES or len(chunks[-1]) >= _CHUNK_FILES:
            chunks.append([])
            held = 0
        chunks[-1].append(source.path)
        held += source.size
    return [tuple(chunk) for chunk in chunks]


def compile_sources(
    root: Path,
    owners: Sequence[Sequence[FileEntry]],
    *,
    python: Path,
    needles: Sequence[bytes],
    jobs: int,
    cancel: Cancel,
    progress: Callable[[int], None],
) -> Compiled:
    """Write bytecode (``unchecked-hash``) beside every source below ``root``.

    The names of the sources in it are relative to ``root``; Python puts the real ones in when it imports.

    Args:
        root: The tree.
        owners: The sources of each owner.
        python: Executable of a CPython 3.12 that runs on this machine.
        needles: Byte strings to look for in the bytecode.
        jobs: Processes.
        cancel: Kills them.
        progress: Called with the number of sources compiled so far, from several threads.

    Raises:
        BuildError: when the interpreter is another one, or a worker dies.
    """
    sizes = {source.path: source.size for sources in owners for source in sources}
    chunks = [chunk for sources in owners for chunk in plan_chunks(sources)]
    if not chunks:
        return Compiled(entries=(), failed={}, needles={}, sources={})
    chunks.sort(key=lambda chunk: sum(sizes[path] for path in chunk))  # taken from the end: the biggest first
    rows: list[list[Any]] = []

    def serve(worker: _Worker) -> Callable[[Check], None]:
        def run(check: Check) -> None:
            while True:
                check()
                try:
                    chunk = chunks.pop()
                except IndexError:
                    return
                rows.extend(worker.compile(root, chunk, needles))
                progress(len(rows))

        return run

    with contextlib.ExitStack() as stack:
        # All workers are up before one writes: none may start from bytecode that another has just made.
        workers = [stack.enter_context(_Worker(python)) for _ in range(min(jobs, len(chunks)))]
        for worker in workers:
            worker.greet()
        run_tasks([serve(worker) for worker in workers], jobs=len(workers), cancel=cancel)
    return _collect(rows)


def _collect(rows: Iterable[list[Any]]) -> Compiled:
    entries: list[FileEntry] = []
    failed: dict[str, str] = {}
    found: dict[str, tuple[int, ...]] = {}
    sources: dict[str, str] = {}
    for row in sorted(rows):
        if len(row) == 2:
            failed[row[0]] = row[1]
            continue
        source, path, size, sha256, needles = row
        entries.append(FileEntry(path=path, mode=0o644, size=size, sha256=sha256))
        sources[path] = source
        if needles:
            found[path] = tuple(needles)
    return Compiled(entries=tuple(entries), failed=failed, needles=found, sources=sources)


class _Worker:
    """One running worker process; leaving the ``with`` block ends it and its fork."""

    def __init__(self, python: Path) -> None:
        # Nothing of this process's environment, no site, no cached bytecode: every worker starts from the same state.
        environment = {
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPYCACHEPREFIX": "/nonexistent",
            "PYTHONUTF8": "1",
            "LC_ALL": "C",
        }
        self._python = python
        try:
            self._process = subprocess.Popen(
                [str(python), "-s", "-S", "-P", "-W", "ignore", str(_WORKER)],
                env=environment,
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            raise BuildError(f"Cannot run `{python}` to compile bytecode: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def greet(self) -> None:
        """Wait until the worker is up, and see that it is a CPython 3.12."""
        version, magic = self._receive()
        if magic != MAGIC:
            raise BuildError(f"Cannot compile bytecode with `{self._python}`: it is Python {version}, not 3.12")

    def compile(self, root: Path, paths: Sequence[str], needles: Sequence[bytes]) -> list[list[Any]]:
        """Have a chunk compiled; return the worker's rows."""
        job = marshal.dumps([os.fspath(root), list(paths), list(needles)], _MARSHAL)
        stdin = _pipe(self._process.stdin)
        try:
            stdin.write(b"%d\n" % len(job) + job)
            stdin.flush()
        except BrokenPipeError as error:
            raise self._failed() from error
        rows: list[list[Any]] = self._receive()
        return rows

    def _receive(self) -> Any:
        stdout = _pipe(self._process.stdout)
        length = stdout.readline()
        frame = stdout.read(int(length)) if length.endswith(b"\n") else b""
        if not frame or len(frame) < int(length):
            raise self._failed()
        return marshal.loads(frame)  # noqa: S302 - our own worker wrote it

    def _failed(self) -> BuildError:
        errors = _pipe(self._process.stderr).read().decode(errors="replace").strip()
        return BuildError(
            f"Cannot compile bytecode with `{self._python}`: {errors.splitlines()[-1] if errors else 'it died'}",
            output=errors,
        )


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise BuildError("Cannot talk to the process that compiles bytecode: it has no pipes")
    return pipe
