from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.interpreter.host_search import find_host_python
from mr_core.errors import NotFoundError
from support.building import Builder
from support.need import missing, need

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    status: int
    output: str
    errors: str

    @property
    def outcome(self) -> dict[str, Any]:
        """The last line of a ``--json`` run."""
        last: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return last


def run_program(program: str, *arguments: object, cwd: Path | None = None, **environment: str) -> Ran:
    ran = subprocess.run(
        [str(PROGRAMS / program), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def mr_bundle() -> Callable[..., Ran]:
    """Run ``mr-bundle`` as people do."""

    def run(*arguments: object, **keywords: Any) -> Ran:
        return run_program("mr-bundle", *arguments, **keywords)

    return run


@pytest.fixture
def mr_install() -> Callable[..., Ran]:
    def run(*arguments: object, **keywords: Any) -> Ran:
        return run_program("mr-install", *arguments, **keywords)

    return run


@pytest.fixture(scope="session")
def python() -> Path:
    """The prefix of a CPython 3.12 of this machine."""
    if sys.platform != "linux":
        pytest.skip("a host Python can be relocated on Linux only")
    need("patchelf")
    try:
        return find_host_python()
    except NotFoundError as error:
        missing(f"a CPython 3.12 ({error})")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build-cache")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("UV_", "MR_", "SOURCE_DATE"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def builder(
    tmp_path: Path, shared_cache: Path, python: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None
) -> Builder:
    return Builder(tmp_path, shared_cache, python, monkeypatch, layout=tmp_path / "layout")
