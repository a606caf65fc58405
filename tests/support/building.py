"""Build small real bundles from wheels made on the spot, and look into them with other programs' eyes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.build import BuildOptions, BuildResult, build_bundle
from mr_bundler.interpreter import find_host_python
from mr_bundler.lock.lock import Lock, inputs_digest, platform_floor
from mr_bundler.lock.python_pin import PythonPin
from mr_bundler.recipe.recipe import Recipe, load_recipe
from mr_core.bundle_config import LABEL, BundleConfig, parse_bundle_config
from mr_core.digest import Digest
from mr_core.errors import NotFoundError
from mr_core.events import Cancel, Reporter, discard
from mr_core.layout import LayoutStore
from mr_core.manifest import Index, Manifest, parse_document
from mr_core.platform import Platform, Target
from support.need import missing, need
from support.python_archive import NOWHERE
from support.recipe_files import write_recipe
from support.wheels import Wheel

HERE = Target(Platform.host(), "cpu")


def relocatable_python() -> Path:
    """Return the prefix of a CPython 3.12 of this machine, or skip."""
    if sys.platform != "linux":
        pytest.skip("a host Python can be relocated on Linux only")
    need("patchelf")
    try:
        return find_host_python()
    except NotFoundError as error:
        missing(f"a CPython 3.12 ({error})")


def clean_environment(patch: pytest.MonkeyPatch) -> None:
    """Remove what would change where files come from or what comes out."""
    for name in [name for name in os.environ if name.startswith(("UV_", "MR_", "SOURCE_DATE"))]:
        patch.delenv(name)


_RECIPE = """\
format = 1

[backend]
name = "tiny"
summary = "A backend for tests"
homepage = "https://example.org/tiny"
license = "MIT"
version-from = "tiny-server"

[python]
version = "3.12.14"
build = "20260814"

[lock]
exclude-newer = 2026-11-20T00:00:00Z
requirements = ["tiny-server"]

TARGETS
[slim]
remove = REMOVE
keep = KEEP

EXTRA
[probe]
imports = ["tiny_server"]

[launch]
module = "tiny_server"

[launch.options]
model = "positional"
"""
SERVER = Wheel(
    name="tiny-server",
    files={
        "tiny_server/__init__.py": "import sys\n\n\ndef main():\n    print('tiny', *sys.argv[1:])\n    return 3\n",
        "tiny_server/__main__.py": "import sys\n\nfrom tiny_server import main\n\nsys.exit(main())\n",
        "tiny_server/deep.py": "def where():\n    return where.__code__.co_filename\n",
    },
    scripts={"tiny-server": "tiny_server:main"},
)


@dataclass(frozen=True)
class Builder:
    """Builds below one directory of a test; interpreters and packed layers come from a cache many tests share."""

    directory: Path
    cache: Path
    python: Path
    patch: pytest.MonkeyPatch
    targets: tuple[str, ...] = (f"{HERE}",)
    layout: Path = field(default=Path())

    def recipe(self, *, remove: Sequence[str] = (), keep: Sequence[str] = (), extra: str = "") -> Recipe:
        floors = {"linux": 'glibc = "2.36"', "darwin": 'macos = "14.0"'}
        targets = "".join(
            f'[[targets]]\ntarget = "{text}"\n{floors[text.partition("/")[0]]}\n\n' for text in self.targets
        )
        text = _RECIPE.replace("TARGETS", targets).replace("EXTRA", extra)
        text = text.replace("REMOVE", json.dumps(list(remove))).replace("KEEP", json.dumps(list(keep)))
        return load_recipe(write_recipe(self.directory / "recipe", text))

    def lock(self, recipe: Recipe, wheels: Sequence[Wheel], target: Target = HERE, pin: PythonPin = NOWHERE) -> Lock:
        """Write the wheels where uv finds them, and nothing else, and lock them."""
        wheelhouse = self.directory / "wheelhouse"
        packages = tuple(wheel.write(wheelhouse) for wheel in sorted(wheels, key=lambda wheel: wheel.name))
        self.patch.setenv("UV_FIND_LINKS", str(wheelhouse))
        self.patch.setenv("UV_NO_INDEX", "1")
        self.patch.setenv("UV_CACHE_DIR", str(self.directory / "uv"))
        item = recipe.target(target)
        return Lock(
            backend=recipe.backend,
            version=next(wheel.version for wheel in wheels if wheel.name == "tiny-server"),
            target=target,
            requires=platform_floor(item.requires),
            exclude_newer=recipe.exclude_newer,
            python=pin,
            packages=packages,
            inputs=inputs_digest(recipe, item),
        )

    def build(
        self,
        *wheels: Wheel,
        remove: Sequence[str] = (),
        keep: Sequence[str] = (),
        extra: str = "",
        target: Target = HERE,
        report: Reporter = discard,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> BuildResult:
        """Build a bundle of ``wheels`` and, unless it is among them, `SERVER`; ``extra`` goes into the recipe."""
        if all(wheel.name != SERVER.name for wheel in wheels):
            wheels = (SERVER, *wheels)
        recipe = self.recipe(remove=remove, keep=keep, extra=extra)
        lock = self.lock(recipe, wheels, target)
        chosen = BuildOptions(layout=self.layout, cache=self.cache, python_from=self.python, jobs=2)
        return build_bundle(recipe, target, lock, options=replace(chosen, **options), report=report, cancel=cancel)

    def open(self, result: BuildResult) -> Built:
        return Built.read(self.layout, result)


@dataclass(frozen=True)
class Built:
    """A bundle in a layout, read again from its bytes."""

    layout: Path
    index: Index
    manifest: Manifest
    image: dict[str, Any]
    config: BundleConfig

    @classmethod
    def read(cls, layout: Path, result: BuildResult) -> Built:
        store = LayoutStore(layout)
        top = store.resolve(result.ref_name)
        index = parse_document(store.read_document(top), top.media_type)
        assert isinstance(index, Index)
        entry = next(entry for entry in index.manifests if entry.digest == result.digest)
        manifest = parse_document(store.read_document(entry), entry.media_type)
        assert isinstance(manifest, Manifest)
        image = json.loads(store.read_blob(manifest.config))
        config = parse_bundle_config(image["config"]["Labels"][LABEL].encode())
        return cls(layout, index, manifest, image, config)

    def blob(self, digest: Digest) -> Path:
        return self.layout / "blobs" / digest.algorithm / digest.hex

    def unpack(self, destination: Path) -> Path:
        """Unpack all layers with bsdtar, and return the prefix."""
        tar = need("bsdtar")
        destination.mkdir(parents=True)
        for layer in self.manifest.layers:
            subprocess.run([tar, "-xf", str(self.blob(layer.digest)), "-C", str(destination)], check=True)
        return destination / "backend"

    def listing(self) -> dict[str, str]:
        """Return the history comment of the layer by every path in it."""
        tar = need("bsdtar")
        found = {}
        for layer, history in zip(self.manifest.layers, self.image["history"], strict=True):
            ran = subprocess.run(
                [tar, "-tf", str(self.blob(layer.digest))],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
            for path in ran.stdout.splitlines():
                if not path.endswith("/"):
                    assert path not in found, f"{path} is in two layers"
                    found[path.removeprefix("backend/")] = history["comment"]
        return found
