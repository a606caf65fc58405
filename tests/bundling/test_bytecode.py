"""Bytecode depends on the sources of one owner and nothing else."""

from __future__ import annotations

import hashlib
import marshal
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mr_bundler.environment.bytecode import (
    Compiled,
    bytecode_identity,
    compile_sources,
    is_source,
    plan_chunks,
    source_of,
)
from mr_core.errors import BuildError, CancelledError
from mr_core.events import Cancel
from mr_core.file_manifest import FileEntry

SITE = "lib/python3.12/site-packages"


def write_sources(root: Path, files: dict[str, str | bytes]) -> list[FileEntry]:
    entries = []
    for path, text in files.items():
        content = text.encode() if isinstance(text, str) else text
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append(FileEntry(path=path, mode=0o644, size=len(content), sha256=sha256))
    return entries


def compile_tree(
    root: Path, owners: list[list[FileEntry]], python: Path, jobs: int = 2, needles: tuple[bytes, ...] = ()
) -> Compiled:
    return compile_sources(
        root,
        owners,
        python=python / "bin/python3.12",
        needles=needles,
        jobs=jobs,
        cancel=Cancel(),
        progress=lambda _: None,
    )


def module(seed: int) -> str:
    """Return a module with what makes bytecode depend on what the process compiled before.

    After the name ``*`` of an import, CPython 3.12 marshals every constant ``"*"`` differently (seen with `ftplib`).
    """
    names = random.Random(seed)
    words = [f"name_{names.randrange(50)}" for _ in range(40)]
    lines = [f"{word} = {word!r}, {names.random()}, {{{seed}, {word!r}, 'x y'}}, b'{word}'" for word in words]
    lines += [f"def f{i}({word}): return {word}.{words[i - 1]} in {{'a', 'b', {i}}}" for i, word in enumerate(words)]
    lines.append("from os.path import *" if seed % 3 == 0 else "pattern = name + '*'")
    return "\n".join(lines) + "\n"


def test_bytes_do_not_depend_on_jobs_order_place_or_neighbours(
    tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr_bundler.environment.bytecode._CHUNK_FILES", 7)
    trees = []
    for number, jobs in enumerate((1, 3, 2)):
        root = tmp_path / ("x" * number) / "tree é"
        packages = {
            name: write_sources(root, {f"{SITE}/{name}/m{i}.py": module(3 * i + shift) for i in range(20)})
            for shift, name in enumerate(("a", "b", "c"))
        }
        owners = [packages["a"], packages["b"], packages["c"]]
        if number == 1:
            owners = [owner[::-1] for owner in owners[::-1]]
        if number == 2:
            owners = [packages["b"]]
        compiled = compile_tree(root, owners, python, jobs)
        assert not compiled.failed
        trees.append({entry.path: entry for entry in compiled.entries})
    assert trees[0] == trees[1]
    assert len(trees[2]) == 20
    assert trees[2].items() <= trees[0].items()


def test_what_is_written(tmp_path: Path, python: Path) -> None:
    sources = write_sources(tmp_path, {f"{SITE}/a/b.py": "def f():\n    return 1\n", f"{SITE}/a/empty.py": ""})
    compiled = compile_tree(tmp_path, [sources], python)
    assert [entry.path for entry in compiled.entries] == [
        f"{SITE}/a/__pycache__/b.cpython-312.pyc",
        f"{SITE}/a/__pycache__/empty.cpython-312.pyc",
    ]
    entry = compiled.entries[0]
    content = (tmp_path / entry.path).read_bytes()
    assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert compiled.sources == {
        f"{SITE}/a/__pycache__/{name}.cpython-312.pyc": f"{SITE}/a/{name}.py" for name in ("b", "empty")
    }
    assert content[4:8] == b"\1\0\0\0"
    # Python itself would have written the same, but for the name of the file
    target = tmp_path / "compiled.pyc"
    code = (
        "import py_compile as p, sys; p.compile(sys.argv[1], sys.argv[2], sys.argv[3], True,"
        " invalidation_mode=p.PycInvalidationMode.UNCHECKED_HASH)"
    )
    command = [python / "bin/python3.12", "-c", code, tmp_path / sources[0].path, target, sources[0].path]
    subprocess.run(command, check=True)
    assert target.read_bytes() == content
    assert sources[0].path.encode() in content
    assert str(tmp_path).encode() not in content


def test_what_is_not_python(tmp_path: Path, python: Path) -> None:
    sources = write_sources(
        tmp_path,
        {
            f"{SITE}/a/template.py": "class {{ name }}: pass\n",
            f"{SITE}/a/nul.py": b"x = '\0'\n",
            f"{SITE}/a/latin.py": b"x = '\xe4'\n",
            f"{SITE}/a/deep.py": "(" * 5000 + ")" * 5000,
            f"{SITE}/a/warns.py": "x = '\\d'\nassert (x, 'always')\n",
            f"{SITE}/a/good.py": "x = 1\n",
        },
    )
    compiled = compile_tree(tmp_path, [sources], python)
    assert {Path(path).stem for path in compiled.failed} == {"template", "nul", "latin", "deep"}
    assert compiled.failed[f"{SITE}/a/template.py"].startswith("SyntaxError: ")
    assert {Path(entry.path).name for entry in compiled.entries} == {"good.cpython-312.pyc", "warns.cpython-312.pyc"}


def test_needles_in_bytecode(tmp_path: Path, python: Path) -> None:
    sources = write_sources(tmp_path, {f"{SITE}/a.py": "x = '/hay' + '/needle'\n", f"{SITE}/b.py": "y = 1\n"})
    compiled = compile_tree(tmp_path, [sources], python, needles=(b"/other", b"/hay/needle"))
    assert compiled.needles == {f"{SITE}/__pycache__/a.cpython-312.pyc": (1,)}


def test_another_python_is_refused(tmp_path: Path) -> None:
    if sys.version_info[:2] == (3, 12):
        pytest.skip("this is a 3.12")
    sources = write_sources(tmp_path, {f"{SITE}/a.py": ""})
    with pytest.raises(BuildError, match=r"not 3\.12"):
        compile_sources(
            tmp_path,
            [sources],
            python=Path(sys.executable),
            needles=(),
            jobs=1,
            cancel=Cancel(),
            progress=lambda _: None,
        )


def test_a_worker_that_fails(tmp_path: Path, python: Path) -> None:
    missing = FileEntry(path=f"{SITE}/gone.py", mode=0o644, size=1, sha256="0" * 64)
    with pytest.raises(BuildError, match="FileNotFoundError"):
        compile_tree(tmp_path, [[missing]], python)
    with pytest.raises(BuildError, match="Cannot run"):
        compile_tree(tmp_path, [[missing]], tmp_path)


def test_cancelled_workers_end(tmp_path: Path, python: Path) -> None:
    sources = write_sources(tmp_path, {f"{SITE}/m{i}.py": module(i) * 20 for i in range(60)})
    cancel = Cancel()
    with pytest.raises(CancelledError):
        compile_sources(
            tmp_path,
            [[source] for source in sources],
            python=python / "bin/python3.12",
            needles=(),
            jobs=2,
            cancel=cancel,
            progress=lambda _: cancel.set(),
        )
    mine = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True, check=False
    )
    assert "bytecode_worker" not in mine.stdout


