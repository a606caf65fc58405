"""``mr-bundle new``: a recipe that locks, builds, installs and serves as it was written."""

from __future__ import annotations

import json
import subprocess
import tomllib
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mr_bundler.recipe.recipe import load_recipe
from mr_bundler.scaffold.scaffold import least_floor
from mr_core.bundle_config import HostRequirements
from mr_core.platform import Platform, Target
from support.command import PROGRAMS, Ran
from support.wheels import Wheel

HERE = f"{Platform.host()}+cpu"
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}[Platform.host().architecture]
SERVER = """\
import argparse
import json
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"path": self.path, "data": []})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"choices": [{"message": {"content": "echo " + asked["messages"][0]["content"]}}]})

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    HTTPServer((arguments.host, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
"""
METADATA = """\
Metadata-Version: 2.4
Name: echo-llm
Version: VERSION
Summary: A server that says "what it is told"
License-Expression: Apache-2.0
Project-URL: Homepage, https://example.org/echo
Requires-Dist: echo-kernels
"""


def echo(version: str, **files: str) -> Wheel:
    content = {"echo_llm/__init__.py": "", "echo_llm/server.py": SERVER, **files}
    return Wheel(name="echo-llm", version=version, files=content, metadata=METADATA.replace("VERSION", version))


def kernels(version: str, tag: str) -> Wheel:
    return Wheel(name="echo-kernels", version=version, tag=f"cp312-cp312-{tag}", files={"echo_kernels.py": "x = 1\n"})


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None) -> Path:
    """Wheels of one server; its kernels need glibc 2.34 here in their newest version, and macOS 14."""
    house = tmp_path / "wheelhouse"
    for wheel in (
        echo("1.0"),
        echo("1.1"),
        kernels("1.0", f"manylinux_2_28_{MACHINE}"),
        kernels("2.0", f"manylinux_2_34_{MACHINE}"),
        kernels("2.0", f"manylinux_2_39_{MACHINE}"),
        kernels("2.0", "macosx_14_0_arm64"),
    ):
        wheel.write(house)
    monkeypatch.setenv("UV_FIND_LINKS", str(house))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return house


