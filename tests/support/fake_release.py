"""Make a release on disk that really runs: the host's CPython 3.12 with a prefix of its own, and a small backend."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mr_shim
from mr_core.bundle_config import BundleConfig, Contents
from mr_core.digest import Digest
from mr_core.platform import Platform, Target
from mr_shim.spec import LaunchSpec, ProbeSpec
from mr_shim.trampoline import LAUNCHER
from support.need import missing

VERSION = "3.12"
LIBRARY = f"lib/python{VERSION}"
LAUNCH = LaunchSpec(
    module="fake_backend",
    options={"model": "--model", "host": "--host", "port": "--port", "served_model_name": "--names"},
    unsupported={"uds": "fake_backend listens on TCP only"},
    modes={"embedding": ("--task", "embed")},
    environment={"FAKE_SETTING": "on"},
    start_timeout=20,
    stop_grace=1,
)
PROBE = ProbeSpec(imports=("fake_backend", "json"), versions=("fake-backend", "nothing-there"), timeout=20)


@functools.cache
def host_python() -> tuple[Path, Path]:
    """Return the executable and the prefix of a CPython 3.12 on this machine that runs, or skip."""
    root = os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"
    places = [*sorted(Path(root).glob(f"versions/{VERSION}*/bin/python{VERSION}"))]
    places += [Path(place) for place in (shutil.which(f"python{VERSION}"), f"/usr/bin/python{VERSION}") if place]
    program = "import sys; print(sys._base_executable, sys.base_prefix, sep='\\n')"
    for place in places:
        try:
            found = subprocess.run([place, "-I", "-c", program], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        executable, prefix = (Path(line) for line in found.stdout.splitlines())
        return executable, prefix
    return missing("CPython 3.12")


def make_release(
    prefix: Path,
    *,
    launch: LaunchSpec = LAUNCH,
    probe: ProbeSpec = PROBE,
    modules: Mapping[str, str] | None = None,
) -> Path:
    """Build a release at ``prefix`` (which must not exist) with ``modules`` (file name to text), and return it.

    The standard library is linked from the host, since copying it takes seconds; the interpreter, ``site.py`` and
    site-packages are the release's own, and ``sys.prefix`` is ``prefix``.
    """
    executable, host = host_python()
    (prefix / "bin").mkdir(parents=True)
    shutil.copy2(executable.resolve(), prefix / f"bin/python{VERSION}")
    for name in ("python3", "python"):
        (prefix / "bin" / name).symlink_to(f"python{VERSION}")
    for library in (host / "lib").glob("libpython*"):  # found through $ORIGIN by some builds
        (prefix / "lib").mkdir(exist_ok=True)
        (prefix / "lib" / library.name).symlink_to(library)
    _link_library(host / LIBRARY, prefix / LIBRARY)
    packages = prefix / LIBRARY / "site-packages"
    (packages / "fake_backend-1.5.dist-info").mkdir(parents=True)
    (packages / "fake_backend-1.5.dist-info/METADATA").write_text("Name: fake-backend\nVersion: 1.5\n")
    shutil.copy(Path(__file__).with_name("fake_backend.py"), packages)
    for name, text in (modules or {}).items():
        (packages / name).write_text(text)
    _add_shim(prefix)
    write_bundle_config(prefix, launch=launch, probe=probe)
    (prefix / ".mr/lease").touch()
    return prefix


def _link_library(source: Path, destination: Path) -> None:
    (destination / "__pycache__").mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name not in ("site-packages", "site.py", "__pycache__"):
            (destination / entry.name).symlink_to(entry)
    for entry in (source / "__pycache__").glob("*.pyc"):
        if not entry.name.startswith("site."):
            (destination / "__pycache__" / entry.name).symlink_to(entry)
    text = (source / "site.py").read_text()
    patched = text.replace("ENABLE_USER_SITE = None", "ENABLE_USER_SITE = False", 1)
    assert patched != text
    (destination / "site.py").write_text(patched)


def _add_shim(prefix: Path) -> None:
    shim = prefix / ".mr/shim"
    shutil.copytree(_compiled_shim(), shim / "mr_shim")
    launcher = prefix / "bin/mr-serve"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)


@functools.cache
def _compiled_shim() -> Path:
    """Compile the shim once for all releases, as a bundle ships it."""
    place = Path(tempfile.mkdtemp(prefix="mr-shim-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    source = Path(mr_shim.__file__).parent
    shutil.copytree(source, place / "mr_shim", ignore=shutil.ignore_patterns("__pycache__"))
    command = [host_python()[0], "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*command, place / "mr_shim"], check=True)
    return place / "mr_shim"


def write_bundle_config(prefix: Path, *, launch: LaunchSpec = LAUNCH, probe: ProbeSpec = PROBE) -> None:
    """Write ``.mr/bundle.json`` below ``prefix``."""
    config = BundleConfig(
        backend="fake",
        version="1.5",
        target=Target(Platform("linux", "amd64"), "cpu"),
        contents=Contents(digest=Digest("sha256", "0" * 64), size=0, count=0, directories=0, bytes=0),
        probe=probe,
        launch=launch,
    )
    (prefix / ".mr/bundle.json").write_bytes(config.dump())


def activate(backend: Path, release: Path) -> Path:
    """Point the entries of ``backend/bin`` to ``release``, as the installer does, and return the launcher's path."""
    (backend / "bin").mkdir(parents=True, exist_ok=True)
    (backend / ".mr").mkdir(exist_ok=True)
    for name, target in (("python3", f"python{VERSION}"), ("mr-serve", "mr-serve")):
        link = backend / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"../releases/{release.name}/bin/{target}")
    return backend / "bin/mr-serve"
