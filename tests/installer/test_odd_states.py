"""States that should not happen, and do: damaged papers, planted links, lost entries, lying indexes, stubborn files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mr_core.bundle_config import ANNOTATION_TARGET
from mr_core.errors import HostError, IntegrityError, InvalidInputError, NotFoundError, ProbeError, UnsupportedError
from mr_core.events import Event, Notice
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_INDEX, Descriptor, Index, make_index, parse_document
from mr_core.platform import Platform, Target
from mr_installer import Action, Installer, State
from mr_installer.root import Root
from support.bundles import BACKEND, BROKEN, GOOD, NEXT, Bundles
from support.invariants import check_invariants

MAC = Target.parse("darwin/arm64+metal")


@pytest.fixture
def installer(bundles: Bundles, root: Path) -> Installer:
    """With the first version installed."""
    ready = Installer(root)
    ready.install(BACKEND, source=bundles.source(GOOD))
    return ready


def notices(events: list[Event]) -> list[str]:
    return [event.code for event in events if isinstance(event, Notice)]


def test_a_lease_without_a_visible_process_counts_as_use(installer: Installer, root: Path) -> None:
    lease = root / BACKEND / "releases" / str(Root.at(root).backend(BACKEND).active()) / ".mr" / "lease"
    with lease.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(HostError, match="in use"):
            installer.uninstall(BACKEND)
        check_invariants(root)
    installer.uninstall(BACKEND)


def test_a_process_that_works_in_a_release_counts_as_use(installer: Installer, root: Path) -> None:
    place = root / BACKEND / "releases" / str(Root.at(root).backend(BACKEND).active())
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=place, stdin=subprocess.PIPE) as process:
        with pytest.raises(HostError, match=str(process.pid)):
            installer.uninstall(BACKEND)
        process.communicate()


def test_a_release_in_use_is_kept_although_its_probe_record_is_lost(
    installer: Installer, bundles: Bundles, root: Path
) -> None:
    directory = Root.at(root).backend(BACKEND)
    first = str(directory.active())
    directory.probed(first).unlink()
    with (directory.release(first) / ".mr" / "lease").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        installer.install(BACKEND, source=bundles.source(NEXT))
        assert directory.release(first).is_dir()


def test_trouble_after_the_commit_is_told_and_finished_later(bundles: Bundles, root: Path) -> None:
    stubborn = root / BACKEND / f".{BACKEND}-version"
    stubborn.mkdir(parents=True)
    (stubborn / "x").write_text("")
    events: list[Event] = []
    done = Installer(root, report=events.append).install(BACKEND, source=bundles.source(GOOD))
    assert "unfinished" in notices(events)
    assert check_invariants(root, settled=False) == done.release
    shutil.rmtree(stubborn)
    assert Installer(root).install(BACKEND, source=bundles.source(GOOD)).action is Action.NOTHING
    check_invariants(root)


@pytest.mark.root
def test_a_file_that_cannot_be_removed_does_not_block(installer: Installer, bundles: Bundles, root: Path) -> None:
    stubborn = root / BACKEND / ".mr" / "trash-dead" / "file"
    stubborn.parent.mkdir()
    stubborn.write_text("x")
    if subprocess.run(["chattr", "+i", str(stubborn)], check=False, capture_output=True).returncode:
        pytest.skip("this filesystem or user cannot make a file immutable")
    try:
        events: list[Event] = []
        Installer(root, report=events.append).install(BACKEND, source=bundles.source(NEXT))
        assert "leftover" in notices(events)
        check_invariants(root, settled=False)
    finally:
        subprocess.run(["chattr", "-i", str(stubborn)], check=True)
    installer.rollback(BACKEND)
    check_invariants(root)


def test_a_release_without_receipt_is_put_right_by_installing(
    installer: Installer, bundles: Bundles, root: Path
) -> None:
    directory = Root.at(root).backend(BACKEND)
    (directory.release(str(directory.active())) / ".mr" / "receipt.json").unlink()
    assert installer.status(BACKEND).state is State.BROKEN
    assert installer.install(BACKEND, source=bundles.source(GOOD)).action is Action.INSTALL
    check_invariants(root)


def test_a_damaged_release_stays_until_its_replacement_is_ready(
    installer: Installer, bundles: Bundles, root: Path, tmp_path: Path
) -> None:
    directory = Root.at(root).backend(BACKEND)
    active = str(directory.active())
    (directory.release(active) / ".mr" / "receipt.json").unlink()
    layout = Bundles(Path(shutil.copytree(bundles.layout, tmp_path / "layout")))
    layer = layout.blob(layout.digests(GOOD)[1][0])
    layer.write_bytes(layer.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        installer.install(BACKEND, source=layout.source(GOOD))
    assert directory.active() == active
    subprocess.run([directory.python, "-I", "-c", "import tiny_server"], check=True)  # damaged papers, working code


def test_a_link_in_place_of_a_release_is_replaced(installer: Installer, bundles: Bundles, root: Path) -> None:
    directory = Root.at(root).backend(BACKEND)
    release = directory.release(str(directory.active()))
    elsewhere = root / "elsewhere"
    release.rename(elsewhere)
    release.symlink_to(elsewhere)
    assert installer.status(BACKEND).state is not State.INSTALLED
    installer.install(BACKEND, source=bundles.source(GOOD))
    assert not release.is_symlink()
    assert (elsewhere / "bin" / "python3.12").exists()
    check_invariants(root)


def test_another_bundle_behind_the_same_release_id_is_refused(
    installer: Installer, bundles: Bundles, root: Path
) -> None:
    directory = Root.at(root).backend(BACKEND)
    receipt = directory.release(str(directory.active())) / ".mr" / "receipt.json"
    value = json.loads(receipt.read_text())
    value["digest"] = value["digest"][:19] + "0" * 52
    value["resolved"] = "sha256:" + "1" * 64
    receipt.write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match="another bundle"):
        installer.install(BACKEND, source=bundles.source(GOOD))


def test_a_receipt_of_a_newer_tool_is_not_guessed_at(installer: Installer, root: Path) -> None:
    directory = Root.at(root).backend(BACKEND)
    receipt = directory.release(str(directory.active())) / ".mr" / "receipt.json"
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "format": 2}))
    with pytest.raises(UnsupportedError, match="newer tool"):
        installer.verify(BACKEND)


def test_a_skipped_probe_is_made_up_for_by_a_normal_install(bundles: Bundles, root: Path) -> None:
    installer = Installer(root)
    installer.install(BACKEND, source=bundles.source(BROKEN), probe=False)
    assert installer.install(BACKEND, source=bundles.source(BROKEN), probe=False).action is Action.NOTHING
    with pytest.raises(ProbeError):
        installer.install(BACKEND, source=bundles.source(BROKEN))
    status = installer.status(BACKEND)
    assert status.active is not None
    assert not status.active.probed


def test_the_wanted_version_is_checked_although_the_digest_is_the_same(installer: Installer, bundles: Bundles) -> None:
    with pytest.raises(NotFoundError, match=r"version 9\.9"):
        installer.install(BACKEND, version="9.9", source=bundles.source(GOOD))
    assert installer.install(BACKEND, version=GOOD, source=bundles.source(GOOD)).action is Action.NOTHING


def test_a_wanted_target_counts_for_a_lone_manifest(bundles: Bundles, root: Path) -> None:
    digest = bundles.digests(GOOD)[0]
    plan = Installer(root).plan(BACKEND, version=digest, source=bundles.source(GOOD))
    assert str(plan.digest) == digest
    with pytest.raises(UnsupportedError, match="was asked for"):
        Installer(root).plan(BACKEND, version=digest, source=bundles.source(GOOD), target=MAC)


def changed_index(bundles: Bundles, place: Path, *, target: str, platform: Platform, keep: bool) -> str:
    """Copy the layout and name an index in it that says ``target`` of the first version's manifest."""
    shutil.copytree(bundles.layout, place)
    store = LayoutStore(place)
    document = parse_document(store.read_document(store.resolve(f"{BACKEND}-{GOOD}")))
    assert isinstance(document, Index)
    entry = document.manifests[0]
    annotations = {**entry.annotations, ANNOTATION_TARGET: target}
    lying = Descriptor(
        media_type=entry.media_type, digest=entry.digest, size=entry.size, platform=platform, annotations=annotations
    )
    index = make_index((lying, entry) if keep else (lying,), {})
    store.put_document(index.raw, MEDIA_INDEX, name="changed")
    return f"oci:{place}:changed"