@pytest.mark.usefixtures("house", "python")
def test_from_nothing_to_a_server_that_answers(
    mr_bundle: Callable[..., Ran], mr_install: Callable[..., Ran], shared_cache: Path, tmp_path: Path
) -> None:
    ran = mr_bundle("new", "echo", "--distribution", "Echo_LLM", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    recipe = tmp_path / "recipes" / "echo"
    assert ran.output.splitlines()[-3:] == [
        "next:",
        "  mr-bundle lock recipes/echo",
        "  mr-bundle build recipes/echo",
    ]
    other = {"amd64": "arm64", "arm64": "amd64"}[Platform.host().architecture]
    assert f"note: left out linux/{other}+cpu" in ran.errors
    text = (recipe / "recipe.toml").read_text()
    value = tomllib.loads(text)
    assert value["backend"] == {
        "name": "echo",
        "summary": 'A server that says "what it is told"',
        "homepage": "https://example.org/echo",
        "license": "Apache-2.0",
        "version-from": "echo-llm",
    }
    assert value["lock"]["requirements"] == ["echo-llm==1.1"]
    assert value["lock"]["exclude-newer"].time().isoformat() == "00:00:00"
    assert abs((value["lock"]["exclude-newer"] - datetime.now(UTC)).days) <= 1
    floors = {item["target"]: item.get("glibc") or item["macos"] for item in value["targets"]}
    assert floors == {HERE: "2.34", "darwin/arm64+metal": "14.0"}
    assert value["launch"]["module"] == "echo_llm.server"
    assert value["probe"]["imports"] == ["echo_llm", "echo_llm.server"]
    assert "CHANGE:" not in text  # nothing was guessed
    for steps in (("check",), ("lock",), ("lock", "--check"), ("check",)):
        done = mr_bundle(steps[0], recipe, *steps[1:])
        assert done.status == (3 if steps == ("check",) and not list(recipe.glob("*.lock.toml")) else 0), done.errors
    layout = tmp_path / "layout"
    built = mr_bundle("build", recipe, "--layout", layout, "--cache", shared_cache, "--json")
    assert built.status == 0, built.output
    place = f"oci:{layout}:{built.outcome['ref_name']}"
    audited = mr_bundle("audit", place)
    assert audited.status == 0, audited.errors + audited.output
    root = tmp_path / "root"
    installed = mr_install("echo", "--from", place, "--root", root)
    assert installed.status == 0, installed.errors
    assert mr_install("probe", "echo", "--root", root).status == 0
    command = [str(PROGRAMS / "mr-install"), "serve", "echo", "--model", str(tmp_path), "--root", str(root), "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
            asked = urllib.request.Request(
                f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}, method="POST"
            )
            with urllib.request.urlopen(asked, timeout=20) as answer:
                assert json.load(answer)["choices"][0]["message"]["content"] == "echo hello"
        finally:
            server.terminate()
            server.communicate(timeout=30)


@pytest.mark.usefixtures("house", "python")
def test_named_targets_and_servers(mr_bundle: Callable[..., Ran], tmp_path: Path) -> None:
    place = tmp_path / "mine"
    arguments = ("--distribution", "echo-llm", "--directory", place, "--target", "darwin/arm64+metal")
    ran = mr_bundle("new", "mine", *arguments, "--script", "echo-serve", "--json")
    assert ran.status == 0, ran.output
    assert ran.outcome["targets"] == ["darwin/arm64+metal"]
    assert ran.outcome["version"] == "1.1"
    recipe = load_recipe(place)
    assert (recipe.backend, recipe.launch.script, recipe.launch.module) == ("mine", "echo-serve", "")
    before = (place / "recipe.toml").read_bytes()
    again = mr_bundle("new", "mine", *arguments)
    assert again.status == 2
    assert str(place) in again.errors
    assert (place / "recipe.toml").read_bytes() == before
    (windows,) = {mr_bundle("new", "other", "--distribution", "echo-llm", "--target", "windows/amd64+cpu").status}
    assert windows == 2
    missing = mr_bundle(
        "new", "other", "--distribution", "echo-llm", "--target", "linux/arm64+cpu", "--target", "linux/amd64+cpu",
        "--directory", tmp_path / "other",
    )  # fmt: skip
    assert missing.status == 3
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("house", "python")
def test_what_cannot_be_found_out_is_marked(mr_bundle: Callable[..., Ran], house: Path, tmp_path: Path) -> None:
    Wheel(name="plain-thing", files={"plain_thing.py": "x = 1\n"}).write(house)
    ran = mr_bundle("new", "plain-thing", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    assert "change   homepage, launch, license, summary" in ran.output
    text = (tmp_path / "recipes/plain-thing/recipe.toml").read_text()
    assert text.count("# CHANGE: could not be found out") == 4
    recipe = load_recipe(tmp_path / "recipes/plain-thing")
    assert recipe.launch.module == "plain_thing"
    assert [str(item.target) for item in recipe.targets] == ["linux/amd64+cpu", "linux/arm64+cpu", "darwin/arm64+metal"]
    assert {item.requires.glibc or item.requires.macos for item in recipe.targets} == {"2.28", "13.0"}


def test_wrong_names(mr_bundle: Callable[..., Ran], tmp_path: Path) -> None:
    for arguments in (
        ("Upper",), ("../escape",), ("",), ("a b",), ("x" * 65,), ("ok", "--distribution", "-x"),
        ("ok", "--module", "a/b"), ("ok", "--script", "../x"), ("ok", "--module", "a", "--script", "b"),
        ("ok", "--target", "beos/x86+cpu"), ("ok", "--directory", ""),
    ):  # fmt: skip
        ran = mr_bundle("new", *arguments, cwd=tmp_path)
        assert ran.status == 2, (arguments, ran.errors)
        assert "hint: " in ran.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("house")
def test_no_such_distribution(mr_bundle: Callable[..., Ran], tmp_path: Path) -> None:
    ran = mr_bundle("new", "nothing-like-it", cwd=tmp_path)
    assert ran.status == 3
    assert "nothing-like-it" in ran.errors
    assert "--distribution" in ran.errors
    assert list(tmp_path.glob("recipes*")) == []


def test_an_index_that_does_not_answer(mr_bundle: Callable[..., Ran], tmp_path: Path, own_environment: None) -> None:
    nobody = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0", "UV_CACHE_DIR": str(tmp_path)}
    assert mr_bundle("new", "echo", cwd=tmp_path, **nobody).status == 7


def test_least_floor() -> None:
    linux, mac = Target.parse("linux/amd64+cpu"), Target.parse("darwin/arm64+metal")
    pure, old = ["a-1-py3-none-any.whl"], ["b-1-cp312-cp312-manylinux2014_x86_64.whl"]
    new = ["c-1-cp312-cp312-manylinux_2_39_x86_64.whl", "c-1-cp312-cp312-manylinux_2_35_x86_64.whl"]
    metal = ["d-1-cp312-cp312-macosx_15_0_arm64.whl", "d-1-cp312-cp312-macosx_26_0_arm64.whl"]
    assert least_floor({"a": pure, "b": old}, linux) == HostRequirements(glibc="2.28")
    assert least_floor({"a": pure, "c": new}, linux) == HostRequirements(glibc="2.35")
    assert least_floor({"a": pure, "d": metal}, mac) == HostRequirements(macos="15.0")
    assert least_floor({}, mac) == HostRequirements(macos="13.0")
