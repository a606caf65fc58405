"""Bundles for another platform are made here of its wheels and interpreter; only bytecode comes from our Python."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.build import BuildOptions, BuildResult, build_bundle
from mr_bundler.interpreter.host_search import locate_host_python
from mr_bundler.lock.python_pin import PythonPin
from mr_core.bundle_config import ANNOTATION_TARGET
from mr_core.errors import UnavailableError
from mr_core.layout import LayoutStore
from mr_core.platform import Platform, Target
from mr_core.referrers import read_referrer, referrers
from support.building import HERE, SERVER, Builder, Built
from support.macho import BUNDLE, EXECUTE, MachO
from support.python_archive import write_archive
from support.wheels import Wheel

MAC = Target(Platform("darwin", "arm64"), "metal")
SITE = "lib/python3.12/site-packages"
METAL = Wheel(
    name="tiny-metal",
    tag="cp312-cp312-macosx_14_0_arm64",
    files={"tiny_metal/__init__.py": "x = 1\n", "tiny_metal/metal.so": MachO(kind=BUNDLE).dump()},
)


@pytest.fixture
def archive(tmp_path: Path, python: Path) -> tuple[Path, PythonPin]:
    """Return what an archive of python-build-standalone holds, as far as a build that cannot run it looks."""
    stdlib = python / "lib/python3.12"
    members: dict[str, bytes | str | None] = {
        f"python/lib/python3.12/{name}": (stdlib / name).read_bytes()
        for name in ("os.py", "site.py", "abc.py", "encodings/__init__.py")
    }
    members["python/bin/python3.12"] = MachO(kind=EXECUTE, minos="11.0").dump()
    place = tmp_path / "python-darwin.tar.gz"
    return place, write_archive(place, members)


def test_a_bundle_for_macos(builder: Builder, archive: tuple[Path, PythonPin], tmp_path: Path) -> None:
    builder = replace(builder, targets=(f"{HERE}", f"{MAC}"))
    recipe = builder.recipe()
    place, pin = archive
    lock = builder.lock(recipe, [SERVER, METAL], MAC, pin)
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_archive=place, jobs=2)
    result = build_bundle(recipe, MAC, lock, options=options)
    here = builder.build()
    built = Built.read(builder.layout, result)
    assert (built.image["os"], built.image["architecture"]) == ("darwin", "arm64")
    assert [entry.annotations[ANNOTATION_TARGET] for entry in built.index.manifests] == sorted((f"{HERE}", f"{MAC}"))
    assert built.index.manifests[0].platform == MAC.platform
    assert built.config.requires.macos == "14.0"
    paths = built.listing()
    assert f"{SITE}/tiny_metal/metal.so" in paths
    assert f"{SITE}/tiny_metal/__pycache__/__init__.cpython-312.pyc" in paths
    assert "lib/python3.12/__pycache__/abc.cpython-312.pyc" in paths
    prefix = built.unpack(tmp_path / "mac")
    assert (prefix / "bin/tiny-server").read_bytes().startswith(b"#!/bin/sh\n")
    # a pure distribution is the same for every platform, whatever compiled it
    shared = {layer.digest for layer in result.layers if "tiny-server" in layer.distributions}
    native = Built.read(builder.layout, here).unpack(tmp_path / "here")
    for name in ("__init__", "deep"):
        pyc = f"{SITE}/tiny_server/__pycache__/{name}.cpython-312.pyc"
        assert (prefix / pyc).read_bytes() == (native / pyc).read_bytes()
    assert shared <= {layer.digest for layer in here.layers}
    code = f"import sys; sys.path[:0] = [{str(prefix / SITE)!r}]; import tiny_server.deep as d; print(d.where())"
    ran = subprocess.run(
        [native / "bin/python3", "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert ran.stdout == f"{prefix}/{SITE}/tiny_server/deep.py\n"


def test_what_compiled_is_recorded(
    builder: Builder, archive: tuple[Path, PythonPin], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = replace(builder, targets=(f"{MAC}",))
    recipe = builder.recipe()
    place, pin = archive
    lock = builder.lock(recipe, [SERVER, METAL], MAC, pin)
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_archive=place, jobs=2)

    def compiler(result: BuildResult) -> str:
        layout = LayoutStore(builder.layout)
        paper = next(paper for paper in result.papers if paper.kind == "provenance")
        (entry,) = (entry for entry in referrers(layout, result.digest) if entry.digest == paper.digest)
        statement = json.loads(read_referrer(layout, entry))
        return str(statement["predicate"]["buildDefinition"]["internalParameters"]["compiler"])

    first = build_bundle(recipe, MAC, lock, options=options)
    host = locate_host_python()
    assert compiler(first) == f"cpython {host.version}"
    assert build_bundle(recipe, MAC, lock, options=options).skipped
    other = replace(host, version="3.12.99")
    monkeypatch.setattr("mr_bundler.build.locate_host_python", lambda **_: other)
    second = build_bundle(recipe, MAC, lock, options=options)
    assert not second.skipped, "another compiler may give other bytes"
    assert compiler(second) == "cpython 3.12.99"


def test_without_the_archive(builder: Builder) -> None:
    builder = replace(builder, targets=(f"{MAC}",))
    recipe = builder.recipe()
    lock = builder.lock(recipe, [SERVER, METAL], MAC)
    lock = replace(lock, python=replace(lock.python, url="http://127.0.0.1:9/nothing"))
    with pytest.raises(UnavailableError):
        build_bundle(recipe, MAC, lock, options=BuildOptions(layout=builder.layout, cache=builder.cache))
    assert not os.path.lexists(builder.layout)
