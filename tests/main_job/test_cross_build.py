"""mlx-lm for Apple silicon, built on this machine from its real locked wheels and a stand-in interpreter archive."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT, Built, outcome, tool

from mr_bundler.lock.lock import load_lock
from support.macho import BUNDLE, EXECUTE, MachO
from support.python_archive import write_archive

pytestmark = pytest.mark.xdist_group("mlx-lm")
MAC = "darwin/arm64+metal"
LOCK = "darwin-arm64+metal.lock.toml"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The committed recipe, to be changed by a test."""
    return Path(shutil.copytree(PROJECT / "recipes" / "mlx-lm", tmp_path / "recipe"))


def test_without_an_interpreter_the_missing_archive_is_named(recipe: Path, tmp_path: Path) -> None:
    empty = tmp_path / "mirror"
    empty.mkdir()
    finished = tool(
        "mr-bundle", "build", recipe, "--target", MAC, "--layout", tmp_path / "layout", "--cache", tmp_path / "cache",
        check=False, UV_PYTHON_INSTALL_MIRROR=str(empty),
    )  # fmt: skip
    assert finished.returncode == 7
    lock = (recipe / LOCK).read_text()
    name, sha256 = re.findall(r'^name = "(cpython[^"]+)"$|sha256 = "(dd5b[0-9a-f]+)"', lock, flags=re.MULTILINE)[:2]
    assert name[0] in finished.stderr
    assert sha256[1] in finished.stderr
    assert "--python-archive" in finished.stderr
    assert not (tmp_path / "layout").exists()


def test_a_mac_bundle_stands_beside_the_linux_one(built: Built, recipe: Path, tmp_path: Path) -> None:
    archive = tmp_path / "cpython-3.12.14+20260814-aarch64-apple-darwin-install_only_stripped.tar.gz"
    # The shape of the real archive; its binaries are not started here, but they are audited.
    source = Path(json.__file__).parent.parent  # this Python's standard library
    members: dict[str, bytes | str | None] = {
        f"python/lib/python3.12/{name}": (source / name).read_bytes()
        for name in ("os.py", "abc.py", "io.py", "site.py", "codecs.py", "encodings/__init__.py", "encodings/utf_8.py")
    }
    members |= {
        "python/bin/python3.12": MachO(kind=EXECUTE, minos="11.0").dump(),
        "python/bin/python3": "python3.12",
        "python/lib/libpython3.12.dylib": MachO(minos="11.0").dump(),
        "python/lib/python3.12/lib-dynload/_ssl.cpython-312-darwin.so": MachO(kind=BUNDLE, minos="11.0").dump(),
        "python/lib/python3.12/LICENSE.txt": b"PSF\n",
        "python/lib/python3.12/_sysconfigdata__darwin_darwin.py": b"build_time_vars = {'prefix': '/install'}\n",
    }
    pin = write_archive(archive, members)
    lock = load_lock(recipe / LOCK)
    (recipe / LOCK).write_bytes(replace(lock, python=replace(lock.python, sha256=pin.sha256)).dump())
    layout = Path(shutil.copytree(built.layout, tmp_path / "layout"))
    arguments = ("--target", MAC, "--layout", layout, "--cache", tmp_path / "cache", "--json")
    mac = outcome(tool("mr-bundle", "build", recipe, *arguments, "--python-archive", archive))
    assert mac["ref_name"] == built.name
    listed = outcome(tool("mr-bundle", "ls", f"oci:{layout}", "--json"))["bundles"]
    assert {entry["target"] for entry in listed} == {str(built.outcome["target"]), MAC}
    # The Linux bundle is untouched, and this host picks it from the index of both.
    plan = outcome(
        tool("mr-install", "plan", "mlx-lm", "--from", f"oci:{layout}:{built.name}", "--root", tmp_path / "r", "--json")
    )
    assert plan["digest"] == built.outcome["digest"]
    assert plan["rejected"] == {MAC: ["platform"]}
    refused = tool(
        "mr-install", "mlx-lm", "--from", f"oci:{layout}:{built.name}", "--target", MAC, "--root", tmp_path / "r",
        check=False,
    )  # fmt: skip
    assert refused.returncode == 5
    # Its layers hold Mac wheels, under the same one top directory.
    blobs = layout / "blobs" / "sha256"
    manifest = json.loads((blobs / mac["digest"].partition(":")[2]).read_bytes())
    names = set()
    for layer in manifest["layers"]:
        raw = (blobs / layer["digest"].partition(":")[2]).read_bytes()
        tar = subprocess.run(["zstd", "-dc"], input=raw, check=True, capture_output=True).stdout
        listing = subprocess.run(["tar", "-t"], input=tar, check=True, capture_output=True).stdout
        names.update(listing.decode().splitlines())
    assert all(name.startswith("backend/") for name in names)
    assert "backend/lib/python3.12/site-packages/mlx/lib/mlx.metallib" in names
    assert not [name for name in names if name.endswith("linux-gnu.so")]
