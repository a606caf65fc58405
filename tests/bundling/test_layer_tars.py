"""Layer tars: one form, exact sizes, the same tree for every reader."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr_bundler.audit.path_rules import judge_paths
from mr_bundler.image.pack import layer_key, pack_layer
from mr_bundler.image.tar_writer import BLOCK, MTIME, tar_pieces, tar_size
from mr_core.digest import Digest
from mr_core.errors import BuildError
from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from mr_core.store import BlobFile
from mr_installer.extract.finish import finish_tree
from mr_installer.extract.job import LayerJob
from mr_installer.extract.pool import ExtractionPool
from support.need import need

LONG = "/".join(["component-of-a-long-path"] * 12)


def write_tree(root: Path, files: dict[str, tuple[bytes, int]], links: dict[str, str]) -> list[Entry]:
    entries: list[Entry] = []
    for path, (content, mode) in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append(FileEntry(path=path, mode=mode, size=len(content), sha256=sha256))
    entries += [LinkEntry(path=path, link=target) for path, target in links.items()]
    return entries


def tar_bytes(root: Path, entries: list[Entry]) -> bytes:
    content = b"".join(tar_pieces(root, entries))
    assert len(content) == tar_size(entries)
    return content


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, list[Entry]]:
    root = tmp_path / "tree"
    files = {
        "bin/tool": (b"#!/bin/sh\n", 0o755),
        "lib/empty": (b"", 0o644),
        "lib/block": (b"x" * BLOCK, 0o644),
        "lib/big": (os.urandom(3 << 20), 0o644),
        "lib-a/x": (b"1", 0o644),
        "lib.b/x": (b"2", 0o644),
        "Ä/ö ü.txt": ("ß".encode(), 0o644),
        f"{LONG}/file.py": (b"long", 0o644),
        f"{LONG}/{'n' * 200}": (b"no room for the name", 0o755),
        f"{'d' * 150}/{'e' * 99}": (b"prefix is too long with the root", 0o644),
        f"{'q' * 140}/{'e' * 100}": (b"just fits", 0o644),
    }
    links = {"bin/python3": "tool", "lib/up": "../bin/tool", f"{LONG}/link": f"{'../' * 12}{LONG}/{'n' * 200}"}
    return root, write_tree(root, files, links)


def test_every_reader_gets_the_same_tree(tree: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    root, entries = tree
    tar = tmp_path / "layer.tar"
    tar.write_bytes(tar_bytes(root, entries))
    expected = {
        f"backend/{entry.path}": entry.link
        if isinstance(entry, LinkEntry)
        else (entry.mode, (root / entry.path).read_bytes())
        for entry in entries
    }
    for program in ("tar", "bsdtar"):
        out = tmp_path / program
        out.mkdir()
        ran = subprocess.run(
            [need(program), "-xpf", tar, "-C", out],
            capture_output=True,
            text=True,
            check=True,
            env={"LC_ALL": "C.UTF-8"},
        )
        assert ran.stderr == ""
        found = {}
        for directory, _, names in os.walk(out):
            for name in names:
                place = Path(directory, name)
                path = str(place.relative_to(out))
                found[path] = (
                    os.readlink(place) if place.is_symlink() else (place.stat().st_mode & 0o777, place.read_bytes())
                )
                assert place.lstat().st_mtime == MTIME
        assert found == expected
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
        assert {m.name for m in members if not m.isdir()} == set(expected)
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", MTIME)}
        assert {m.mode for m in members if m.isdir()} == {0o755}
        names = [m.name.encode() for m in members]
        assert names == sorted(names)
        assert names[0] == b"backend"
        assert len(set(names)) == len(names)


def test_the_installer_accepts_it(tree: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    root, entries = tree
    layer, blob = pack_layer(
        root, entries, (), scratch=tmp_path, threads=1, check=lambda: None, progress=lambda _: None
    )
    assert Digest.of(blob.read_bytes()) == layer.digest
    stage = tmp_path / "stage"
    stage.mkdir()
    with ExtractionPool(stage, 0) as pool:
        job = LayerJob(
            blob=BlobFile(path=blob, size=layer.size),
            digest=layer.digest,
            diff_id=layer.diff_id,
            compression="zstd",
            verified=False,
        )
        result = pool.submit(job).result()
    assert finish_tree(stage, [result]) == {entry.path: entry for entry in entries}


def test_threads_do_not_matter_and_zstd_reads_it(tree: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    root, entries = tree
    layers = [
        pack_layer(root, order, (), scratch=tmp_path, threads=threads, check=lambda: None, progress=lambda _: None)
        for threads, order in ((1, entries), (4, entries[::-1]))
    ]
    assert layers[0][0] == layers[1][0]
    ran = subprocess.run([need("zstd"), "-dc", layers[0][1]], capture_output=True, check=True)
    assert Digest.of(ran.stdout) == layers[0][0].diff_id
    assert len(ran.stdout) == layers[0][0].bytes


def test_nothing_after_the_end(tree: tuple[Path, list[Entry]]) -> None:
    content = tar_bytes(*tree)
    assert content.endswith(bytes(2 * BLOCK))
    last = content[: -2 * BLOCK]
    assert last[-BLOCK:].strip(b"\0"), "the block before is the last member's"


def test_pax_only_where_it_must(tree: tuple[Path, list[Entry]]) -> None:
    content = tar_bytes(*tree)
    extended = 0
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            extended += bool(member.pax_headers)
            assert bool(member.pax_headers) != _fits_ustar(member), member.name
    assert extended > 4


def _fits_ustar(member: tarfile.TarInfo) -> bool:
    """Whether Python's own writer needs no extension for it."""
    plain = tarfile.TarInfo(member.name)
    plain.type, plain.linkname = member.type, member.linkname
    try:
        return plain.tobuf(tarfile.USTAR_FORMAT)[0] != 0  # it would store some directories with an empty name
    except ValueError:
        return False


