from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.interpreter.host_search import find_host_python
from mr_core.errors import NotFoundError
from support.building import Builder
from support.command import Ran, bundler_in_process, run_program
from support.need import missing, need
from support.published import PART, Published

FOREIGN = ("UV_", "MR_", "SOURCE_DATE")


@pytest.fixture
def mr_bundle(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    with bundler_in_process(capfd) as run:
        yield run


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
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)


@pytest.fixture
def builder(
    tmp_path: Path, shared_cache: Path, python: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None
) -> Builder:
    return Builder(tmp_path, shared_cache, python, monkeypatch, layout=tmp_path / "layout")


@pytest.fixture(scope="session")
def first_build(tmp_path_factory: pytest.TempPathFactory, python: Path, shared_cache: Path) -> Published:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(FOREIGN)]:
            patch.delenv(name)
        directory = tmp_path_factory.mktemp("published")
        builder = Builder(directory, shared_cache, python, patch, layout=directory / "layout")
        return Published(builder, builder.build(PART))


@pytest.fixture
def published(first_build: Published, monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Published:
    """One bundle for many tests, and an environment to build it again in."""
    wheels = first_build.builder.directory
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels / "wheelhouse"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(wheels / "uv"))
    return replace(first_build, builder=replace(first_build.builder, patch=monkeypatch))