def test_a_target_from_the_future_does_not_spoil_the_index(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    source = changed_index(
        bundles, tmp_path / "l", target="linux/riscv64+npu", platform=Platform("linux", "riscv64"), keep=True
    )
    installer = Installer(root)
    plan = installer.plan(BACKEND, source=source)
    assert plan.to_json()["rejected"] == {"linux/riscv64+npu": ["unknown-target"]}
    installer.install(BACKEND, source=source)
    check_invariants(root)


def test_an_index_that_lies_about_a_target_is_refused(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    host = Platform.host()
    source = changed_index(bundles, tmp_path / "l", target=f"{host}+rocm", platform=host, keep=False)
    with pytest.raises(InvalidInputError, match=r"announces .*\+rocm"):
        Installer(root).install(BACKEND, source=source)


def test_a_changed_bundle_config_is_found(installer: Installer, root: Path) -> None:
    directory = Root.at(root).backend(BACKEND)
    config = directory.release(str(directory.active())) / ".mr" / "bundle.json"
    config.write_text(config.read_text().replace("fake_backend", "evil_backend"))
    with pytest.raises(IntegrityError, match=r"bundle\.json"):
        installer.verify(BACKEND)


@pytest.mark.parametrize("field", ["transaction", "release", "operation"])
def test_a_journal_cannot_lead_out_of_the_root(
    installer: Installer, bundles: Bundles, root: Path, tmp_path: Path, field: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    directory = Root.at(root).backend(BACKEND)
    journal = {"format": 1, "operation": "uninstall", "transaction": "0badcafe", "release": "", "previous": ""}
    directory.journal.write_text(json.dumps({**journal, field: "x/../../../../victim"}))
    directory.python.unlink()
    installer.install(BACKEND, source=bundles.source(NEXT))
    assert (victim / "file").read_text() == "mine"
    check_invariants(root)


def test_a_tree_that_lacks_only_python_is_foreign_too(bundles: Bundles, root: Path) -> None:
    theirs = root / BACKEND / "bin" / "vllm"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    (root / BACKEND / "lib").mkdir()
    installer = Installer(root)
    assert installer.status(BACKEND).state is State.FOREIGN
    for change in (
        lambda: installer.install(BACKEND, source=bundles.source(GOOD)),
        lambda: installer.uninstall(BACKEND, force=True),
    ):
        with pytest.raises(HostError, match="another program"):
            change()
    assert theirs.read_text() == "theirs"
    assert sorted(os.listdir(root / BACKEND)) == ["bin", "lib"]


def test_files_of_a_desktop_are_not_foreign(installer: Installer, root: Path) -> None:
    (root / BACKEND / ".DS_Store").write_text("")
    assert installer.status(BACKEND).state is State.INSTALLED
    installer.uninstall(BACKEND)
    assert (root / BACKEND / ".DS_Store").exists()


@pytest.mark.parametrize("lost", ["mr-serve", "python", "python3.12"])
def test_lost_entries_come_back(installer: Installer, bundles: Bundles, root: Path, lost: str) -> None:
    (root / BACKEND / "bin" / lost).unlink()
    assert installer.install(BACKEND, source=bundles.source(GOOD)).action is Action.NOTHING
    check_invariants(root)


def test_a_damaged_neighbour_does_not_stop_a_switch(installer: Installer, bundles: Bundles, root: Path) -> None:
    directory = Root.at(root).backend(BACKEND)
    first = str(directory.active())
    installer.install(BACKEND, source=bundles.source(NEXT))
    (directory.release(first) / ".mr" / "receipt.json").write_text("{")
    assert installer.install(BACKEND, version=NEXT).action is Action.NOTHING


def test_a_repository_from_the_environment(bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mr_core.errors import UsageError  # noqa: PLC0415 - used here alone
    from mr_installer.catalogue import default_location  # noqa: PLC0415 - same

    monkeypatch.setenv("MR_REPOSITORY", "docker://r.example/bundles")
    digest = f"sha256:{'a' * 64}"
    assert str(default_location("mlx-lm", "1.0")) == "docker://r.example/bundles/mlx-lm:1.0"
    assert str(default_location("mlx-lm", "")) == "docker://r.example/bundles/mlx-lm:latest"
    assert str(default_location("mlx-lm", digest)) == f"docker://r.example/bundles/mlx-lm@{digest}"
    monkeypatch.setenv("MR_REPOSITORY", "docker://r.example/{nope}:1")
    with pytest.raises(UsageError, match="MR_REPOSITORY"):
        default_location("mlx-lm", "1.0")


def test_a_home_that_does_not_exist_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="home"):
        Installer("~no-such-user-here/x")
