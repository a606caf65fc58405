"""Durable writes, links and removals."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from mr_core import durable
from mr_core.durable import make_directories, point_link, remove_tree, sync_tree, write_all, write_durably
from mr_core.errors import HostError


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "record"
    for content in (b"first, and long", b"second"):
        write_durably(target, content)
        assert target.read_bytes() == content
    assert os.listdir(tmp_path) == ["record"]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_directories(tmp_path / "a" / "b")
        write_durably(tmp_path / "a" / "b" / "c", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o644


def test_a_write_never_follows_a_planted_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "record").symlink_to(outside)
    write_durably(tmp_path / "record", b"new")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "record").is_symlink()


def test_a_link_moves_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "python3"
    for target in ("../one", "../two"):
        point_link(link, target)
        assert os.readlink(link) == target
    assert os.listdir(tmp_path) == ["python3"]


def test_removal_does_not_follow_links(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "link").symlink_to(keep)
    (tree / "link").symlink_to(keep / "file")
    remove_tree(tree)
    remove_tree(tree)  # absent is fine
    assert not tree.exists()
    assert (keep / "file").read_text() == "x"


def test_a_missing_parent_is_a_host_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="Cannot write") as caught:
        write_durably(tmp_path / "no" / "record", b"")
    assert "record" in caught.value.message
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="Cannot create"):
        make_directories(tmp_path / "file" / "sub")


def test_syncing_a_tree_with_dangling_links_works(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    sync_tree(tmp_path)


def test_macos_empties_the_cache_of_the_drive_once_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    calls: list[str] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        calls.append(Path(f"/dev/fd/{descriptor}").resolve().name)
        real(descriptor)

    monkeypatch.setattr(durable, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(fcntl, "fcntl", lambda _descriptor, command: calls.append(f"full {command}"))
    sync_tree(tmp_path)
    assert sorted(calls[:-1]) == sorted([tmp_path.name, "a", "b", "file", "file"])
    assert calls[-1] == "full 51"


def test_everything_is_written_however_little_the_system_takes(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    found = bytearray()
    reader, writer = os.pipe()

    def drain() -> None:
        while chunk := os.read(reader, 1000):
            found.extend(chunk)

    thread = threading.Thread(target=drain)
    thread.start()
    write_all(writer, memoryview(content))
    os.close(writer)
    thread.join(20)
    os.close(reader)
    assert bytes(found) == content


def test_a_path_that_is_too_long_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="too long"):
        make_directories(tmp_path / ("x" * 300))
