"""What the strict reader accepts means the same tree to GNU tar, bsdtar and Python's tarfile."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mr_installer.extract import finish_tree
from support import tars
from support.need import need


def gnu_tar(archive: Path, out: Path) -> None:
    subprocess.run([need("tar"), "-xpf", archive, "-C", out], check=True)


def bsdtar(archive: Path, out: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # it refuses non-ASCII PAX paths in the C locale
    subprocess.run([need("bsdtar"), "-xpf", archive, "-C", out], check=True, env=environment)


def python_tarfile(archive: Path, out: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(out, filter="fully_trusted")


ORACLES = [gnu_tar, bsdtar, python_tarfile]


def wide_tree() -> bytes:
    """Names of every length around the limits of ustar fields, in bytes and in characters."""
    members = []
    for length in (1, 91, 92, 93, 99, 100, 101, 155, 156, 200, 255):
        members.append(tars.file(f"backend/{'n' * length}", b"%d" % length))
    place = "backend"
    for level in range(12):
        place = f"{place}/{chr(97 + level) * (60 + level)}"
        members.append(tars.directory(place))
        members.append(tars.file(f"{place}/leaf", place.encode()))
        members.append(tars.link(f"{place}/up", "../" * (level + 1) + "n"))
    members.append(tars.file("backend/" + "ü" * 127, b"wide"))
    members.append(tars.link("backend/far", place.removeprefix("backend/")))
    return tars.archive(*members)


def every_size() -> bytes:
    """Contents around the block size and around the chunks of the reader."""
    sizes = (0, 1, 511, 512, 513, 1023, 1024, 1025, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_001)
    contents = {size: ((b"%07d" % size) * (size // 7 + 1))[:size] for size in sizes}
    return tars.archive(*(tars.file(f"backend/{size}", content) for size, content in contents.items()))


def pax_size() -> bytes:
    """A size that only the PAX header gives."""
    content = b"content of a file" * 100
    head = tars.pax(tars.record("size", str(len(content)))) + tars.header("backend/sized", size=0)
    return tars.archive(head + tars.padded(content), tars.file("backend/zzz", b"after"))


def record_padding() -> bytes:
    """Zeros up to a record, as most packers write them."""
    data = tars.sample()
    return data + bytes(-len(data) % 10240)


ARCHIVES: list[Callable[[], bytes]] = [tars.sample, wide_tree, every_size, pax_size, record_padding]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.__name__)
@pytest.mark.parametrize("make", ARCHIVES, ids=lambda make: make.__name__)
def test_same_tree(make: Callable[[], bytes], oracle: Callable[[Path, Path], None], tmp_path: Path) -> None:
    archive = make()
    stage, out = tmp_path / "stage", tmp_path / "out"
    entries = finish_tree(stage, [tars.extract(tars.job(tmp_path, archive, "zstd"), stage)])
    out.mkdir()
    (tmp_path / "layer.tar").write_bytes(archive)
    oracle(tmp_path / "layer.tar", out)
    assert os.listdir(out) == ["backend"]
    assert tars.tree(stage) == tars.tree(out / "backend")
    assert entries.keys() == {path for path, entry in tars.tree(stage).items() if entry[0] != "directory"}


def source_tree(root: Path, *, long_paths: bool) -> Path:
    """A tree for other packers to pack, with paths that fit ustar or also longer ones."""
    tree = root / "backend"
    tars.extract(tars.job(root, tars.sample()), tree)
    (tree / "bin/alias").symlink_to("tool")
    if not long_paths:
        for place in tree.glob("lib/d*"):
            shutil.rmtree(place)
    return tree


@pytest.mark.parametrize("pack_format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "pax"])
def test_archives_of_python_tarfile_are_accepted(pack_format: int, tmp_path: Path) -> None:
    root = source_tree(tmp_path, long_paths=pack_format == tarfile.PAX_FORMAT)

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = tars.MTIME
        return member

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=pack_format) as packed:
        packed.add(root, "backend", filter=plain)
    finish_tree(tmp_path / "stage", [tars.extract(tars.job(tmp_path, raw.getvalue(), "gzip"), tmp_path / "stage")])
    assert tars.tree(tmp_path / "stage") == tars.tree(root)


def test_archives_of_gnu_tar_are_accepted(tmp_path: Path) -> None:
    root = source_tree(tmp_path, long_paths=False)
    packed = tmp_path / "packed.tar"
    command = [need("tar"), "--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "--sort=name"]
    subprocess.run([*command, "-C", tmp_path, "-cf", packed, root.name], check=True)
    stage = tmp_path / "stage"
    finish_tree(stage, [tars.extract(tars.job(tmp_path, packed.read_bytes()), stage)])
    assert tars.tree(stage) == tars.tree(root)
