from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mr_bundler.environment.wheel_record import read_distributions
from mr_bundler.interpreter import Interpreter, find_host_python, prepare_interpreter
from mr_bundler.lock.export import export_requirements
from mr_bundler.lock.lock import load_lock
from mr_core.errors import NotFoundError
from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from support.need import missing, need
from support.papers import MLX_LM_RECIPE, MlxLm
from support.python_archive import HERE, NOWHERE


def read_entries(root: Path) -> dict[str, Entry]:
    """Describe every file and link below ``root`` with this file's own eyes."""
    found: dict[str, Entry] = {}
    for place in sorted(root.rglob("*")):
        path = place.relative_to(root).as_posix()
        if place.is_symlink():
            found[path] = LinkEntry(path=path, link=os.readlink(place))
        elif place.is_file():
            content = place.read_bytes()
            mode = 0o755 if place.stat().st_mode & 0o100 else 0o644
            sha256 = hashlib.sha256(content).hexdigest()
            found[path] = FileEntry(path=path, mode=mode, size=len(content), sha256=sha256)
    return found


@pytest.fixture(scope="session")
def host_interpreter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Interpreter, dict[str, Entry]]:
    """A relocated Python of this machine, with grafted libraries, and its files."""
    if sys.platform != "linux":
        pytest.skip("a host Python can be relocated on Linux only")
    need("patchelf")
    try:
        prefix = find_host_python()
    except NotFoundError as error:
        missing(f"a CPython 3.12 ({error})")
    directory = tmp_path_factory.mktemp("interpreter")
    made = prepare_interpreter(
        NOWHERE, HERE, destination=directory / "tree", cache=directory / "cache", python_from=prefix
    )
    return made, read_entries(directory / "tree")


@pytest.fixture(scope="session")
def mlx_lm(tmp_path_factory: pytest.TempPathFactory, host_interpreter: tuple[Interpreter, dict[str, Entry]]) -> MlxLm:
    """The real wheels of the committed lock, installed by uv below an environment's root."""
    lock = load_lock(MLX_LM_RECIPE / "linux-amd64+cpu.lock.toml")
    root = tmp_path_factory.mktemp("mlx-lm")
    requirements = root / "requirements.txt"
    requirements.write_text(export_requirements(lock))
    command = [need("uv"), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--prefix", str(root / "tree")]
    command += ["--python", str(find_host_python() / "bin/python3.12"), "--link-mode", "copy"]
    command += ["--python-platform", "x86_64-manylinux_2_35", "--only-binary", ":all:", "-r", str(requirements)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if ran.returncode:
        missing(f"a package index ({ran.stderr.strip()[-200:]})")
    interpreter, own = host_interpreter
    tree = root / "tree"
    return MlxLm(
        lock=lock,
        tree=tree,
        entries=read_entries(tree),
        distributions=read_distributions(tree),
        interpreter=interpreter,
        interpreter_entries=own,
    )
