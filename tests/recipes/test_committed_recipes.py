from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from mr_bundler.lock.lock import check_locks, lock_path, parse_lock
from mr_bundler.recipe.recipe import find_recipes, load_recipe
from mr_core.platform import Target

RECIPES = find_recipes(Path(__file__).parents[2] / "recipes")


def test_there_are_recipes() -> None:
    assert "mlx-lm" in [path.name for path in RECIPES]


@pytest.mark.parametrize("directory", RECIPES, ids=[path.name for path in RECIPES])
def test_every_target_has_a_current_lock(directory: Path) -> None:
    recipe = load_recipe(directory)
    assert recipe.backend == directory.name
    locks = check_locks(recipe)
    assert {path.name for path in directory.glob("*.lock.toml")} == {
        lock_path(recipe, target).name for target in locks
    }, "a lock without a target"
    for target, lock in locks.items():
        names = {package.name for package in lock.packages}
        assert {canonicalize_name(name) for name in recipe.probe.versions} <= names
        assert lock.dump() == lock_path(recipe, target).read_bytes(), "edited by hand"
        assert lock.exclude_newer == recipe.exclude_newer
        late = [package.file for package in lock.packages if package.upload_time > lock.exclude_newer]
        assert late == []


@pytest.mark.parametrize("path", [lock for path in RECIPES for lock in sorted(path.glob("*.lock.toml"))], ids=str)
def test_addresses_only_for_what_no_index_serves(path: Path) -> None:
    text = path.read_text()
    lock = parse_lock(path.read_bytes())
    given = [item.url or (item.vcs.url if item.vcs else "") for item in lock.packages]
    given = [address for address in given if address]
    assert re.findall(r"[a-z+]+://[^\s\"]+", text) == [lock.python.url, *given]
    if path.parent.name != "vllm-metal":
        assert given == []


def test_mlx_lm_is_what_it_was_meant_to_be() -> None:
    directory = next(path for path in RECIPES if path.name == "mlx-lm")
    locks = check_locks(load_recipe(directory))
    found = {}
    for target, lock in locks.items():
        assert lock.version == "0.32.2"
        found[str(target)] = {package.name: package.file for package in lock.packages}
    linux, arm, darwin = (found[text] for text in ("linux/amd64+cpu", "linux/arm64+cpu", "darwin/arm64+metal"))
    assert set(linux) == set(arm)
    assert "mlx-cpu" in linux
    assert "mlx-cpu" not in darwin
    assert "mlx-metal" in darwin
    assert linux["mlx"].endswith("cp312-cp312-manylinux_2_35_x86_64.whl")
    assert arm["mlx"].endswith("cp312-cp312-manylinux_2_35_aarch64.whl")
    assert darwin["mlx"].endswith("cp312-cp312-macosx_14_0_arm64.whl"), "uv's default is macOS 13"
    assert Target.parse("linux/amd64+cpu") in locks
