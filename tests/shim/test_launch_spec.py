from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import mr_shim
from mr_shim.spec import LaunchSpec, ProbeSpec, SpecError
from support.fake_release import LAUNCH, PROBE


@pytest.mark.parametrize("spec", [LAUNCH, PROBE, LaunchSpec(script="serve", options={"model": "positional"})])
def test_a_spec_survives_json_copies_and_pickling(spec: LaunchSpec | ProbeSpec) -> None:
    assert type(spec).from_json(json.loads(json.dumps(spec.to_json())), strict=True) == spec
    assert copy.deepcopy(spec) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert eval(repr(spec)) == spec


def test_a_spec_is_equal_by_value_and_cannot_be_changed() -> None:
    assert LaunchSpec(module="a") == LaunchSpec(module="a")
    assert LaunchSpec(module="a") != LaunchSpec(module="b")
    assert LaunchSpec() != ProbeSpec()
    with pytest.raises(AttributeError, match="immutable"):
        LAUNCH.module = "other"
    with pytest.raises(AttributeError, match="immutable"):
        del LAUNCH.module
    with pytest.raises(TypeError, match="unhashable"):
        hash(LAUNCH)
    with pytest.raises(TypeError, match="modul"):
        LaunchSpec(modul="x")  # type: ignore[call-arg]


def test_every_problem_of_a_launch_spec_is_listed() -> None:
    with pytest.raises(SpecError) as caught:
        LaunchSpec.from_json(
            {
                "module": "a",
                "script": "../b",
                "stop_signal": "SIGKILL",
                "stop_grace": True,
                "health_path": "health",
                "environment": {"A=B": "x"},
                "options": {"port": "--port"},
                "unsupported": {"port": "none"},
                "arguments": ["a\nb"],
                "colour": 1,
            },
            strict=True,
        )
    paths = [problem.partition(":")[0] for problem in caught.value.problems]
    assert set(paths) == {
        *("module", "script", "stop_signal", "stop_grace", "health_path", "environment.A=B", "options.port"),
        *("arguments[0]", "colour", "options.model"),
    }


@pytest.mark.parametrize("path", ["/\xe9", "/a b", "/a\tb", "/\x7f", "/\ud800"])
def test_a_health_path_is_what_http_can_carry(path: str) -> None:
    table = {"module": "a", "options": {"model": "--model"}}
    with pytest.raises(SpecError, match="health_path: must be printable ASCII without spaces"):
        LaunchSpec.from_json({**table, "health_path": path})
    assert LaunchSpec.from_json({**table, "health_path": "/v1/health?a=%20~"}).health_path == "/v1/health?a=%20~"


@pytest.mark.parametrize("name", ["", "A=B", "A\x00B"])
def test_a_variable_has_a_name_that_processes_can_have(name: str) -> None:
    with pytest.raises(SpecError, match="is not a variable name"):
        LaunchSpec.from_json({"module": "a", "options": {"model": "--model"}, "environment": {name: "x"}})


@pytest.mark.parametrize("check", ["mlx.core", "mlx:", "a:b()", ":b", "a b:c"])
def test_an_accelerator_check_is_a_name_not_an_expression(check: str) -> None:
    with pytest.raises(SpecError, match="module:attribute"):
        ProbeSpec.from_json({"imports": ["a"], "accelerator": check})


def test_the_shim_imports_nothing_slow() -> None:
    """The shim has 30 ms, interpreter start included; each of these would take a third of it or more."""
    slow = {
        "typing",
        "dataclasses",
        "inspect",
        "argparse",
        "subprocess",
        "pathlib",
        "logging",
        "ssl",
        "importlib.metadata",
    }
    program = "import sys; sys.path.insert(0, sys.argv[1]); import mr_shim.main, mr_shim.serve; print(*sys.modules)"
    root = Path(mr_shim.__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, root], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert "mr_shim.command" in loaded
    assert not slow & loaded
