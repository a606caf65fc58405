"""The invariants of the layout on disk, in one place: every installer test ends by asking them."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from mr_core.bundle_config import parse_bundle_config
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, RECEIPT_PATH, UNLISTED, FileEntry, LinkEntry, parse_entries
from mr_installer.receipt import read_receipt
from mr_installer.root import PYTHON, BackendDirectory, Root


def check_invariants(root: Path, backend: str = "tiny", *, settled: bool = True) -> str | None:
    """Assert what must always hold below ``root`` and return the active release.

    Args:
        root: Directory that holds the backends.
        backend: Name of the one to look at.
        settled: No transaction was cut since the last one that ended, so nothing may be left over.
    """
    directory = Root.at(root).backend(backend)
    for release in directory.release_ids():
        assert_release_is_whole(directory.release(release))
    active = directory.active()
    if os.path.lexists(directory.python):
        assert active is not None, f"bin/python3 links to {os.readlink(directory.python)}"
        assert directory.python.resolve() == (directory.release(active) / "bin" / PYTHON).resolve()
        assert (directory.release(active) / RECEIPT_PATH).is_file(), "the active release is not sealed"
        assert directory.probed(active).is_file(), "the active release has not passed its probe"
    if settled:
        assert_nothing_is_left_over(directory, active)
    return active


def assert_release_is_whole(release: Path) -> None:
    """Its files, modes, sizes, digests and links equal its file manifest, and its papers are sealed."""
    config = parse_bundle_config((release / BUNDLE_PATH).read_bytes())
    listing = (release / FILES_PATH).read_bytes()
    assert hashlib.sha256(listing).hexdigest() == config.contents.digest.hex
    listed = parse_entries(listing)
    assert len(listed) == config.contents.count
    found = set()
    for folder, names, files in os.walk(release):
        links = [name for name in names if Path(folder, name).is_symlink()]
        found.update(str(Path(folder, name).relative_to(release)) for name in [*files, *links])
        assert stat.S_IMODE(os.lstat(folder).st_mode) == 0o755, folder
    assert found - UNLISTED == set(listed)
    assert found >= UNLISTED, "papers are missing"
    for path, entry in listed.items():
        place = release / path
        match entry:
            case LinkEntry():
                assert os.readlink(place) == entry.link
            case FileEntry():
                status = place.lstat()
                assert stat.S_ISREG(status.st_mode)
                assert stat.S_IMODE(status.st_mode) == entry.mode, path
                assert hashlib.sha256(place.read_bytes()).hexdigest() == entry.sha256, path
    receipt = read_receipt(release / RECEIPT_PATH)
    assert receipt is not None
    assert release.name == f"{receipt.version}-{receipt.digest.short}"


def assert_nothing_is_left_over(directory: BackendDirectory, active: str | None) -> None:
    """No stage, trash, journal or temporary file is there, and the entries follow from the active release."""
    left = [place.name for place in directory.state.iterdir()] if directory.state.is_dir() else []
    assert not [name for name in left if name.startswith(("stage-", "trash-")) or name.endswith(".tmp")], left
    assert "journal.json" not in left
    if active is None:
        return
    entries = {place.name: os.readlink(place) for place in directory.bin.iterdir()}
    assert entries == {
        "python": "python3",
        PYTHON: "python3",
        "python3": f"../releases/{active}/bin/{PYTHON}",
        "mr-serve": f"../releases/{active}/bin/mr-serve",
    }
    assert directory.version_file.read_text().strip() == active.rpartition("-")[0]
    blobs = directory.path.parent / ".mr" / "blobs" / "sha256"
    if blobs.is_dir():
        assert not [place.name for place in blobs.iterdir() if not place.name.endswith(".part")]
