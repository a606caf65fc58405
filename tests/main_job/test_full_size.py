"""vLLM for CUDA at full size: 8.7 GB and 80,000 files. Slow: minutes, 4 GB of downloads, 25 GB of disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT, outcome, tool

from mr_core.platform import Platform
from support.need import missing
from support.registry import RealRegistry


@pytest.mark.slow
def test_vllm_builds_publishes_installs_and_imports_without_a_gpu(tmp_path: Path) -> None:
    if Platform.host() != Platform("linux", "amd64"):
        missing("a linux/amd64 host, which can import the wheels")
    arguments = ("--target", "linux/amd64+cuda13", "--layout", tmp_path / "layout", "--cache", tmp_path / "cache")
    built = outcome(tool("mr-bundle", "build", PROJECT / "recipes" / "vllm", *arguments, "--json"))
    assert built["installed_bytes"] > 8_000_000_000
    assert built["audit"]["allowed"], "the real tree needs the recipe's allowances, each with its reason"
    with RealRegistry(root=tmp_path / "registry") as registry:
        reference = f"docker://{registry.host}/bundles/vllm:{built['version']}"
        trust = ("--insecure-registry", registry.host)
        source = f"oci:{tmp_path / 'layout'}:{built['ref_name']}"
        tool("mr-bundle", "push", source, reference, *trust, "-q")
        root = tmp_path / "root"
        install = ("vllm", "--from", reference, "--root", root, "--assume-cuda-driver", "580", "-q")
        tool("mr-install", *install, *trust)  # its probe imports vllm and its API server
    python = root / "vllm" / "bin" / "python3"
    code = "import vllm; print(vllm.__version__)"
    said = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip().startswith(built["version"])