def test_chunks() -> None:
    def entry(path: str, size: int) -> FileEntry:
        return FileEntry(path=path, mode=0o644, size=size, sha256="0" * 64)

    assert plan_chunks([]) == []
    assert plan_chunks([entry("b", 0), entry("a", 0)]) == [("a", "b")]
    huge = 3 << 20
    assert plan_chunks([entry("c", 1), entry("b", huge), entry("a", 1)]) == [("a",), ("b",), ("c",)]
    many = plan_chunks([entry(f"{i:04}", 1) for i in range(1000)])
    assert [len(chunk) for chunk in many] == [400, 400, 200]
    assert [path for chunk in many for path in chunk] == sorted(f"{i:04}" for i in range(1000))


def test_what_gets_bytecode() -> None:
    yes = [f"{SITE}/a.py", "lib/python3.12/os.py", ".mr/shim/mr_shim/main.py"]
    no = ["bin/tool.py", f"{SITE}/a.pyi", "share/x.py", "lib/python3.12/a.pyc", "lib/other.py"]
    assert all(map(is_source, yes))
    assert not any(map(is_source, no))


def test_identity_follows_the_interpreter() -> None:
    assert bytecode_identity("a") != bytecode_identity("b")
    assert bytecode_identity("a") == bytecode_identity("a")


def test_the_worker_reads_nothing_but_jobs_from_stdin(python: Path) -> None:
    """The protocol by hand: a greeting, one answer for a job, and the end."""
    worker = Path(sys.modules["mr_bundler.environment.bytecode"].__file__ or "").with_name("bytecode_worker.py")
    job = marshal.dumps(["/nonexistent", [], []], 2)
    ran = subprocess.run(
        [python / "bin/python3.12", worker], input=b"%d\n" % len(job) + job, capture_output=True, check=True
    )
    hello, _, rest = ran.stdout.partition(b"\n")
    version, magic = marshal.loads(rest[: int(hello)])
    assert (version.startswith("3.12."), magic) == (True, 3531)
    assert rest[int(hello) :] == b"%d\n" % len(marshal.dumps([], 2)) + marshal.dumps([], 2)


def test_bytecode_has_one_source() -> None:
    assert source_of(f"{SITE}/a/__pycache__/b.cpython-312.pyc") == f"{SITE}/a/b.py"
    assert source_of(f"{SITE}/a/__pycache__/b.min.cpython-312.pyc") == f"{SITE}/a/b.min.py"


def test_too_little_memory_says_nothing_about_a_file(tmp_path: Path, python: Path) -> None:
    """A file left without its bytecode would be packed, and kept in the cache, as if it were no Python."""
    short = tmp_path / "short/bin/python3.12"
    short.parent.mkdir(parents=True)
    short.write_text(f'#!/bin/sh\nulimit -v 120000\nexec "{python}/bin/python3.12" "$@"\n')
    short.chmod(0o755)
    nested = write_sources(tmp_path, {f"{SITE}/nested.py": "-" * 20_000 + "1"})
    compiled = compile_tree(tmp_path, [nested], short.parents[1], jobs=1)
    assert "Parser stack overflowed" in compiled.failed[nested[0].path], "that is the same on every machine"
    large = write_sources(tmp_path, {f"{SITE}/large.py": "x = [" + "(1, 'a', b),\n" * 1_000_000 + "]"})
    with pytest.raises(BuildError, match=r"Cannot compile bytecode with .*MemoryError"):
        compile_tree(tmp_path, [large], short.parents[1], jobs=1)
