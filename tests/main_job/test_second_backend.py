"""vllm-mlx against mlx-lm: two servers over one engine must answer a greedy question alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PROJECT, Built, outcome, tool

from support.launching import free_port
from support.serving import greedy_reply, serving

pytestmark = pytest.mark.xdist_group("mlx-lm")


def test_vllm_mlx_answers_as_mlx_lm(built: Built, installed: Path, model: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    arguments = ("--layout", layout, "--cache", built.cache, "--target", "linux/amd64+cpu", "--json")
    other = outcome(tool("mr-bundle", "build", PROJECT / "recipes" / "vllm-mlx", *arguments))
    root = tmp_path / "root"
    tool("mr-install", "vllm-mlx", "--from", f"oci:{layout}:{other['ref_name']}", "--root", root, "-q")
    replies = []
    for launcher in (installed / "mlx-lm" / "bin" / "mr-serve", root / "vllm-mlx" / "bin" / "mr-serve"):
        port = free_port()
        with serving([str(launcher), "--model", str(model), "--port", str(port)], port) as url:
            replies.append(greedy_reply(url))
    assert replies[0]
    assert replies[0] == replies[1]
    held = {layer["digest"] for layer in built.outcome["layers"]}
    shared = sum(layer["size"] for layer in other["layers"] if layer["digest"] in held)
    whole = sum(layer["size"] for layer in other["layers"])
    assert shared > whole // 4, "equal distributions give equal layers in both bundles"
