"""Installing, upgrading, rolling back and removing, with real small bundles and their real Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mr_core.errors import HostError, IntegrityError, InvalidInputError, NotFoundError, ProbeError, UnsupportedError
from mr_core.events import BlobFinished, Event, Notice, PhaseFinished
from mr_installer import Action, Cancel, Installer, StageOptions, State
from mr_installer.root import Root
from support.bundles import BACKEND, BROKEN, DEMANDING, GOOD, NEXT, STUCK, Bundles
from support.invariants import check_invariants
from support.registry import RealRegistry


def python_version_of(root: Path) -> str:
    """Ask the active release, through its stable path, which version of the backend it would serve."""
    code = "import tiny_server; print(tiny_server.__version__)"
    python = root / BACKEND / "bin" / "python3"
    return subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_a_fresh_install_is_whole_and_runs(bundles: Bundles, root: Path) -> None:
    events: list[Event] = []
    installer = Installer(root, report=events.append)
    assert installer.status(BACKEND).state is State.NOT_INSTALLED
    done = installer.install(BACKEND, source=bundles.source(GOOD))
    assert done.action is Action.INSTALL
    assert check_invariants(root) == done.release
    assert python_version_of(root) == GOOD
    assert installer.is_installed(BACKEND)
    status = installer.status(BACKEND)
    assert status.state is State.INSTALLED
    assert status.active is not None
    assert status.active.receipt.source == bundles.source(GOOD)
    assert str(status.active.receipt.digest) == bundles.digests(GOOD)[0]
    phases = [event.phase for event in events if isinstance(event, PhaseFinished)]
    assert phases == ["resolve", "extract", "verify", "sync", "probe", "commit"]


def test_a_second_version_stands_beside_the_first_and_rolls_back(bundles: Bundles, root: Path) -> None:
    installer = Installer(root)
    first = installer.install(BACKEND, source=bundles.source(GOOD))
    second = installer.install(BACKEND, source=bundles.source(NEXT))
    assert second.previous == first.release
    assert python_version_of(root) == NEXT
    assert {release.id for release in installer.status(BACKEND).releases} == {first.release, second.release}
    back = installer.rollback(BACKEND)
    assert back.release == first.release
    assert python_version_of(root) == GOOD
    assert installer.rollback(BACKEND).release == second.release  # and forward again
    check_invariants(root)


def test_a_version_on_disk_is_activated_without_a_source(bundles: Bundles, root: Path) -> None:
    installer = Installer(root)
    installer.install(BACKEND, source=bundles.source(GOOD))
    installer.install(BACKEND, source=bundles.source(NEXT))
    done = installer.install(BACKEND, version=GOOD)
    assert done.action is Action.ACTIVATE
    assert python_version_of(root) == GOOD
    assert installer.install(BACKEND).action is Action.NOTHING
    digest = bundles.digests(NEXT)[0]
    assert installer.install(BACKEND, version=digest).version == NEXT


def test_installing_again_asks_the_registry_one_head(bundles: Bundles, root: Path, registry: RealRegistry) -> None:
    push(bundles, registry, GOOD)
    source = f"docker://{registry.host}/bundles/{BACKEND}:{GOOD}"
    installer = Installer(root, registry=registry.options())
    assert installer.install(BACKEND, source=source).action is Action.INSTALL
    check_invariants(root)
    before = requests_seen(registry)
    assert installer.install(BACKEND, source=source).action is Action.NOTHING
    assert [line for line in requests_seen(registry)[len(before) :] if "/v2/bundles" in line] == [
        f"HEAD /v2/bundles/{BACKEND}/manifests/{GOOD}"
    ]
    receipt = installer.status(BACKEND).active
    assert receipt is not None
    assert receipt.receipt.insecure


def push(bundles: Bundles, registry: RealRegistry, version: str) -> None:
    command = [str(Path(sys.executable).with_name("mr-bundle")), "push", bundles.source(version)]
    target = f"docker://{registry.host}/bundles/{BACKEND}:{version}"
    subprocess.run([*command, target, "--insecure-registry", registry.host, "-q"], check=True, capture_output=True)


def requests_seen(registry: RealRegistry) -> list[str]:
    """Return ``METHOD PATH`` of every request the registry logged."""
    found = []
    for line in registry.log().splitlines():
        if line.startswith("127.0.0.1 - ") and '"' in line:
            method, path, *_ = line.split('"')[1].split(" ")
            found.append(f"{method} {path}")
    return found


def test_a_failing_probe_leaves_the_first_release_active(bundles: Bundles, root: Path) -> None:
    events: list[Event] = []
    installer = Installer(root, report=events.append)
    first = installer.install(BACKEND, source=bundles.source(GOOD))
    with pytest.raises(ProbeError, match="no_such_module_of_a_broken_bundle") as caught:
        installer.install(BACKEND, source=bundles.source(BROKEN))
    assert check_invariants(root) == first.release
    assert python_version_of(root) == GOOD
    assert "ModuleNotFoundError" in str(caught.value.fields["traceback"])
    log = Path(str(caught.value.fields["log"]))
    assert "ModuleNotFoundError" in log.read_text()
    assert any(isinstance(event, Notice) and event.code == "still-active" for event in events)
    # Trying again costs no extraction; and the next good install clears the failed release away.
    events.clear()
    with pytest.raises(ProbeError):
        installer.install(BACKEND, source=bundles.source(BROKEN))
    assert "extract" not in [event.phase for event in events if isinstance(event, PhaseFinished)]
    installer.install(BACKEND, source=bundles.source(NEXT))
    assert {release.receipt.version for release in installer.status(BACKEND).releases} == {GOOD, NEXT}
    with pytest.raises(NotFoundError):
        Installer(root).install(BACKEND, version=BROKEN, source=bundles.source(GOOD))


def test_a_probe_that_hangs_is_ended(bundles: Bundles, root: Path) -> None:
    with pytest.raises(ProbeError):
        Installer(root).install(BACKEND, source=bundles.source(STUCK))
    assert check_invariants(root) is None


def test_the_probe_can_be_skipped_and_made_up_for(bundles: Bundles, root: Path) -> None:
    installer = Installer(root)
    installer.install(BACKEND, source=bundles.source(BROKEN), probe=False)
    check_invariants(root)
    with pytest.raises(ProbeError):
        installer.probe(BACKEND)
    result = None
    installer.install(BACKEND, source=bundles.source(GOOD))
    result = installer.probe(BACKEND)
    assert set(result.modules) == {"tiny_server", "fake_backend"}
    assert result.versions == {"tiny-server": GOOD}


def test_a_host_that_cannot_run_it_is_told_why(bundles: Bundles, root: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"needs glibc 2\.99"):
        Installer(root).install(BACKEND, source=bundles.source(DEMANDING))
    assert not (root / BACKEND).exists()


def test_another_backends_bundle_is_refused(bundles: Bundles, root: Path) -> None:
    with pytest.raises(NotFoundError, match="it holds `tiny`"):
        Installer(root).install("mlx-lm", source=bundles.source(GOOD))


def test_what_does_not_exist(bundles: Bundles, root: Path, registry: RealRegistry, tmp_path: Path) -> None:
    installer = Installer(root, registry=registry.options())
    with pytest.raises(NotFoundError, match="catalogue"):
        installer.install("mlx-ml")
    with pytest.raises(NotFoundError):
        installer.install(BACKEND, source=f"docker://{registry.host}/bundles/{BACKEND}:9.9")
    with pytest.raises(NotFoundError):
        installer.install(BACKEND, source=f"oci:{bundles.layout}:tiny-9.9")
    with pytest.raises(NotFoundError):
        installer.install(BACKEND, source=f"oci:{tmp_path / 'no-layout'}")
    with pytest.raises(NotFoundError):
        installer.rollback(BACKEND)
    with pytest.raises(NotFoundError):
        installer.uninstall(BACKEND)
    with pytest.raises(NotFoundError):
        installer.serve(BACKEND, tmp_path)


@pytest.fixture
def own_layout(bundles: Bundles, tmp_path: Path) -> Bundles:
    """A copy of the layout that a test may damage."""
    shutil.copytree(bundles.layout, tmp_path / "own-layout")
    return Bundles(tmp_path / "own-layout")


def flip(path: Path, position: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("which", [0, -1])
def test_a_flipped_byte_in_a_stored_layer(own_layout: Bundles, root: Path, which: int) -> None:
    installer = Installer(root)
    first = installer.install(BACKEND, source=own_layout.source(GOOD))
    layer = own_layout.digests(NEXT)[1][which]
    unique = layer if layer not in own_layout.digests(GOOD)[1] else None
    flip(own_layout.blob(layer))
    with pytest.raises(IntegrityError) as caught:
        installer.install(BACKEND, source=own_layout.source(NEXT))
    assert caught.value.exit_code == 6
    assert check_invariants(root) == first.release
    assert unique is None or python_version_of(root) == GOOD


def test_a_flipped_byte_in_a_registrys_store(bundles: Bundles, root: Path, registry: RealRegistry) -> None:
    from mr_core.digest import Digest  # noqa: PLC0415 - used here alone

    push(bundles, registry, GOOD)
    flip(registry.blob_path(Digest.parse(bundles.digests(GOOD)[1][0])))
    source = f"docker://{registry.host}/bundles/{BACKEND}:{GOOD}"
    with pytest.raises(IntegrityError):
        Installer(root, registry=registry.options()).install(BACKEND, source=source)
    assert check_invariants(root, settled=False) is None
    flip(registry.blob_path(Digest.parse(bundles.digests(GOOD)[1][0])))
    Installer(root, registry=registry.options()).install(BACKEND, source=source)
    check_invariants(root)


def test_a_truncated_archive(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    whole = tmp_path / "all.tar"
    subprocess.run(["tar", "-C", str(bundles.layout), "-cf", str(whole), "."], check=True)
    done = Installer(root).install(BACKEND, source=f"oci-archive:{whole}:tiny-{GOOD}")
    check_invariants(root)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises((IntegrityError, InvalidInputError)) as caught:
        Installer(root).install(BACKEND, source=f"oci-archive:{cut}:tiny-{NEXT}")
    assert str(cut) in caught.value.message
    assert check_invariants(root) == done.release


def test_downloads_are_dropped_unless_kept(bundles: Bundles, root: Path, registry: RealRegistry) -> None:
    push(bundles, registry, GOOD)
    push(bundles, registry, NEXT)
    events: list[Event] = []
    installer = Installer(root, registry=registry.options(), report=events.append)
    source = f"docker://{registry.host}/bundles/{BACKEND}"
    installer.install(BACKEND, source=f"{source}:{GOOD}")
    fetched = [event.digest for event in events if isinstance(event, BlobFinished)]
    assert sorted(fetched) == sorted(bundles.digests(GOOD)[1])
    check_invariants(root)
    options = StageOptions(keep_blobs=True)
    installer.install(BACKEND, source=f"{source}:{NEXT}", options=options)
    kept = {place.name for place in (root / ".mr/blobs/sha256").iterdir()}
    assert kept == {digest.partition(":")[2] for digest in bundles.digests(NEXT)[1]}


def test_uninstall_removes_everything_but_the_lock(bundles: Bundles, root: Path) -> None:
    installer = Installer(root)
    installer.install(BACKEND, source=bundles.source(GOOD))
    installer.install(BACKEND, source=bundles.source(NEXT))
    done = installer.uninstall(BACKEND)
    assert len(done.releases) == 2
    left = [str(place.relative_to(root)) for place in sorted(root.rglob("*")) if place.is_file()]
    assert left == [f"{BACKEND}/.mr/lock"]
    assert installer.status(BACKEND).state is State.NOT_INSTALLED
    assert installer.list() == []
    installer.install(BACKEND, source=bundles.source(GOOD))
    check_invariants(root)


def test_uninstall_refuses_while_a_server_runs(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    installer = Installer(root)
    installer.install(BACKEND, source=bundles.source(GOOD))
    with installer.serve(BACKEND, tmp_path) as server:
        with pytest.raises(HostError, match="in use") as caught:
            installer.uninstall(BACKEND)
        assert server.pid in caught.value.fields["processes"]  # type: ignore[operator]
        assert python_version_of(root) == GOOD
        # An upgrade under a running server: it keeps its own release.
        installer.install(BACKEND, source=bundles.source(NEXT))
        assert Path(f"/proc/{server.pid}/exe").resolve().is_relative_to((root / BACKEND / "releases").resolve())
    installer.uninstall(BACKEND)


def test_uninstall_by_force_while_a_server_runs(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    installer = Installer(root)
    installer.install(BACKEND, source=bundles.source(GOOD))
    with installer.serve(BACKEND, tmp_path):
        installer.uninstall(BACKEND, force=True)
    assert installer.status(BACKEND).state is State.NOT_INSTALLED


@pytest.mark.parametrize("damage", ["flip", "remove", "add", "mode", "link", "listing", "config"])
def test_deep_verification_finds_every_kind_of_damage(bundles: Bundles, root: Path, damage: str) -> None:
    installer = Installer(root)
    done = installer.install(BACKEND, source=bundles.source(GOOD))
    assert installer.verify(BACKEND, deep=True).files > 100
    module = next((done.path / "lib/python3.12/site-packages/tiny_server").glob("__init__.py"))
    match damage:
        case "flip":
            flip(module)
        case "remove":
            module.unlink()
        case "add":
            module.with_name("extra.py").write_text("")
        case "mode":
            module.chmod(0o755)
        case "link":
            (done.path / "bin/python").unlink()
            (done.path / "bin/python").symlink_to("/usr/bin/env")
        case "listing":
            flip(done.path / ".mr/files.jsonl")
        case "config":
            (done.path / ".mr/bundle.json").write_text("{")
    with pytest.raises(IntegrityError) as caught:
        installer.verify(BACKEND, deep=True)
    assert len(caught.value.fields["findings"]) == 1  # type: ignore[arg-type]
    if damage not in {"listing", "config"}:
        assert installer.verify(BACKEND).files > 100  # the papers alone are fine


def test_somebody_elses_tree_is_never_touched(bundles: Bundles, root: Path) -> None:
    foreign = root / BACKEND / "bin"
    foreign.mkdir(parents=True)
    (foreign / "python3").write_text("#!/bin/sh\n")
    installer = Installer(root)
    assert installer.status(BACKEND).state is State.FOREIGN
    with pytest.raises(HostError, match="another program"):
        installer.install(BACKEND, source=bundles.source(GOOD))
    with pytest.raises(HostError, match="another program"):
        installer.uninstall(BACKEND, force=True)
    assert [str(place.relative_to(root)) for place in root.rglob("*") if place.is_file()] == [f"{BACKEND}/bin/python3"]


@pytest.mark.parametrize("place", ["", "bin", "releases", ".mr"])
def test_a_link_in_place_of_a_directory_is_refused(bundles: Bundles, root: Path, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = root / BACKEND / place if place else root / BACKEND
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(HostError):
        Installer(root).install(BACKEND, source=bundles.source(GOOD))
    assert list(elsewhere.iterdir()) == []


def test_cancelling_leaves_the_old_release_and_nothing_else(bundles: Bundles, root: Path) -> None:
    from mr_core.errors import CancelledError  # noqa: PLC0415 - used here alone

    first = Installer(root).install(BACKEND, source=bundles.source(GOOD))
    cancel = Cancel()

    def stop(event: Event) -> None:
        if isinstance(event, PhaseFinished) and event.phase == "resolve":
            cancel.set()

    with pytest.raises(CancelledError):
        Installer(root, report=stop, cancel=cancel).install(BACKEND, source=bundles.source(NEXT))
    assert check_invariants(root) == first.release


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_tree_does_not_depend_on_the_umask(bundles: Bundles, root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Installer(root).install(BACKEND, source=bundles.source(GOOD))
    finally:
        os.umask(before)
    check_invariants(root)
    writable = [p for p in root.rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o022]
    assert not writable


def test_a_plan_changes_nothing(bundles: Bundles, root: Path) -> None:
    plan = Installer(root).plan(BACKEND, source=bundles.source(GOOD))
    assert plan.action is Action.INSTALL
    assert plan.fetch_bytes == 0  # a local layout is read where it lies
    assert plan.disk_bytes > 10_000_000
    assert not root.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "UPPER", ".hidden", "x" * 80, "a b"])
def test_impossible_names(root: Path, name: str) -> None:
    from mr_core.errors import UsageError  # noqa: PLC0415 - used here alone

    with pytest.raises(UsageError):
        Installer(root).install(name)
    with pytest.raises(UsageError):
        Root.at(root).backend(name)
