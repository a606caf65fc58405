from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.building import Builder, clean_environment, relocatable_python
from support.command import Ran, bundler_in_process, run_program
from support.published import PART, Published


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
    return relocatable_python()


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build-cache")


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def builder(
    tmp_path: Path, shared_cache: Path, python: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> Builder:
    return Builder(tmp_path, shared_cache, python, monkeypatch, layout=tmp_path / "layout")


@pytest.fixture(scope="session")
def first_build(tmp_path_factory: pytest.TempPathFactory, python: Path, shared_cache: Path) -> Published:
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        directory = tmp_path_factory.mktemp("published")
        builder = Builder(directory, shared_cache, python, patch, layout=directory / "layout")
        return Published(builder, builder.build(PART))


@pytest.fixture
def published(first_build: Published, monkeypatch: pytest.MonkeyPatch, own_environment: None) -> Published:
    """One bundle for many tests, and an environment to build it again in."""
    wheels = first_build.builder.directory
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels / "wheelhouse"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(wheels / "uv"))
    return replace(first_build, builder=replace(first_build.builder, patch=monkeypatch))
