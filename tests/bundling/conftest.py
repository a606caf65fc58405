from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mr_bundler.interpreter.host_search import find_host_python
from mr_core.errors import NotFoundError
from support.building import Builder
from support.need import missing, need


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
def builder(tmp_path: Path, shared_cache: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    for name in [name for name in os.environ if name.startswith(("UV_", "MR_", "SOURCE_DATE"))]:
        monkeypatch.delenv(name)
    return Builder(tmp_path, shared_cache, python, monkeypatch, layout=tmp_path / "layout")
