from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.building import Builder, Built, clean_environment, relocatable_python
from support.need import missing, need
from support.wheels import Wheel

MAC_WHEELS = ("markupsafe==3.0.2", "charset-normalizer==3.4.1", "safetensors==0.5.3")
"""Small, with libraries; those of charset-normalizer are fat."""


@pytest.fixture(scope="session")
def python() -> Path:
    return relocatable_python()


@pytest.fixture(scope="session")
def libraries(python: Path) -> list[Path]:
    """ELF libraries of that Python."""
    return sorted((python / "lib/python3.12/lib-dynload").glob("*.so"))


@pytest.fixture(scope="session")
def mac_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with real wheels for Apple silicon, which uv fetches as everybody's configuration says."""
    root = tmp_path_factory.mktemp("mac")
    site = root / "lib/python3.12/site-packages"
    command = [
        need("uv"),
        "pip",
        "install",
        "--no-config",
        "--target",
        str(site),
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    command += ["--python-platform", "aarch64-apple-darwin", "--python-version", "3.12", "--link-mode", "copy", "-q"]
    environ = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    ran = subprocess.run([*command, *MAC_WHEELS], cwd=root, env=environ, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        missing(f"a package index with {', '.join(MAC_WHEELS)} ({ran.stderr[:300]})")
    (site / ".lock").unlink(missing_ok=True)
    return root


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build-cache")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, python: Path) -> Built:
    """A small bundle, built once for all tests here; those that change it copy its layout first."""
    directory = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        builder = Builder(directory, shared_cache, python, patch, layout=directory / "layout")
        return builder.open(builder.build(Wheel(name="words", files={"words.py": "x = 1\n" * 1000})))


@pytest.fixture
def builder(tmp_path: Path, shared_cache: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    clean_environment(monkeypatch)
    return Builder(tmp_path, shared_cache, python, monkeypatch, layout=tmp_path / "layout")
