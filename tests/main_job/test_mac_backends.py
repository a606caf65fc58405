"""vllm-mlx for macOS, built and audited on any host from its real wheels. Slow: hundreds of megabytes of downloads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT

from mr_bundler.build import build_bundle
from mr_bundler.lock.lock import current_lock
from mr_bundler.recipe.recipe import load_recipe
from mr_bundler.result import BuildOptions
from mr_core.platform import Target
from support.mac_python import write_mac_python

TARGET = Target.parse("darwin/arm64+metal")


@pytest.mark.slow
def test_vllm_mlx_builds_for_a_mac_without_a_finding(tmp_path: Path) -> None:
    """The lock pins a python-build-standalone archive; a stand-in takes its place."""
    recipe = load_recipe(PROJECT / "recipes" / "vllm-mlx")
    lock = replace(current_lock(recipe, TARGET), python=write_mac_python(tmp_path))
    options = BuildOptions(
        layout=tmp_path / "layout", cache=tmp_path / "cache", python_archive=tmp_path / lock.python.file
    )
    built = build_bundle(recipe, TARGET, lock, options=options)
    assert built.audit is not None
    assert built.audit.binaries > 250
    assert built.audit.macos == "14.0", "the newest macOS that any binary asks for is the target's floor"
    used = {found.reason for found in built.audit.allowed}
    assert used == {item.reason for item in recipe.audit}, "every allowance covers something"
