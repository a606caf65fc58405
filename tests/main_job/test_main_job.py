"""The main job with the real mlx-lm: from the recipe to an answered chat completion, on every way it can take."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import PROJECT, Built, outcome, tool

from support.invariants import check_invariants
from support.launching import free_port
from support.need import missing, need
from support.registry import RealRegistry
from support.serving import QUESTION, greedy_reply, post, serving

pytestmark = pytest.mark.xdist_group("mlx-lm")


def test_the_launcher_serves_the_openai_api(installed: Path, model: Path) -> None:
    port = free_port()
    launcher = str(installed / "mlx-lm" / "bin" / "mr-serve")
    with serving([launcher, "--model", str(model), "--port", str(port)], port) as url:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as answer:
            models = json.load(answer)
        assert models["data"][0]["id"] == str(model)
        reply = greedy_reply(url)
        assert reply
        stream = post(f"{url}/v1/chat/completions", {**QUESTION, "stream": True}).decode()
        lines = [line for line in stream.splitlines() if line and not line.startswith(":")]
        assert lines[-1] == "data: [DONE]"
        pieces = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-1]]
        assert "".join(piece.get("content") or "" for piece in pieces) == reply


def test_through_a_registry_with_skopeo_between(built: Built, model: Path, tmp_path: Path, installed: Path) -> None:
    """push → registry → skopeo → another layout: no digest changes, and both ends install."""
    skopeo = need("skopeo")
    with RealRegistry(root=tmp_path / "registry") as registry:
        reference = f"docker://{registry.host}/bundles/mlx-lm:{built.outcome['version']}"
        trust = ("--insecure-registry", registry.host)
        pushed = outcome(tool("mr-bundle", "push", built.source, reference, *trust, "--json"))
        assert pushed["digest"] == built.outcome["index_digest"]
        again = outcome(tool("mr-bundle", "push", built.source, reference, *trust, "--json"))
        assert again["bytes_pushed"] == 0
        copy = f"oci:{tmp_path / 'copy'}:mine"
        subprocess.run(
            [skopeo, "copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false", reference, copy], check=True
        )
        back = f"docker://{registry.host}/back/mlx-lm:1"
        subprocess.run(
            [skopeo, "copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false", copy, back], check=True
        )
        root = tmp_path / "root"
        done = outcome(tool("mr-install", "mlx-lm", "--from", back, "--root", root, *trust, "--json"))
        assert done["digest"] == built.outcome["digest"]
        assert check_invariants(root, "mlx-lm") == check_invariants(installed, "mlx-lm")
        listed = outcome(tool("mr-bundle", "ls", back, *trust, "--json"))["bundles"]
        assert [entry["digest"] for entry in listed] == [built.outcome["digest"]]
        assert "installed already" in tool("mr-install", "mlx-lm", "--from", copy, "--root", root).stdout


HIDE = """
set -eu
for place in "$@"; do [ ! -e "$place" ] || mount -t tmpfs tmpfs "$place"; done
mount --bind "$TREE" "$TREE"; mount -o remount,bind,ro "$TREE"
ip link set lo up
exec "$TREE/bin/mr-serve" --model "$MODEL" --port 8080
"""


@pytest.mark.root
def test_it_serves_far_from_the_machine_that_built_it(
    built: Built, installed: Path, model: Path, tmp_path: Path
) -> None:
    """Moved, read-only, in a path beyond ASCII; build directory, base Python and network are hidden."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-mn", "true"], check=False).returncode:
        missing("the right to unshare mounts and network")
    need("ip")
    release = next((installed / "mlx-lm" / "releases").iterdir())
    tree = tmp_path / "verschoben nach Übersee"
    shutil.copytree(release, tree, symlinks=True)
    from mr_bundler.interpreter import find_host_python  # noqa: PLC0415 - used here alone

    away = [find_host_python(), built.cache, built.layout, installed, Path(sys.prefix), PROJECT / "runtime_shim"]
    command = ["unshare", "-mn", "--propagation", "private", "sh", "-c", HIDE, "sh", *map(str, away)]
    ask = (
        "import json, sys, time, urllib.request as r\n"
        "def get(path, body=None):\n"
        "    q = r.Request('http://127.0.0.1:8080' + path, body, {'Content-Type': 'application/json'})\n"
        "    return r.urlopen(q, timeout=60).read()\n"
        "for _ in range(600):\n"
        "    try: get('/health'); break\n"
        "    except OSError: time.sleep(0.1)\n"
        "print(get('/v1/chat/completions', sys.argv[1].encode()).decode())\n"
    )
    environment = {"PATH": os.environ["PATH"], "TREE": str(tree), "MODEL": str(model), "HOME": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            # `unshare` becomes the shell, which becomes the server: the namespaces are those of this process.
            enter = ["nsenter", "-t", str(process.pid), "-m", "-n", str(tree / "bin/python3"), "-I", "-c", ask]
            time.sleep(0.5)
            asked = subprocess.run(
                [*enter, json.dumps(QUESTION)], check=False, capture_output=True, text=True, timeout=120
            )
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            log = process.communicate()[0]
    assert asked.returncode == 0, asked.stderr + log
    assert json.loads(asked.stdout)["choices"][0]["message"]["content"]


def test_two_builds_give_the_same_digest(built: Built, tmp_path: Path) -> None:
    """Other directories, another umask, time zone, locale, hash seed and clock; nothing from a cache of ours."""
    script = 'umask "$1"; shift; exec "$@"'
    command = [str(Path(sys.executable).parent / "mr-bundle"), "build", str(PROJECT / "recipes" / "mlx-lm")]
    command += ["--layout", str(tmp_path / "ein anderes Verzeichnis"), "--cache", str(tmp_path / "c"), "--no-cache"]
    environment = {
        **os.environ, "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7", "TMPDIR": str(tmp_path),
    }  # fmt: skip
    faked = shutil.which("faketime")
    wrapped = [faked, "2001-02-03 04:05:06"] if faked else []
    finished = subprocess.run(
        ["sh", "-c", script, "sh", "077", *wrapped, *command, "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert finished.returncode == 0, finished.stdout
    second = outcome(finished)
    assert second["digest"] == built.outcome["digest"]
    assert second["index_digest"] == built.outcome["index_digest"]


def test_a_second_build_has_nothing_to_do(built: Built) -> None:
    arguments = ("--layout", built.layout, "--cache", built.cache, "--json")
    again = outcome(tool("mr-bundle", "build", PROJECT / "recipes" / "mlx-lm", *arguments))
    assert again["skipped"] is True
    assert again["digest"] == built.outcome["digest"]


def test_the_installed_tree_is_intact_and_names_no_machine(built: Built, installed: Path) -> None:
    assert "intact" in tool("mr-install", "verify", "mlx-lm", "--deep", "--root", installed).stdout
    needles = [str(PROJECT).encode(), str(built.cache).encode()]
    if Path.home() != Path("/root"):  # where other people's wheels were built, too
        needles.append(str(Path.home()).encode() + b"/")
    release = next((installed / "mlx-lm" / "releases").iterdir())
    for folder, _, names in os.walk(release):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and path.name != "receipt.json":
                content = path.read_bytes()
                assert not [needle for needle in needles if needle in content], path


def test_export_lock_is_what_other_tools_read(built: Built) -> None:
    target = str(built.outcome["target"])
    text = tool("mr-bundle", "export-lock", PROJECT / "recipes" / "mlx-lm", "--target", target).stdout
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
    assert any(line.startswith("mlx-lm==") for line in lines)
    assert text.count("--hash=sha256:") == len(lines)
