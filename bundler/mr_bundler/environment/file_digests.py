"""Read every file of the environment once: its digest, which needles it holds, and what is notable about it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mr_bundler.audit.facts import FileFacts, read_facts
from mr_bundler.parallel import Check, run_tasks
from mr_core.durable import host_errors
from mr_core.events import Cancel

_CHUNK = 4 << 20
_BATCH_FILES = 200
_BATCH_BYTES = 32 << 20


class Examined(NamedTuple):
    """What one reading of a file found; ``needles`` are indexes."""

    size: int
    sha256: str
    needles: tuple[int, ...]
    facts: FileFacts | None = None


def examine_bytes(content: bytes, needles: Sequence[bytes]) -> Examined:
    """Return what examining a file with this content would."""
    found = tuple(index for index, needle in enumerate(needles) if needle in content)
    return Examined(len(content), hashlib.sha256(content).hexdigest(), found)


def examine_files(
    root: Path,
    sizes: dict[str, int],
    needles: Sequence[bytes],
    *,
    jobs: int,
    cancel: Cancel,
    progress: Callable[[int], None],
) -> dict[str, Examined]:
    """Examine the files of ``sizes`` below ``root``, in constant memory.

    Args:
        root: The tree.
        sizes: Expected size by path, in bytes; only decides how work is shared out.
        needles: Byte strings to look for.
        jobs: Threads.
        cancel: Stops between pieces.
        progress: Called with the number of files examined so far, from several threads.

    Raises:
        HostError: when a file cannot be read.
    """
    found: dict[str, Examined] = {}

    def task(batch: list[str]) -> Callable[[Check], None]:
        def run(check: Check) -> None:
            check()
            for path in batch:
                found[path] = _examine(os.path.join(root, path), path, needles, check)  # noqa: PTH118 - a hot loop
            progress(len(found))

        return run

    run_tasks([task(batch) for batch in _batches(sizes)], jobs=jobs, cancel=cancel)
    return found


def _batches(sizes: dict[str, int]) -> list[list[str]]:
    """Share files out, the big ones first, so that no thread is left with one at the end."""
    batches: list[list[str]] = [[]]
    held = 0
    for path in sorted(sizes, key=lambda path: -sizes[path]):
        if held >= _BATCH_BYTES or len(batches[-1]) >= _BATCH_FILES:
            batches.append([])
            held = 0
        batches[-1].append(path)
        held += sizes[path]
    return batches


def _examine(place: str, path: str, needles: Sequence[bytes], check: Check) -> Examined:
    with host_errors("read", place), open(place, "rb", buffering=0) as file:  # noqa: PTH123 - a hot loop
        content = file.read(_CHUNK)
        if len(content) < _CHUNK:
            while rest := file.read(_CHUNK):  # a read may be short, a file may have grown
                content += rest
            return examine_bytes(content, needles)._replace(facts=read_facts(place, path, content))
        facts = read_facts(place, path, content)
        hasher = hashlib.sha256(content)
        found = {index for index, needle in enumerate(needles) if needle in content}
        overlap = max(map(len, needles), default=1) - 1
        size = len(content)
        tail = content[-overlap:] if overlap else b""
        while content := file.read(_CHUNK):
            check()
            hasher.update(content)
            size += len(content)
            window = tail + content
            found.update(index for index, needle in enumerate(needles) if needle in window)
            tail = window[-overlap:] if overlap else b""
    return Examined(size, hasher.hexdigest(), tuple(sorted(found)), facts)
