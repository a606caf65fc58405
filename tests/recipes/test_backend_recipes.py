"""The committed recipes and locks of the four backends: what each must hold, read without a network."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from mr_bundler.lock.lock import Lock, check_locks, current_lock, refuse_pending
from mr_bundler.recipe.recipe import find_recipes, load_recipe
from mr_core.errors import InvalidInputError
from mr_core.platform import Target

RECIPES = Path(__file__).parents[2] / "recipes"
LINUX, ARM, MAC = "linux/amd64+cpu", "linux/arm64+cpu", "darwin/arm64+metal"
CUDA, CUDA_ARM = "linux/amd64+cuda13", "linux/arm64+cuda13"
TARGETS = {
    "mlx-lm": {LINUX, ARM, MAC},
    "vllm": {CUDA, CUDA_ARM},
    "vllm-metal": {MAC},
    "vllm-mlx": {LINUX, MAC},
}


def locked(backend: str, target: str) -> Lock:
    return current_lock(load_recipe(RECIPES / backend), Target.parse(target))


def versions(backend: str, target: str) -> dict[str, str]:
    return {package.name: package.version for package in locked(backend, target).packages}


def test_the_four_backends_have_their_targets() -> None:
    found = {path.name: {str(target) for target in check_locks(load_recipe(path))} for path in find_recipes(RECIPES)}
    assert {name: found.get(name) for name in TARGETS} == TARGETS


@pytest.mark.parametrize("backend", TARGETS)
def test_recipes_share_their_interpreter_and_date(backend: str) -> None:
    recipe, other = load_recipe(RECIPES / backend), load_recipe(RECIPES / "mlx-lm")
    assert recipe.python == other.python, "equal interpreters give equal layers"
    assert recipe.exclude_newer == other.exclude_newer, "equal dates give equal versions of what they share"
    quiet = {"HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"}
    assert quiet <= set(recipe.launch.environment), "no server reports home"


def test_only_two_wheels_and_one_commit_of_vllm_metal_are_pending() -> None:
    pending = {
        (backend, package.name): package
        for backend, targets in TARGETS.items()
        for target in targets
        for package in locked(backend, target).pending
    }
    wanted = {("vllm-metal", name) for name in ("vllm", "vllm-metal", "mlx-lm")}
    assert set(pending) <= wanted, "everything else is locked; these, too, once they were fetched"
    given = {
        package.name: package
        for package in locked("vllm-metal", MAC).packages
        if package.url or package.vcs is not None
    }
    assert set(given) == {"vllm", "vllm-metal", "mlx-lm"}
    host = "https://github.com/vllm-project"
    assert given["vllm"].url.startswith(f"{host}/vllm/releases/download/v")
    assert given["vllm"].file.endswith("+cpu-cp312-cp312-macosx_11_0_arm64.whl")
    assert given["vllm-metal"].url.startswith(f"{host}/vllm-metal/releases/download/v")
    assert given["vllm-metal"].file.endswith("-cp312-cp312-macosx_15_0_arm64.whl")
    commit = given["mlx-lm"].vcs
    assert commit is not None
    assert commit.commit == "254d153fdeb6f150edd4fc5a54f9828638481fa8"


def test_a_lock_with_pending_wheels_is_named_and_refused() -> None:
    lock = locked("vllm-metal", MAC)
    if not lock.pending:
        pytest.skip("locked on a connected machine: nothing is pending")
    with pytest.raises(InvalidInputError) as caught:
        refuse_pending(lock)
    for name in ("`mlx-lm`", "`vllm`", "`vllm-metal`"):
        assert name in caught.value.message
    assert "mr-bundle lock" in caught.value.hint


def test_vllm_metal_keeps_the_pins_its_users_were_burnt_by() -> None:
    found = versions("vllm-metal", MAC)
    assert found["mlx"] == found["mlx-metal"] == "0.32.0", "a private ABI"
    assert found["vllm"].removesuffix("+cpu") == found["vllm-metal"], "one release of the plugin goes with one of vLLM"
    numbers = {name: tuple(map(int, re.findall(r"\d+", version)[:3])) for name, version in found.items()}
    assert (0, 1, 9) <= numbers["apache-tvm-ffi"] < (0, 1, 13), "else a segmentation fault"
    assert (5, 5, 3) <= numbers["transformers"] < (5, 13), "else silently on the CPU"
    assert (0, 6, 2) <= numbers["mlx-vlm"] < (0, 7)
    assert (1, 7) <= numbers["llguidance"] < (1, 8)
    assert (0, 133) <= numbers["fastapi"] < (0, 137)
    assert numbers["starlette"] >= (1, 0, 1)
    assert found["nanobind"] == "2.10.2"
    assert load_recipe(RECIPES / "vllm-metal").targets[0].requires.macos == "15.0"


@pytest.mark.parametrize("backend", TARGETS)
def test_a_coupled_version_is_typed_once(backend: str) -> None:
    text = re.sub(r"#.*", "", (RECIPES / backend / "recipe.toml").read_text())
    for name, version in tomllib.loads(text).get("versions", {}).items():
        others = re.findall(rf"(?<![\d.]){re.escape(version)}(?![\d.])", text)
        assert len(others) == 1, f"{name} {version} must be written as `{{{name}}}` elsewhere"


def test_vllm_is_for_cuda_13_on_both_architectures() -> None:
    recipe = load_recipe(RECIPES / "vllm")
    amd, arm = versions("vllm", CUDA), versions("vllm", CUDA_ARM)
    assert amd == arm
    assert len(amd) > 190, "the whole tree, not the wheel alone"
    for target in recipe.targets:
        assert target.requires.cuda_driver == "580"
    assert int(amd["cuda-python"].partition(".")[0]) >= 13, "12 fights with cuda-bindings over 25 files"
    assert amd["nvidia-cuda-runtime"].startswith("13.")
    assert not [name for name in amd if name.startswith("nvidia-") and name.endswith("-cu12") and "cutlass" not in name]
    for target in (CUDA, CUDA_ARM):
        assert all(package.sha256 for package in locked("vllm", target).packages)


@pytest.mark.parametrize("backend", ["vllm", "vllm-metal"])
def test_vllm_never_reports_home(backend: str) -> None:
    environment = load_recipe(RECIPES / backend).launch.environment
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_HOST_IP"] == "127.0.0.1"


def test_vllm_mlx_needs_no_torch_on_linux() -> None:
    linux, mac = versions("vllm-mlx", LINUX), versions("vllm-mlx", MAC)
    assert linux["vllm-mlx"] == mac["vllm-mlx"]
    assert {"mlx-cpu"} <= set(linux)
    assert {"torch", "torchvision", "mlx-metal"}.isdisjoint(linux)
    assert {"torch", "torchvision", "mlx-metal"} <= set(mac)
    for found in (linux, mac):
        assert {"opencv-python", "gradio", "datasets", "pandas", "pyarrow"}.isdisjoint(found)
        assert "opencv-python-headless" in found


@pytest.mark.parametrize("target", [LINUX, MAC])
def test_mlx_lm_and_vllm_mlx_share_what_both_have(target: str) -> None:
    mine = {package.name: package.sha256 for package in locked("mlx-lm", target).packages}
    other = {package.name: package.sha256 for package in locked("vllm-mlx", target).packages}
    assert {name for name in mine if mine[name] != other.get(name)} == {"mlx-lm"}, "vllm-mlx wants an older one"


def test_shared_distributions_are_slimmed_alike() -> None:
    """Else equal distributions would not give equal layers."""
    rules = [load_recipe(RECIPES / backend).slim for backend in ("mlx-lm", "vllm-mlx", "vllm-metal", "vllm")]
    shared = {package.name for package in locked("mlx-lm", LINUX).packages}
    roots = {re.sub(r"[-.]", "_", name) for name in shared}
    own = [{pattern for pattern in rule.remove if pattern.partition("/")[0] in roots} for rule in rules]
    assert all(patterns == own[0] for patterns in own)


@pytest.mark.parametrize("backend", TARGETS)
def test_no_cuda_and_no_foreign_platform_hides_in_a_lock(backend: str) -> None:
    for target in TARGETS[backend]:
        architecture = {"amd64": "x86_64", "arm64": "arm64" if target == MAC else "aarch64"}[
            target.partition("/")[2].partition("+")[0]
        ]
        for package in locked(backend, target).packages:
            tags = {tag.platform for tag in parse_wheel_filename(package.file)[3]} - {"any"}
            assert not tags or any(tag.endswith((architecture, "universal2")) for tag in tags), package.file
            if "cuda" not in target:
                assert not package.name.startswith("nvidia-"), package.name
