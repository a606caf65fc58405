"""What building again and fetching again cost: one changed dependency, an unchanged push, neighbouring releases.

Bytes are those of compressed layers. They do not depend on the machine, so one run is enough for them.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import Figure, run

from support.registry import RealRegistry

SMALL_CHANGE = '"mlx-lm==0.32.2", "idna==3.19"'
"""Pins one small dependency of mlx-lm to an older version: a line in the recipe, a distribution in the lock."""
NEIGHBOUR = "0.32.1"
NEIGHBOUR_TIME = "2026-10-17T00:00:00Z"


class Bundles:
    """Builds variants of recipes into layouts of one directory, with one cache."""

    def __init__(self, directory: Path, project: Path, tool: Callable[..., list[str]]) -> None:
        self.directory = directory
        self.project = project
        self.tool = tool
        self.figures: list[Figure] = []

    def add(self, name: str, value: float, unit: str, target: float | None = None, **detail: object) -> None:
        self.figures.append(Figure(name=name, value=value, unit=unit, target=target, detail=detail))
        print(self.figures[-1].line(), flush=True)

    def variant(self, backend: str, name: str, *changes: tuple[str, str], target: str) -> Path:
        """Copy a recipe, change its text by regular expressions, and lock one target again."""
        folder = self.directory / "recipes" / name
        shutil.copytree(self.project / "recipes" / backend, folder, dirs_exist_ok=True)
        recipe = folder / "recipe.toml"
        text = recipe.read_text()
        for pattern, replacement in changes:
            text, count = re.subn(pattern, replacement, text, count=1)
            if not count:
                raise SystemExit(f"{backend}: the recipe has nothing like {pattern}")
        recipe.write_text(text)
        run(self.tool("mr-bundle", "lock", folder, "--target", target, "-q"))
        return folder

    def build(self, recipe: Path, layout: Path, target: str) -> dict[str, Any]:
        command = self.tool("mr-bundle", "build", recipe, "--layout", layout, "--target", target, "-q", "--json")
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def rebuild(self, cold: float, target: str, runs: int) -> None:
        """Time the build after one changed dependency, every time from the caches the unchanged recipe left."""
        changed = self.variant("mlx-lm", "changed", (r'"mlx-lm==[0-9.]+"', SMALL_CHANGE), target=target)
        cache, kept = self.directory / "cache", self.directory / "cache-kept"
        layout = self.directory / "layout"
        self.build(self.project / "recipes" / "mlx-lm", layout, target)
        shutil.copytree(cache, kept)
        seconds = []
        for _ in range(runs):
            shutil.rmtree(cache)
            shutil.copytree(kept, cache)
            seconds.append(
                run(self.tool("mr-bundle", "build", changed, "--layout", layout, "--target", target, "-q")).seconds
            )
        shutil.rmtree(kept)
        share = statistics.median(seconds) / cold
        self.add("rebuild after a change of one small dependency / cold", share, "x", 0.15, seconds=seconds)

    def push_again(self, registry: RealRegistry, reference: str, source: str) -> None:
        """Count what a second push of the same bundle sends."""
        command = self.tool(
            "mr-bundle", "push", source, reference, "--insecure-registry", registry.host, "-q", "--json"
        )
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        sent = json.loads(lines[-1])
        self.add("push of an unchanged bundle, blob bytes", sent["bytes_pushed"], "B", 0)

    def shares(self, target: str) -> None:
        """Show which share of a bundle's bytes a client has already, from a neighbour or another backend."""
        layout = self.directory / "shares"
        now = self.build(self.project / "recipes" / "mlx-lm", layout, target)
        pinned = (r'"mlx-lm==[0-9.]+"', f'"mlx-lm=={NEIGHBOUR}"')
        day = (r"exclude-newer = \S+", f"exclude-newer = {NEIGHBOUR_TIME}")
        same_day = self.build(self.variant("mlx-lm", "neighbour", pinned, target=target), layout, target)
        as_it_was = self.build(self.variant("mlx-lm", "as-it-was", pinned, day, target=target), layout, target)
        other = self.build(self.project / "recipes" / "vllm-mlx", layout, target)
        for name, old, new in (
            (f"mlx-lm {NEIGHBOUR} to {now['version']}, same day's lock: share to fetch", same_day, now),
            (f"mlx-lm {NEIGHBOUR} of {NEIGHBOUR_TIME[:10]} to {now['version']}: share to fetch", as_it_was, now),
            ("vllm-mlx for a client that has mlx-lm: share to fetch", now, other),
            ("mlx-lm for a client that has vllm-mlx: share to fetch", other, now),
        ):
            fetched, whole = bytes_to_fetch(old["layers"], new["layers"])
            self.add(name, fetched / whole, "x", fetched=fetched, whole=whole)


def bytes_to_fetch(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Return the compressed bytes of ``new`` that ``old`` does not hold, and all of them."""
    present = {layer["digest"] for layer in old}
    sizes = {layer["digest"]: int(layer["size"]) for layer in new}
    return sum(size for digest, size in sizes.items() if digest not in present), sum(sizes.values())
