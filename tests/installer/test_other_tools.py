"""Other tools read what we write: podman pulls a bundle and runs its Python; skopeo copies archives that install."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_installer import Installer
from support.bundles import BACKEND, GOOD, Bundles
from support.invariants import check_invariants
from support.need import need
from support.registry import RealRegistry


@pytest.fixture
def podman() -> Iterator[list[str]]:
    """podman with storage of its own, in a short path: it refuses a run root of more than 50 characters."""
    place = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    storage = ["--root", f"{place}/r", "--runroot", f"{place}/rr", "--tmpdir", f"{place}/t"]
    # vfs copies every layer, but needs no kernel support and leaves no mounts; a small bundle has few layers.
    options = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
    yield [need("podman"), *storage, *options]
    shutil.rmtree(place, ignore_errors=True)


def test_podman_pulls_and_mounts_it(
    bundles: Bundles, registry: RealRegistry, podman: list[str], tmp_path: Path
) -> None:
    reference = f"{registry.host}/bundles/{BACKEND}:{GOOD}"
    push = [str(Path(sys.executable).with_name("mr-bundle")), "push", bundles.source(GOOD), f"docker://{reference}"]
    subprocess.run([*push, "--insecure-registry", registry.host, "-q"], check=True, capture_output=True)
    pulled = subprocess.run(
        [*podman, "pull", "-q", "--tls-verify=false", reference], check=False, capture_output=True, text=True
    )
    assert pulled.returncode == 0, pulled.stderr
    shown = subprocess.run([*podman, "image", "inspect", reference], check=True, capture_output=True, text=True).stdout
    image = json.loads(shown)[0]
    assert image["Config"]["Entrypoint"] == ["/backend/bin/mr-serve"]
    assert json.loads(image["Labels"]["io.mr-backends.bundle"])["version"] == GOOD
    mount = subprocess.run([*podman, "image", "mount", reference], check=False, capture_output=True, text=True)
    assert mount.returncode == 0, mount.stderr
    backend = Path(mount.stdout.strip()) / "backend"
    code = "import tiny_server; print(tiny_server.__version__)"
    ran = subprocess.run([backend / "bin/python3", "-I", "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == GOOD
    # ... and what podman saves as an archive installs.
    archive = tmp_path / "saved.tar"
    subprocess.run([*podman, "save", "-q", "--format", "oci-archive", "-o", str(archive), reference], check=True)
    Installer(tmp_path / "root").install(BACKEND, source=f"oci-archive:{archive}")
    check_invariants(tmp_path / "root")


def test_an_archive_that_skopeo_wrote_installs(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "skopeo.tar"
    target = f"oci-archive:{archive}:any"
    subprocess.run([need("skopeo"), "copy", "-q", "--all", bundles.source(GOOD), target], check=True)
    Installer(root).install(BACKEND, source=str(archive))
    check_invariants(root)