def test_a_file_that_changed_meanwhile(tree: tuple[Path, list[Entry]]) -> None:
    root, entries = tree
    for content in (b"shorter", b"y" * (BLOCK + 1)):
        (root / "lib/block").write_bytes(content)
        with pytest.raises(BuildError, match="`lib/block`: it changed"):
            list(tar_pieces(root, entries))


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    entry = FileEntry(path="huge", mode=0o644, size=8**11, sha256="0" * 64)
    with pytest.raises(BuildError, match="8 GiB"):
        tar_size([entry])
    tar_size([FileEntry(path="huge", mode=0o644, size=8**11 - 1, sha256="0" * 64)])


_NAME = st.text(st.sampled_from("ab.-ä€ "), min_size=1, max_size=60).filter(lambda name: name not in {".", ".."})
_PATH = st.lists(_NAME, min_size=1, max_size=9).map("/".join)


@settings(max_examples=60, deadline=None)
@given(paths=st.sets(_PATH, min_size=1, max_size=6))
def test_any_paths(paths: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    files = {path: (path.encode(), 0o644) for path in paths if not any(o.startswith(f"{path}/") for o in paths)}
    root = tmp_path_factory.mktemp("any")
    content = tar_bytes(root, write_tree(root, files, {}))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    assert found == {f"backend/{path}": content for path, (content, _) in files.items()}


def test_keys_follow_what_decides_the_bytes(tree: tuple[Path, list[Entry]]) -> None:
    _, entries = tree
    sources = [*entries, FileEntry(path="lib/python3.12/a.py", mode=0o644, size=1, sha256="0" * 64)]
    assert layer_key(entries, "one") == layer_key(entries[::-1], "two"), "no Python in it"
    assert layer_key(sources, "one") != layer_key(sources, "two")
    assert layer_key(sources, "one") != layer_key(entries, "one")
    changed = [FileEntry(path="lib/python3.12/a.py", mode=0o755, size=1, sha256="0" * 64), *entries]
    assert layer_key(sources, "one") != layer_key(changed, "one")


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["a/B", "a/b"], "a/B"),
        (["ß", "ss"], "ss"),
        (["a/x", "A/y"], "A"),
        (["a\u0308"], "normal form"),
        (["a\\b"], "control character or a backslash"),
        (["a\nb"], "control character or a backslash"),
        (["a\udcff"], "not UTF-8"),
        (["a" * 256], "component longer"),
        (["/".join(["a" * 200] * 6)], "longer than 1024 bytes"),
        (["/".join(["a"] * 66)], "too deep"),
        (["a/.wh.b"], "whiteout"),
        (["a/c:b"], "drive letter"),
    ],
)
def test_paths_no_host_could_extract(paths: list[str], reason: str) -> None:
    (finding,) = judge_paths({path: FileEntry(path=path, mode=0o644, size=0, sha256="0" * 64) for path in paths})
    assert reason in finding.detail


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "../b/../../..", ".."])
def test_links_that_leave_the_tree(target: str) -> None:
    path = "x" if target == ".." else "a/link"
    there = [path, "b/file"]
    entries: dict[str, Entry] = {name: FileEntry(path=name, mode=0o644, size=0, sha256="0" * 64) for name in there}
    entries[path] = LinkEntry(path=path, link=target)
    (finding,) = judge_paths(entries)
    assert finding.kind == "unsafe-path"
    assert "link" in finding.detail


def test_paths_that_are_fine() -> None:
    fine = ["a/b", "a/c", "ab", "a.b/c", "Ä/ö", "a" * 255, "/".join(["a"] * 64), "x/abc:d", "wh.x"]
    entries: dict[str, Entry] = {path: FileEntry(path=path, mode=0o644, size=0, sha256="0" * 64) for path in fine}
    entries["a/link"] = LinkEntry(path="a/link", link="../ab")
    assert list(judge_paths(entries)) == []


def test_a_file_with_other_bytes_of_the_same_size(tree: tuple[Path, list[Entry]]) -> None:
    root, entries = tree
    for path in ("lib-a/x", "lib/big"):
        place = root / path
        honest = place.read_bytes()
        place.write_bytes(bytes(len(honest)))
        with pytest.raises(BuildError, match=f"Cannot pack `{path}`: it changed"):
            tar_bytes(root, entries)
        place.write_bytes(honest)
