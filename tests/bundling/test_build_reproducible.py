"""The same recipe and lock give the same bytes, whatever surrounds the build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mr_core.platform import Target
from support.building import HERE, SERVER, Builder
from support.wheels import Wheel

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import json, os, sys
from pathlib import Path
import pytest
from mr_core.platform import Target
from support.building import Builder
from support.wheels import Wheel
os.umask(int(sys.argv[4], 8))
patch = pytest.MonkeyPatch()
builder = Builder(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), patch, layout=Path(sys.argv[1], "layout"))
wheels = [Wheel(name=name, files=files, scripts=scripts) for name, files, scripts in json.loads(sys.argv[6])]
result = builder.build(*wheels, use_cache=False, jobs=int(sys.argv[5]), work=Path(sys.argv[1], "work"))
print(json.dumps({"index": str(result.index_digest), "layers": [str(layer.digest) for layer in result.layers]}))
"""
_WHEELS = [
    (SERVER.name, dict(SERVER.files), dict(SERVER.scripts)),
    *((f"part-{number}", {f"part_{number}/__init__.py": f"x = {{'a', 'b', {number}}}\n"}, {}) for number in range(5)),
]


def build_elsewhere(builder: Builder, directory: Path, umask: str, jobs: int, wheels: object, **env: str) -> dict:
    directory.mkdir(parents=True)
    paths = [str(ROOT / name) for name in ("bundler", "installer", "runtime_shim", "tests")]
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(paths), **env}
    ran = subprocess.run(
        [
            *(sys.executable, "-c", _PROGRAM, directory, builder.cache, builder.python),
            *(umask, str(jobs), json.dumps(wheels)),
        ],
        env=surroundings,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict = json.loads(ran.stdout)
    return found


def test_other_surroundings_same_bytes(builder: Builder, tmp_path: Path) -> None:
    plain = build_elsewhere(
        builder, tmp_path / "a", "022", 1, _WHEELS, HOME=str(tmp_path), TZ="UTC", LC_ALL="C", PYTHONHASHSEED="1"
    )
    odd = build_elsewhere(
        builder,
        tmp_path / "a longer ünd stränger directory",
        "077",
        3,
        _WHEELS[::-1],
        HOME=str(tmp_path / "nobody"),
        TZ="Asia/Kathmandu",
        LC_ALL="C.UTF-8",
        PYTHONHASHSEED="4711",
        PYTHONOPTIMIZE="2",
        PYTHONDONTWRITEBYTECODE="",
        UV_COMPILE_BYTECODE="1",
    )
    assert plain == odd


def test_another_target_of_the_same_platform_shares_all_but_the_last_layer(builder: Builder) -> None:
    other = f"{HERE.platform}+cuda13"
    builder = replace(builder, targets=(f"{HERE}", other))
    first, second = builder.build(), builder.build(target=Target.parse(other))
    assert [layer.digest for layer in first.layers[:-1]] == [layer.digest for layer in second.layers[:-1]]
    assert first.digest != second.digest


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o4755])
def test_modes_of_wheels_are_normalised(builder: Builder, mode: int, tmp_path: Path) -> None:
    wheel = Wheel(name="moded", files={"moded/tool": (b"x", mode), "moded/__init__.py": ""})
    prefix = builder.open(builder.build(wheel)).unpack(tmp_path / "tree")
    found = (prefix / "lib/python3.12/site-packages/moded/tool").stat().st_mode & 0o7777
    assert found == (0o755 if mode & 0o100 else 0o644)
