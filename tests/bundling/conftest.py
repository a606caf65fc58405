from __future__ import annotations

from pathlib import Path

import pytest

from support.building import Builder, clean_environment, relocatable_python


@pytest.fixture(scope="session")
def python() -> Path:
    return relocatable_python()


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build-cache")


@pytest.fixture
def builder(tmp_path: Path, shared_cache: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    clean_environment(monkeypatch)
    return Builder(tmp_path, shared_cache, python, monkeypatch, layout=tmp_path / "layout")
