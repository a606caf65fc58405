"""Names on the command line: destinations with a digest, references without a tag."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_core.digest import Digest
from mr_core.errors import IntegrityError
from mr_core.events import Event, PhaseStarted
from mr_core.layout import LayoutStore
from mr_core.memory import MemoryStore
from mr_core.transfer import transfer
from support.registry import RealRegistry
from support.small_image import small_image

IMAGE = small_image("names")
DIGEST = IMAGE.index_descriptor.digest


@pytest.fixture(scope="module")
def registry() -> Iterator[RealRegistry]:
    with RealRegistry() as registry:
        yield registry


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    IMAGE.write(LayoutStore(tmp_path / "layout", create=True), "x-1.0")
    return tmp_path / "layout"


def run(registry: RealRegistry, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from mr_bundler.cli import run; run()"
    options = ["--insecure-registry", registry.host]
    return subprocess.run(
        [sys.executable, "-c", code, command, *options, *arguments], capture_output=True, text=True, check=False
    )


def test_another_digest_is_noticed_before_anything_is_sent(layout: Path) -> None:
    events: list[Event] = []
    store = MemoryStore()
    other = Digest.of(b"something else")
    for overwrite in (False, True):
        with pytest.raises(IntegrityError) as caught:
            transfer(LayoutStore(layout), "x-1.0", store, str(other), overwrite=overwrite, report=events.append)
        assert str(other) in caught.value.message
        assert str(DIGEST) in caught.value.message
        assert caught.value.hint
    assert {event.phase for event in events if isinstance(event, PhaseStarted)} == {"inspect"}
    assert not any(store.has_blob(blob) for blob, _ in IMAGE.blobs)


def test_a_destination_with_a_digest(registry: RealRegistry, layout: Path) -> None:
    place = f"docker://{registry.host}/names/digest"
    ran = run(registry, "push", f"oci:{layout}", f"{place}@sha256:{'0' * 64}")
    assert ran.returncode == 6
    assert "hint: name a tag, or the digest" in ran.stderr
    ran = run(registry, "push", f"oci:{layout}", f"{place}@{DIGEST}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{place}@{DIGEST}\n")


def test_without_a_tag(registry: RealRegistry, layout: Path, tmp_path: Path) -> None:
    place = f"docker://{registry.host}/names/untagged"
    tagged = run(registry, "push", f"oci:{layout}", f"{place}:1.0")
    assert tagged.stdout.startswith(f"{place}:1.0\n")
    for arguments in (("ls", place), ("push", place, f"oci:{tmp_path}/copy:y")):
        ran = run(registry, *arguments, "--json")
        assert ran.returncode == 4
        error = json.loads(ran.stdout.splitlines()[-1])
        assert f"hint: name a tag: `{place}:TAG`" in f"hint: {error['hint']}"
        assert "no tag was named" in error["message"]
    ran = run(registry, "ls", f"{place}:latest")
    assert ran.returncode == 4
    assert "no tag was named" not in ran.stderr
    assert run(registry, "push", f"oci:{layout}", place).returncode == 2  # nobody has chosen `latest`
    ran = run(registry, "push", f"oci:{layout}", f"{place}:latest")
    assert ran.stdout.startswith(f"{place}:latest\n")
    assert run(registry, "ls", place).returncode == 0
    ran = run(registry, "push", f"{place}:latest", f"oci:{tmp_path}/kept:z")
    assert ran.stdout.startswith(f"oci:{tmp_path}/kept:z\n")


def test_a_layout_keeps_the_name(registry: RealRegistry, layout: Path, tmp_path: Path) -> None:
    ran = run(registry, "push", f"oci:{layout}", f"oci:{tmp_path}/copy")
    assert ran.stdout.startswith(f"oci:{tmp_path}/copy:x-1.0\n")
