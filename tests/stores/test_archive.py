"""Layouts in tar files, read in place."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from mr_core.archive import ArchiveSource
from mr_core.errors import BundleError, IntegrityError, InvalidInputError, NotFoundError, UsageError
from mr_core.layout import LayoutStore
from mr_core.location import parse_location
from mr_core.open_store import open_source, open_store
from support.need import need
from support.small_image import SmallImage, small_image

IMAGE = small_image("archive", filler=40_000)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutStore:
    layout = LayoutStore(tmp_path / "layout", create=True)
    IMAGE.write(layout, "x-1")
    return layout


def check(source: ArchiveSource, image: SmallImage = IMAGE) -> None:
    """Every byte of the image comes out of the archive, through each way of reading."""
    found = source.resolve("x-1")
    assert source.read_document(found) == image.index
    assert source.read_document(source.resolve(str(image.manifest_descriptor.digest))) == image.manifest
    for blob, content in image.blobs:
        assert source.read_blob(blob) == content
        with source.open_blob(blob, 10) as stream:
            assert (stream.offset, stream.read(1 << 20)) == (10, content[10:])
        place = source.blob_file(blob)
        assert place.path.read_bytes()[place.offset : place.offset + place.size] == content


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_every_tar_format_is_read(layout: LayoutStore, tmp_path: Path, form: int, prefix: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as tar:
        tar.add(layout.path, prefix or ".", filter=lambda member: member)
    check(ArchiveSource(path))


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_archives_of_common_tools_are_read(layout: LayoutStore, tmp_path: Path, program: str) -> None:
    path = tmp_path / "x.tar"
    subprocess.run([need(program), "-cf", str(path), "-C", str(layout.path), "."], check=True)
    check(ArchiveSource(path))


def test_an_archive_of_skopeo_is_read(layout: LayoutStore, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    copy = [need("skopeo"), "copy", "--all", "--preserve-digests", f"oci:{layout.path}:x-1", f"oci-archive:{path}:x-1"]
    subprocess.run(copy, check=True, capture_output=True)
    source, name = open_source(parse_location(f"oci-archive:{path}:x-1"))
    assert name == "x-1"
    assert isinstance(source, ArchiveSource)
    check(source)
    plain, _ = open_source(parse_location(str(path)))
    assert plain.resolve("").digest == IMAGE.index_descriptor.digest


def test_a_cut_archive_is_never_read_wrongly(layout: LayoutStore, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as tar:
        tar.add(layout.path, ".")
    raw = whole.read_bytes()
    end = raw.rstrip(b"\0").__len__()
    refused = 0
    for cut in [*range(0, end, 1777), *range(512, end, 512 * 9), end - 1]:
        path = tmp_path / "cut.tar"
        path.write_bytes(raw[:cut])
        try:
            check(ArchiveSource(path))
        except (IntegrityError, InvalidInputError, NotFoundError) as error:
            refused += 1
            assert str(path) in error.message
        else:
            pytest.fail(f"cut after {cut} of {end} bytes, and nobody noticed")
    assert refused > 20


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content))


def test_a_member_named_twice_is_refused(layout: LayoutStore, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(layout.path, ".")
        add(tar, "index.json", b"{}")
    with pytest.raises(InvalidInputError, match=r"names `index\.json` twice"):
        ArchiveSource(path)


def test_links_and_devices_are_not_followed(layout: LayoutStore, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    blob, _ = IMAGE.blobs[0]
    (layout.path / "blobs/sha256" / blob.digest.hex).unlink()
    with tarfile.open(path, "w") as tar:
        tar.add(layout.path, ".")
        add(tar, f"blobs/sha256/{blob.digest.hex}", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(NotFoundError, match=blob.digest.hex):
        ArchiveSource(path).open_blob(blob)


def test_a_huge_header_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 1 << 33
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 34)
    with pytest.raises(BundleError):
        ArchiveSource(path)


def test_what_is_no_archive_is_named(layout: LayoutStore, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as tar:
        tar.add(layout.path, ".")
    cases = {
        "text": (b"hello " * 1000, "not a tar file"),
        "empty": (b"", "not a tar file"),
        "gzip": (gzip.compress(whole.read_bytes()), "compressed with gzip"),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match=words) as caught:
            ArchiveSource(path)
        assert str(path) in caught.value.message
    with pytest.raises(NotFoundError):
        ArchiveSource(tmp_path / "nothing")
    with pytest.raises(BundleError):
        ArchiveSource(tmp_path)
    stranger = tmp_path / "stranger.tar"
    with tarfile.open(stranger, "w") as tar:
        add(tar, "manifest.json", b"[]")
    with pytest.raises(InvalidInputError, match="has no `oci-layout`"):
        ArchiveSource(stranger)


def test_archives_are_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can only be read"):
        open_store(parse_location(f"oci-archive:{tmp_path / 'x.tar'}"))


@pytest.mark.parametrize(
    "fields",
    [
        {"GNU.sparse.size": "x", "GNU.sparse.map": "0,1"},
        {"GNU.sparse.map": "a,b"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"},
        {"GNU.sparse.realsize": "9" * 5000},
        {"size": "9" * 200},
        {"size": "-99999"},
    ],
)
def test_broken_fields_of_an_extended_header_are_errors_of_ours(tmp_path: Path, fields: dict[str, str]) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "first", b"x" * 600)
        add(tar, "second", b"x" * 600, pax_headers=fields)
        add(tar, "third", b"x" * 600)
    with pytest.raises((IntegrityError, InvalidInputError)) as caught:
        ArchiveSource(path)
    assert str(path) in caught.value.message


def test_extended_headers_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "large", pax_headers={"comment": "x" * (70 << 10)})
    with pytest.raises(BundleError, match="a header of"):
        ArchiveSource(path)
    block = io.BytesIO()
    with tarfile.open(fileobj=block, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "x", type=tarfile.DIRTYPE, pax_headers={"comment": "x" * (60 << 10)})
    one = block.getvalue()[: 512 + (61 << 10) + 512]
    with path.open("wb") as file:
        for _ in range(400):
            file.write(one)
        file.write(bytes(1024))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="has no `oci-layout`"):
            ArchiveSource(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20, "400 headers of 60 KiB were kept"
    finally:
        tracemalloc.stop()


def test_chains_of_headers_have_an_end(tmp_path: Path) -> None:
    def header(kind: bytes, content: bytes) -> bytes:
        member = tarfile.TarInfo("x")
        member.type = kind
        member.size = len(content)
        return member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)

    for number, one in enumerate((header(tarfile.XHDTYPE, b""), header(tarfile.XGLTYPE, b"13 key=value\n"))):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(one * 20_000 + bytes(1024))
        with pytest.raises((IntegrityError, InvalidInputError)):
            ArchiveSource(path)
