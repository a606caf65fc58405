"""Temporary files of a store: left over ones are removed, and nothing else stops that."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from mr_core.errors import HostError
from mr_core.ingest import ingest, sweep


def age(path: Path) -> None:
    old = time.time() - 3600
    os.utime(path, (old, old), follow_symlinks=False)


def test_a_strange_file_does_not_keep_the_others(tmp_path: Path) -> None:
    folder = tmp_path / ".ingest"
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("mine")
    age(outside)
    (folder / "a-dangling").symlink_to("nowhere")
    (folder / "b-link").symlink_to(outside)
    (folder / "c-directory").mkdir()
    os.mkfifo(folder / "d-pipe")
    (folder / "e-secret").write_text("x")
    (folder / "e-secret").chmod(0)
    strange = sorted(folder.iterdir())[:4]
    leftovers = [folder / f"{letter}-left" for letter in "0z"]
    for leftover in leftovers:
        leftover.write_text("x")
    for place in folder.iterdir():
        age(place)
    (folder / "new").write_text("x")
    sweep(folder)
    assert not any(leftover.exists() for leftover in leftovers)
    assert all(place.is_symlink() or place.exists() for place in strange)
    assert (folder / "new").exists()
    assert outside.read_text() == "mine"
    sweep(tmp_path / "absent")


def test_a_file_that_is_being_written_stays(tmp_path: Path) -> None:
    folder = tmp_path / ".ingest"
    with ingest(folder, tmp_path / "target") as file:
        file.write(b"half")
        (partial,) = folder.iterdir()
        age(partial)
        sweep(folder)
        assert partial.exists()
    assert (tmp_path / "target").read_bytes() == b"half"


def test_a_filesystem_without_locks_is_a_host_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(HostError, match="Cannot lock"), ingest(tmp_path / ".ingest", tmp_path / "target"):
        pass
    assert list((tmp_path / ".ingest").iterdir()) == []
