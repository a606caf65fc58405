from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.cli.main import main
from mr_bundler.interpreter.host_search import find_host_python
from mr_core.cli.session import run_command
from mr_core.errors import NotFoundError
from support.need import missing
from support.recipe_files import write_wheel


@pytest.fixture(scope="session")
def python312() -> Path:
    """A CPython 3.12 that runs here."""
    try:
        return find_host_python() / "bin" / "python3.12"
    except NotFoundError:
        missing("a CPython 3.12")


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of the tiny recipe: two builds of the kernels per platform, two versions of the server."""
    path = tmp_path_factory.mktemp("wheelhouse")
    write_wheel(path, "tiny-server", "1.4", requires=("tiny-words",))
    write_wheel(path, "tiny-server", "1.5", requires=("tiny-words",), files={"tiny_server/app.py": "x = 1\n"})
    write_wheel(path, "tiny-words", "3")
    for tag in ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_39_x86_64"):
        write_wheel(path, "tiny-kernels", "2.0", tag=f"cp312-cp312-{tag}", files={"tiny_kernels/tag.txt": tag})
    for tag in ("macosx_13_0_arm64", "macosx_14_0_arm64", "macosx_15_0_arm64"):
        write_wheel(path, "tiny-metal", "2.0", tag=f"cp312-cp312-{tag}", files={"tiny_metal/tag.txt": tag})
    write_wheel(path, "tiny-metal", "2.1", tag="cp312-cp312-macosx_15_0_arm64")
    return path


@pytest.fixture
def wheels_only(wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """uv sees the wheelhouse and nothing else, with a cache of its own; returns that cache."""
    monkeypatch.setenv("UV_FIND_LINKS", str(wheelhouse))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return tmp_path / "uv-cache"


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The object that ``--json`` ended with."""
        last: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        assert last["event"] == "result", last
        return last


@pytest.fixture
def mr_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ran]]:
    """Run the command line in this process: the same as the program, without its start."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setenv("MR_CACHE", str(tmp_path / "mr-cache"))

    def run(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["mr-bundle", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_command(main, "mr-bundle")
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, out, err)

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)
