"""Measure a bundle at full size: vLLM for CUDA, 8.7 GB and 80,000 files; minutes, 4 GB to download, 30 GB of disk.

``make bench-large``: build from a warm package cache, push to a real registry on loopback, push again, export, install
with its probe (which imports vllm and its API server; no GPU is needed for that), and the peak memory of each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT / "benchmarks")]

from measure import Figure, run, write_results  # noqa: E402 - after the path is set

from support.registry import RealRegistry  # noqa: E402 - same

BIN = Path(sys.executable).parent
TARGET = "linux/amd64+cuda13"


def tool(name: str, *arguments: str | Path) -> list[str]:
    return [str(BIN / name), *map(str, arguments)]


class Large:
    """The full-size run; ``figures`` are what it saw."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = directory / "layout"
        self.figures: list[Figure] = []

    def add(self, name: str, value: float, unit: str, target: float | None = None, **detail: object) -> None:
        self.figures.append(Figure(name=name, value=value, unit=unit, target=target, detail=detail))
        print(self.figures[-1].line(), flush=True)

    def timed(self, name: str, command: list[str], *, memory: float | None = None) -> None:
        done = run(command, memory=True)
        self.add(f"{name}, time", done.seconds, "s")
        self.add(f"{name}, peak memory", done.peak_mib, "MiB", memory, with_children_mib=round(done.tree_mib, 1))

    def build(self) -> dict[str, Any]:
        command = tool("mr-bundle", "build", PROJECT / "recipes" / "vllm", "--target", TARGET, "--layout", self.layout)
        self.timed("build", [*command, "-q"])
        begin = time.monotonic()
        lines = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        self.add("build with nothing to do, time", time.monotonic() - begin, "s", 1.0)
        built: dict[str, Any] = json.loads(lines[-1])
        self.add("installed", built["installed_bytes"] / 1e9, "GB", files=built["file_count"])
        self.add("compressed", built["compressed_bytes"] / 1e9, "GB", layers=len(built["layers"]))
        return built

    def publish(self, registry: RealRegistry, name: str) -> str:
        reference = f"docker://{registry.host}/bench/vllm:1"
        push = tool("mr-bundle", "push", f"oci:{self.layout}:{name}", reference)
        push += ["--insecure-registry", registry.host, "-q"]
        self.timed("push", push, memory=200)
        lines = subprocess.run([*push, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        self.add("push again, blob bytes", json.loads(lines[-1])["bytes_pushed"], "B", 0)
        return reference

    def install(self, registry: RealRegistry, reference: str) -> None:
        root = self.directory / "root"
        install = tool("mr-install", "vllm", "--from", reference, "--root", root, "--yes", "-q")
        install += ["--assume-cuda-driver", "580"]  # this machine need not have one
        # The probe imports torch and vllm in a child, whose memory is not the installer's.
        self.timed("install", [*install, "--no-probe", "--insecure-registry", registry.host], memory=200)
        self.add(
            "probe: import vllm and its API server, time",
            run(tool("mr-install", "probe", "vllm", "--root", root)).seconds,
            "s",
        )
        shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where everything is made; default: a temporary directory")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "large.json")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="mr-bench-", dir=options.directory) as name:
        large = Large(Path(name))
        os.environ["MR_CACHE"] = str(large.directory / "cache")
        built = large.build()
        with RealRegistry(root=large.directory / "registry") as registry:
            reference = large.publish(registry, str(built["ref_name"]))
            large.install(registry, reference)
        export = tool("mr-bundle", "export", f"oci:{large.layout}:{built['ref_name']}", "-q")
        large.timed("export", [*export, "-o", large.directory / "vllm.tar"], memory=200)
        write_results(options.out, large.figures)


if __name__ == "__main__":
    main()
