"""Writing a tree: any umask, few descriptors, nothing outside the stage, and a full disk is the host's problem."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_core.errors import HostError, IntegrityError
from mr_installer.extract import ExtractionPool, finish_tree
from mr_installer.extract.tree_writer import TreeWriter, open_directory
from support import tars
from support.need import missing, need
from support.tars import archive, directory, file, link


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277])
@pytest.mark.parametrize("workers", [0, 1])
def test_umask_does_not_matter(mask: int, workers: int, tmp_path: Path) -> None:
    job = tars.job(tmp_path, tars.sample(), "zstd")
    tars.extract(job, tmp_path / "reference")
    expected = tars.tree(tmp_path / "reference")
    stage = tmp_path / "stage"
    stage.mkdir(0o700)
    before = os.umask(mask)
    try:
        with ExtractionPool(stage, workers) as pool:
            result = pool.submit(job).result()
    finally:
        assert os.umask(before) == mask, "the caller's umask is not ours to change"
    assert tars.tree(stage) == expected
    assert stage.stat().st_mode & 0o7777 == 0o755
    assert {entry[1] for entry in expected.values()} == {0o644, 0o755}
    finish_tree(stage, [result])


def deep_members() -> list[bytes]:
    """Two branches as deep as is allowed, whose members alternate: the worst order for open directories."""
    members = []
    for level in range(1, 64):
        for branch in "ab":
            place = "/".join(["backend", *([branch] * level)])
            members += [directory(place), file(f"{place}/leaf", place.encode())]
    return members


def test_deep_trees_need_few_descriptors(tmp_path: Path) -> None:
    tar = archive(*deep_members(), link("backend/z", "/".join("a" * 63)))
    job = tars.job(tmp_path, tar, "gzip")
    program = (
        "import json, os, resource, sys\n"
        "from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]),) * 2)\n"
        "from mr_installer.extract import ExtractionPool, LayerJob, finish_tree\n"
        "stage, job = Path(sys.argv[1]), LayerJob.from_json(json.loads(sys.argv[2]))\n"
        "with ExtractionPool(stage, int(sys.argv[4])) as pool:\n"
        "    results = [pool.submit(job).result()]\n"
        "print(len(finish_tree(stage, results)))\n"
    )
    for workers, limit in ((2, 64), (0, 32)):
        place = tmp_path / f"stage{workers}"
        place.mkdir()
        command = [sys.executable, "-c", program, str(place), json.dumps(job.to_json()), str(limit), str(workers)]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "127\n"
        assert (place / "/".join("a" * 63) / "leaf").read_text() == "backend/" + "/".join("a" * 63)


def test_directories_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    tars.extract(tars.job(tmp_path, archive(*deep_members())), tmp_path / "stage")
    with pytest.raises(IntegrityError):
        tars.extract(tars.job(tmp_path, archive(*deep_members(), end=b"")), tmp_path / "other")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("target", ["outside", "missing"])
def test_links_in_the_stage_are_not_followed(target: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "lib").symlink_to(tmp_path / target)
    with pytest.raises(IntegrityError) as caught:
        tars.extract(tars.job(tmp_path, archive(directory("backend/lib"), file("backend/lib/a"))), stage)
    assert caught.value.fields["rule"] == "not-a-directory"
    (stage / "a").symlink_to(tmp_path / target / "a")
    with pytest.raises(IntegrityError) as caught:
        tars.extract(tars.job(tmp_path, archive(file("backend/a", b"x"))), stage)
    assert caught.value.fields["rule"] == "duplicate"
    assert not list((tmp_path / "outside").iterdir())
    assert not (tmp_path / "missing").exists()


def test_stage_itself_may_not_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "stage").symlink_to("real")
    with pytest.raises(HostError, match="Cannot open"):
        open_directory(tmp_path / "stage")


def test_writer_finds_its_way_back(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    root = open_directory(tmp_path / "stage")
    with TreeWriter(root) as writer:
        for path in ("a", "a/b", "a/b/c", "d", "a/e", "a/b/f"):
            writer.make_directory(path)
        writer.make_directory("a/b")
        for path in ("x", "a/b/c/x", "d/x", "a/b/x", "a/x"):
            assert len(writer.write_file(path, 0o644, [memoryview(path.encode())])) == 64
    os.close(root)
    for path in ("x", "a/b/c/x", "d/x", "a/b/x", "a/x"):
        assert (tmp_path / "stage" / path).read_text() == path


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A tmpfs of 1 MiB and 60 inodes, or with the options of the test's parameter."""
    if os.geteuid() != 0:
        missing("root, to mount a small filesystem")
    place = tmp_path / "disk"
    place.mkdir()
    options = getattr(request, "param", "size=1m,nr_inodes=60")
    if subprocess.run([need("mount"), "-t", "tmpfs", "-o", options, "tmpfs", place], check=False).returncode:
        missing("permission to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run([need("umount"), place], check=True)


FULL = {
    "bytes": archive(file("backend/big", bytes(3 << 20))),
    "inodes of files": archive(*(file(f"backend/{number}") for number in range(100))),
    "inodes of directories": archive(*(directory(f"backend/{number:03}") for number in range(100))),
}


@pytest.mark.root
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("what", FULL)
def test_full_disk(what: str, workers: int, small_disk: Path, tmp_path: Path) -> None:
    stage = small_disk / "stage"
    stage.mkdir()
    with ExtractionPool(stage, workers) as pool, pytest.raises(HostError) as caught:
        pool.submit(tars.job(tmp_path, FULL[what], "zstd")).result()
    assert caught.value.fields["errno"] == errno.errorcode[errno.ENOSPC]
    assert "free some disk space" in caught.value.hint


@pytest.mark.root
def test_no_room_for_links(small_disk: Path, tmp_path: Path) -> None:
    stage = small_disk / "stage"
    tar = archive(file("backend/a"), *(link(f"backend/{number}", "a") for number in range(100)))
    result = tars.extract(tars.job(tmp_path, tar), stage)
    with pytest.raises(HostError, match="Cannot create"):
        finish_tree(stage, [result])


@pytest.mark.root
@pytest.mark.parametrize("small_disk", ["ro"], indirect=True)
def test_read_only_filesystem(small_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="read-only") as caught:
        tars.extract(tars.job(tmp_path, tars.sample()), small_disk)
    assert caught.value.hint
