"""vllm-metal, whose two wheels and git commit lie on a forge: its whole path, with stand-ins for these three.

Everything else of the recipe is as committed: names, versions, probe, launch, and the shape of what is pending.
"""

from __future__ import annotations

import platform
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from conftest import PROJECT, outcome, tool

from mr_bundler.lock.lock import load_lock
from mr_core.platform import Platform
from support.launching import free_port
from support.mac_python import NAME, write_mac_python
from support.release_host import ReleaseHost
from support.serving import greedy_reply, serving
from support.stand_ins import PLUGIN, keep_requirements, serve_stand_ins, write_small

COMMITTED = PROJECT / "recipes" / "vllm-metal"
LOCK = "darwin-arm64+metal.lock.toml"
SMALL = ("mlx", "numpy", "tokenizers", "torch", "transformers", "xgrammar")
"""What the probe names beside the three: here, as stand-ins of the versions in the committed lock."""
PENDING = ["mlx-lm 0.31.3", "vllm 0.28.0+cpu", "vllm-metal 0.28.0"]


def committed_versions() -> dict[str, str]:
    lock = tomllib.loads((COMMITTED / LOCK).read_text())
    return {package["name"]: package["version"] for package in lock["packages"]}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A recipe for this host in ``directory``; what it gives by address lies on ``host``, which is down."""

    directory: Path
    host: ReleaseHost
    recipe: dict[str, Any]

    @property
    def layout(self) -> Path:
        return self.directory.parent / "layout"

    def save(self) -> None:
        self.directory.mkdir(exist_ok=True)
        (self.directory / "recipe.toml").write_text(tomli_w.dumps(self.recipe))

    def lock(self) -> dict[str, Any]:
        (path,) = self.directory.glob("*.lock.toml")
        return {package["name"]: package for package in tomllib.loads(path.read_text())["packages"]}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this file keep their interpreter."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def scene(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    recipe = tomllib.loads((COMMITTED / "recipe.toml").read_text())
    given = [item["name"] for item in recipe["lock"]["metadata"]]
    keep_requirements(recipe, [*SMALL, *given])
    here, floor = Platform.host(), {"macos": platform.mac_ver()[0]}
    if here.os == "linux":
        floor = {"glibc": platform.libc_ver()[1]}
    recipe["targets"] = [{"target": f"{here}+cpu", **floor}]
    wheelhouse = tmp_path / "wheelhouse"
    versions = committed_versions()
    write_small(wheelhouse, {name: versions[name] for name in SMALL})
    write_small(wheelhouse, {"transformers": "5.13.0", "mlx": "0.33.0"})  # too new, says the recipe
    for name in ("assets", "empty index"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(wheelhouse))
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "empty index").as_uri())
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("MR_CACHE", str(kept))
    with ReleaseHost(tmp_path / "assets", tmp_path) as host:
        for name, text in host.trust.items():
            monkeypatch.setenv(name, text)
        yield Scene(directory=tmp_path / "vllm-metal", host=host, recipe=recipe)


def host_tag() -> str:
    machine = platform.machine()
    return f"manylinux_2_17_{machine}" if Platform.host().os == "linux" else f"macosx_11_0_{machine}"


def test_from_pending_to_an_answered_question(scene: Scene, tmp_path: Path) -> None:
    serve_stand_ins(scene.recipe, scene.host, tag=host_tag())
    scene.save()
    # Nobody answers: the tree locks without the three, and nothing can be built from it.
    locked = tool("mr-bundle", "lock", scene.directory)
    for pending in PENDING:
        name, _, version = pending.partition(" ")
        assert f"the sha256 of `{name}` {version} stays pending: Cannot fetch" in locked.stderr
    assert "9 distributions, 3 pending, written" in locked.stdout
    assert {name: package["version"] for name, package in scene.lock().items()} == {
        name: version for name, version in committed_versions().items() if name in scene.lock()
    }
    checked = outcome(tool("mr-bundle", "check", scene.directory, "--json"))
    assert list(checked["recipes"][0]["pending"].values()) == [PENDING]
    refused = tool("mr-bundle", "build", scene.directory, "--layout", scene.layout, check=False)
    assert refused.returncode == 3
    assert all(f"`{text.partition(' ')[0]}`" in refused.stderr for text in PENDING)
    assert "hint: run `mr-bundle lock" in refused.stderr
    assert not scene.layout.exists()
    # The forge answers: the lock is filled, and the recipe's word about the three holds.
    scene.host.go_up()
    recipe = (scene.directory / "recipe.toml").read_bytes()
    before = scene.lock()
    filled = tool("mr-bundle", "lock", scene.directory, "--require-complete")
    assert "warning" not in filled.stderr
    after = scene.lock()
    assert {name for name in after if after[name] != before[name]} == {text.partition(" ")[0] for text in PENDING}
    assert (scene.directory / "recipe.toml").read_bytes() == recipe
    assert "pending" not in tool("mr-bundle", "check", scene.directory).stdout
    # Built, audited, installed and probed.
    built = outcome(tool("mr-bundle", "build", scene.directory, "--layout", scene.layout, "--json"))
    source = f"oci:{scene.layout}:{built['ref_name']}"
    assert built["ref_name"] == "vllm-metal-0.28.0"
    assert outcome(tool("mr-bundle", "audit", source, "--json"))["findings"] == []
    root = tmp_path / "root"
    tool("mr-install", "vllm-metal", "--from", source, "--root", root, "-q")
    probed = outcome(tool("mr-install", "probe", "vllm-metal", "--root", root, "--json"))
    assert list(probed["modules"]) == scene.recipe["probe"]["imports"]
    assert probed["versions"] == {name: committed_versions()[name] for name in scene.recipe["probe"]["versions"]}
    # The server answers, on the platform of the plugin.
    port = free_port()
    model = tmp_path / "model"
    model.mkdir()
    launcher = str(root / "vllm-metal" / "bin" / "mr-serve")
    with serving([launcher, "--model", str(model), "--port", str(port)], port) as url:
        assert greedy_reply(url) == "metal: hello"


def test_other_bytes_at_an_address_are_refused(scene: Scene, tmp_path: Path) -> None:
    serve_stand_ins(scene.recipe, scene.host, tag=host_tag())
    scene.save()
    scene.host.go_up()
    tool("mr-bundle", "lock", scene.directory, "--require-complete")
    (wheel,) = scene.host.directory.rglob("vllm_metal-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    empty = tmp_path / "another machine"
    refused = tool("mr-bundle", "build", scene.directory, "--layout", scene.layout, "--cache", empty, check=False)
    assert refused.returncode == 6
    assert f"Cannot use `{wheel.name}` from `{scene.host.url}/" in refused.stderr
    assert not scene.layout.exists()


def test_a_plugin_that_fails_does_not_become_active(scene: Scene, tmp_path: Path) -> None:
    """vLLM would serve on the CPU without a word; the probe asks which platform it chose."""
    serve_stand_ins(scene.recipe, scene.host, tag=host_tag(), plugin=f"raise OSError('no Metal here')\n{PLUGIN}")
    scene.recipe["probe"]["imports"].remove("vllm_metal")
    scene.save()
    scene.host.go_up()
    tool("mr-bundle", "lock", scene.directory, "--require-complete")
    built = outcome(tool("mr-bundle", "build", scene.directory, "--layout", scene.layout, "--json"))
    source = f"oci:{scene.layout}:{built['ref_name']}"
    refused = tool("mr-install", "vllm-metal", "--from", source, "--root", tmp_path / "root", check=False)
    assert refused.returncode == 11
    assert "current_platform.is_out_of_tree" in refused.stderr
    assert not (tmp_path / "root" / "vllm-metal" / "current").exists()


@pytest.mark.slow
def test_the_real_tree_for_the_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As committed, with its real macOS wheels from the index; only the three are stand-ins, and the interpreter."""
    recipe = tomllib.loads((COMMITTED / "recipe.toml").read_text())
    with (
        tempfile.TemporaryDirectory(dir=tmp_path) as name,
        ReleaseHost(tmp_path / "assets", tmp_path) as host,
    ):
        for variable, text in host.trust.items():
            monkeypatch.setenv(variable, text)
        monkeypatch.setenv("MR_CACHE", f"{name}/cache")
        serve_stand_ins(recipe, host)
        host.go_up()
        directory = Path(name, "vllm-metal")
        directory.mkdir()
        (directory / "recipe.toml").write_text(tomli_w.dumps(recipe))
        (directory / LOCK).write_bytes((COMMITTED / LOCK).read_bytes())
        # Locking fills in the three, and the others stay what was reviewed.
        (row,) = outcome(tool("mr-bundle", "lock", directory, "--require-complete", "--json"))["locks"]
        assert (row["added"], row["removed"]) == ([], [])
        assert row["changed"] == [f"{text}: its sha256 is known now" for text in PENDING]
        pin = write_mac_python(tmp_path)
        lock = load_lock(directory / LOCK)
        (directory / LOCK).write_bytes(replace(lock, python=replace(lock.python, sha256=pin.sha256)).dump())
        arguments = ("--target", "darwin/arm64+metal", "--python-archive", tmp_path / NAME, "--json")
        built = outcome(tool("mr-bundle", "build", directory, "--layout", f"{name}/layout", *arguments))
        assert built["installed_bytes"] > 10**9, "torch, scipy, numba and the others are really there"
        audited = outcome(tool("mr-bundle", "audit", f"oci:{name}/layout:{built['ref_name']}", "--json"))
        assert audited["findings"] == []
        assert audited["unused_allowances"] == [], "every allowance of the recipe has something to allow"
        assert audited["macos"] == "15.0", "the newest macOS that a binary asks for is the target's floor"
