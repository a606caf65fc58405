"""What slimming leaves must still do everything: the probe and the server are tested elsewhere, this is the JIT."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import Built

from support.need import need

pytestmark = pytest.mark.xdist_group("mlx-lm")
COMPILES = """
import mlx.core as mx
mx.set_default_device(mx.cpu)
f = mx.compile(lambda x, y: mx.exp(x) * y + mx.tanh(x) - y)
print(f(mx.ones(64), mx.full(64, 2.0)).sum().item())
"""


def test_the_jit_finds_its_headers_after_slimming(installed: Path, tmp_path: Path) -> None:
    """mlx compiles CPU kernels against its own headers when the host has g++; `slim.keep` is there for them."""
    need("g++")
    python = installed / "mlx-lm" / "bin" / "python3"
    workplace = tmp_path / "tmp"
    workplace.mkdir()
    finished = subprocess.run(
        [str(python), "-I", "-c", COMPILES],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(workplace)},
    )
    assert finished.returncode == 0, finished.stderr
    assert abs(float(finished.stdout) - 64 * (2.718281828 * 2 + 0.761594156 - 2)) < 0.1
    compiled = [path for path in workplace.rglob("*") if path.suffix in {".so", ".dylib"}]
    assert compiled, f"nothing was compiled: {[str(path) for path in workplace.rglob('*')]}"


def test_the_build_says_what_each_rule_saved(built: Built) -> None:
    saved = {row["rule"]: row for row in built.outcome["slim"]}
    assert saved["numpy/**/tests"]["files"] > 100
    assert saved["numpy/**/tests"]["bytes"] > 1_000_000
