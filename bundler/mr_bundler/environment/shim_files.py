"""The files that this project itself puts into a bundle: the shim, ``bin/mr-serve``, the recipe and the lock."""

from __future__ import annotations

from pathlib import Path

import mr_shim
from mr_shim.trampoline import LAUNCHER

LAUNCHER_PATH = "bin/mr-serve"
SHIM_PATH = ".mr/shim/mr_shim"
RECIPE_PATH = ".mr/recipe.toml"
LOCK_PATH = ".mr/lock.toml"


def own_files(recipe: bytes, lock: bytes) -> dict[str, tuple[bytes, bool]]:
    """Return content and executability of every file, by path relative to the root of the tree."""
    files = {LAUNCHER_PATH: (LAUNCHER.encode(), True), RECIPE_PATH: (recipe, False), LOCK_PATH: (lock, False)}
    for source in sorted(Path(mr_shim.__file__).parent.glob("*.py")):
        files[f"{SHIM_PATH}/{source.name}"] = (source.read_bytes(), False)
    return files
