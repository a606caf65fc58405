"""Small real bundles for installer tests: this host's Python, one wheel with a small server, built by the bundler."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mr_bundler.build import build_bundle
from mr_bundler.interpreter import find_host_python
from mr_bundler.lock.lock import Lock, LockedWheel, inputs_digest, platform_floor
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.recipe.recipe import load_recipe
from mr_bundler.result import BuildOptions
from mr_core.errors import NotFoundError
from mr_core.platform import Platform, Target
from support.need import missing, need
from support.recipe_files import write_recipe, write_wheel

BACKEND = "tiny"
TARGET = f"{Platform.host()}+cpu"
CUDA_TARGET = f"{Platform.host()}+cuda13"
GOOD, NEXT, BROKEN, STUCK, DEMANDING, DRIVEN = "1.0", "1.1", "2.0", "2.1", "3.0", "4.0"
VERSIONS = (GOOD, NEXT, BROKEN, STUCK, DEMANDING, DRIVEN)
"""Two that work, one whose import fails, one whose import never ends, one that no host can run, one for a driver."""

_SERVER = (Path(__file__).parent / "fake_backend.py").read_text()
_MODULES = {
    GOOD: '__version__ = "1.0"\n',
    NEXT: '__version__ = "1.1"\n',
    BROKEN: "import no_such_module_of_a_broken_bundle\n",
    STUCK: "import time\ntime.sleep(600)\n",
    DEMANDING: '__version__ = "3.0"\n',
    DRIVEN: '__version__ = "4.0"\n',
}
_RECIPE = """\
format = 1

[backend]
name = "tiny"
summary = "A small server for tests"
homepage = "https://example.org/tiny"
license = "MIT"
version-from = "tiny-server"

[python]
version = "3.12.14"
build = "20260814"

[lock]
exclude-newer = 2026-11-20T00:00:00Z
requirements = ["tiny-server"]

[[targets]]
target = "TARGET"
glibc = "GLIBC"

[probe]
imports = ["tiny_server", "fake_backend"]
versions = ["tiny-server"]
timeout = 3

[launch]
module = "fake_backend"
start-timeout = 20
stop-grace = 5

[launch.options]
model = "--model"
host = "--host"
port = "--port"

[launch.unsupported]
served-model-name = "the small server has one name"
"""


@dataclass(frozen=True)
class Bundles:
    """A layout that holds every version, named ``tiny-<version>``."""

    layout: Path

    def source(self, version: str) -> str:
        return f"oci:{self.layout}:{BACKEND}-{version}"

    def digests(self, version: str) -> tuple[str, list[str]]:
        """Return the digests of a version's manifest and layers, the largest layer first."""
        names = json.loads((self.layout / "index.json").read_bytes())["manifests"]
        key = "org.opencontainers.image.ref.name"
        top = next(entry for entry in names if entry["annotations"][key] == f"{BACKEND}-{version}")
        manifest = json.loads(self.blob(top["digest"]).read_bytes())["manifests"][0]["digest"]
        layers = json.loads(self.blob(manifest).read_bytes())["layers"]
        return manifest, [layer["digest"] for layer in sorted(layers, key=lambda layer: -layer["size"])]

    def blob(self, digest: str) -> Path:
        return self.layout / "blobs" / "sha256" / digest.partition(":")[2]


def build_small_bundles(directory: Path) -> Bundles:
    """Build every version below ``directory``, once for all test processes that share it."""
    need("patchelf")
    try:
        python = find_host_python()
    except NotFoundError as error:
        missing(f"a CPython 3.12 ({error})")
    directory.mkdir(parents=True, exist_ok=True)
    layout = directory / "layout"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            for version in VERSIONS:
                _build(directory, layout, python, version)
            (directory / "done").touch()
    return Bundles(layout)


def _build(directory: Path, layout: Path, python: Path, version: str) -> None:
    glibc = "2.99" if version == DEMANDING else "2.36"
    name = CUDA_TARGET if version == DRIVEN else TARGET
    text = _RECIPE.replace("TARGET", name).replace("GLIBC", glibc)
    if version == DRIVEN:
        text = text.replace("glibc =", 'cuda-driver = "999"\nglibc =')
    recipe = load_recipe(write_recipe(directory / f"recipe-{version}", text))
    wheels = directory / f"wheels-{version}"
    sha256 = write_wheel(
        wheels,
        "tiny-server",
        version,
        files={"tiny_server/__init__.py": _MODULES[version], "fake_backend.py": _SERVER},
    )
    target = Target.parse(name)
    item = recipe.target(target)
    lock = Lock(
        backend=BACKEND,
        version=version,
        target=target,
        requires=platform_floor(item.requires),
        exclude_newer=recipe.exclude_newer,
        python=pin_for(recipe.python.version, recipe.python.build, target.platform),
        packages=(
            LockedWheel(
                name="tiny-server", version=version, file=f"tiny_server-{version}-py3-none-any.whl", sha256=sha256
            ),
        ),
        inputs=inputs_digest(recipe, item),
    )
    with _environment(
        UV_FIND_LINKS=str(wheels), UV_NO_INDEX="1", UV_CACHE_DIR=str(directory / "uv-cache"), HOME=str(directory)
    ):
        options = BuildOptions(layout=layout, cache=directory / "cache", python_from=python)
        build_bundle(recipe, target, lock, options=options)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("UV_")]:
            patch.delenv(name)
        for name, value in values.items():
            patch.setenv(name, value)
        yield
