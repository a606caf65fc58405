"""ELF facts agree with binutils, cost little in large files, and hostile files are a problem, never a crash."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mr_bundler.binaries.binary import Binary, Slice
from mr_bundler.binaries.elf import read_elf
from mr_bundler.binaries.formats import read_binary, read_elf_binary
from mr_bundler.binaries.window import Window
from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.errors import BuildError
from mr_core.platform import Platform
from support.binaries import asks_for_glibc, edited, with_newer_glibc
from support.need import need

MULTIARCH = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}.get(Platform.host().architecture, "")
LIBRARY = next(
    (place for place in map(Path, (f"/lib/{MULTIARCH}/libc.so.6", "/lib64/libc.so.6")) if place.exists()), Path()
)
SMALL = bytearray(b"\x7fELF\x02\x01\x01" + bytes(9) + bytes.fromhex("03003e0001000000") + bytes(40))


def binary_of(place: Path) -> Binary:
    found = read_binary(place, place.read_bytes()[:64])
    assert found is not None
    return found


def test_every_library_of_the_interpreter_reads_as_readelf_reads_it(python: Path, libraries: list[Path]) -> None:
    readelf = need("readelf")
    places = [*libraries, *(python / "lib").glob("libpython3.12.so.1*"), (python / "bin/python3.12").resolve(), LIBRARY]
    assert len(places) > 40
    for place in places:
        (found,) = binary_of(place).slices
        text = subprocess.run([readelf, "-dlVW", place], capture_output=True, text=True, check=True).stdout
        loader = re.findall(r"Requesting program interpreter: (.*)\]", text)
        assert [name for name in found.needed if not name.startswith("/")] == re.findall(r"\(NEEDED\).*\[(.*)\]", text)
        assert [name for name in found.needed if name.startswith("/")] == loader
        assert list(found.rpaths) == [p for path in re.findall(r"PATH\).*\[(.*)\]", text) for p in path.split(":")]
        assert [found.name] == (re.findall(r"\(SONAME\).*\[(.*)\]", text) or [""])
        asked = re.findall(r"Name: GLIBC_([0-9.]+) +Flags", text)
        highest = max(asked, key=lambda version: [int(part) for part in version.split(".")], default="")
        assert found.floor in {highest, "2.36"} if "GLIBC_ABI_DT_RELR" in text else found.floor == highest
        assert (found.system, found.architecture) == ("linux", Platform.host().architecture)
        assert (found.kind == "executable") == bool(loader)


def test_search_paths_names_and_floors_of_edited_libraries(libraries: list[Path], tmp_path: Path) -> None:
    place = edited(libraries[0], tmp_path / "a.so", "--set-rpath", "$ORIGIN:/opt/lib::", "--add-needed", "libx.so.9")
    (found,) = binary_of(place).slices
    assert found.rpaths == ("$ORIGIN", "/opt/lib", "", "")
    assert "libx.so.9" in found.needed
    place.write_bytes(with_newer_glibc(asks_for_glibc(libraries)))
    assert binary_of(place).slices[0].floor == "2.99"
    text = subprocess.run([need("readelf"), "-VW", place], capture_output=True, text=True, check=True).stdout
    assert "GLIBC_2.99" in text


def test_every_library_that_the_loader_maps_is_needed(libraries: list[Path], tmp_path: Path) -> None:
    needing = edited(libraries[0], tmp_path / "needing.so", "--add-needed", "libx.so.9")
    place = edited(needing, tmp_path / "named.so", "--set-soname", "audit.so:/opt/audit.so")  # one edit at a time
    content = place.read_bytes()
    text = subprocess.run([need("readelf"), "-dW", place], capture_output=True, text=True, check=True).stdout
    table = int(re.findall(r"Dynamic section at offset (0x[0-9a-f]+)", text)[0], 16)
    soname = (14).to_bytes(8, "little")
    at = next(at for at in range(table, len(content), 16) if content[at : at + 8] == soname)
    for tag, names in {
        0x6FFFFEFB: ("audit.so", "/opt/audit.so"),  # DT_DEPAUDIT
        0x6FFFFEFC: ("audit.so", "/opt/audit.so"),  # DT_AUDIT
        0x7FFFFFFD: ("audit.so:/opt/audit.so",),  # DT_AUXILIARY
        0x7FFFFFFF: ("audit.so:/opt/audit.so",),  # DT_FILTER
    }.items():
        changed = content[:at] + tag.to_bytes(8, "little") + content[at + 8 :]
        (found,) = read_elf_binary(Window.of(changed), changed[:64]).slices
        assert set(found.needed) >= {"libx.so.9", *names}, hex(tag)


def test_what_is_asked_of_libstdcxx(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text(
        "#include <string>\n#include <stdexcept>\n"
        'std::string f(int x) { if (x) throw std::runtime_error("x"); return std::to_string(x); }\n'
    )
    place = tmp_path / "a.so"
    subprocess.run([need("g++"), "-shared", "-fPIC", "-O0", "-o", place, tmp_path / "a.cpp"], check=True)
    text = subprocess.run([need("readelf"), "-VW", place], capture_output=True, text=True, check=True).stdout
    highest = []
    for family in ("CXXABI", "GLIBCXX"):
        asked = re.findall(rf"Name: {family}_([0-9.]+) +Flags", text)
        highest.append(f"{family}_" + max(asked, key=lambda version: [int(part) for part in version.split(".")]))
    assert binary_of(place).slices[0].cxx == tuple(highest)
    own = edited(place, tmp_path / "b.so", "--replace-needed", "libstdc++.so.6", "libstdc++-1234.so.6")
    (found,) = binary_of(own).slices
    assert ("libstdc++-1234.so.6" in found.needed, found.cxx) == (True, ()), "what a wheel brings is not the host's"


def test_a_library_of_a_gigabyte_costs_a_few_small_reads(libraries: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "large.so"
    place.write_bytes(libraries[0].read_bytes())
    os.truncate(place, 1 << 30)
    taken: list[int] = []
    with place.open("rb") as file:

        def read(size: int, offset: int) -> bytes:
            taken.append(size)
            return os.pread(file.fileno(), size, offset)

        found = read_elf_binary(Window(read, 1 << 30), os.pread(file.fileno(), 64, 0))
    assert found == binary_of(libraries[0])
    assert sum(taken) < 100_000


@pytest.mark.parametrize(
    ("machine", "bits", "order", "expected"),
    [
        (183, 2, 1, "arm64"),
        (8, 2, 1, "mips"),
        (9999, 2, 1, "machine 9999"),
        (3, 1, 1, "i386 (32-bit, little-endian)"),
        (40, 1, 1, "arm (32-bit, little-endian)"),
        (22, 2, 2, "s390x (64-bit, big-endian)"),
    ],
)
def test_architectures_by_name(tmp_path: Path, machine: int, bits: int, order: int, expected: str) -> None:
    content = bytearray(SMALL)
    content[4:6] = bytes([bits, order])
    content[16:20] = b"".join(number.to_bytes(2, "little" if order == 1 else "big") for number in (3, machine))
    (tmp_path / "x.so").write_bytes(content)
    (found,) = binary_of(tmp_path / "x.so").slices
    assert (found.architecture, found.kind) == (expected, "library")


@pytest.mark.parametrize("machine", [190, 224, 247])
def test_code_for_graphics_processors_is_data(tmp_path: Path, machine: int) -> None:
    content = bytearray(SMALL)
    content[18:20] = machine.to_bytes(2, "little")
    (tmp_path / "kernel.cubin").write_bytes(content)
    assert read_binary(tmp_path / "kernel.cubin", bytes(content)) is None


def test_objects_are_not_loaded(tmp_path: Path) -> None:
    content = bytearray(SMALL)
    content[16:18] = b"\x01\x00"
    (tmp_path / "x.o").write_bytes(content)
    assert binary_of(tmp_path / "x.o").slices[0].kind == "object"


@pytest.mark.parametrize("length", [4, 5, 19, 63])
def test_a_header_that_is_cut_off(tmp_path: Path, length: int) -> None:
    (tmp_path / "x.so").write_bytes(SMALL[:length])
    assert binary_of(tmp_path / "x.so").problem


def test_a_library_that_is_cut_off_says_so(tmp_path: Path) -> None:
    content = LIBRARY.read_bytes()
    for part in (0.2, 0.5, 0.7):
        (tmp_path / "x.so").write_bytes(content[: int(len(content) * part)])
        assert "truncated" in binary_of(tmp_path / "x.so").problem


def test_numbers_that_ask_for_everything(tmp_path: Path) -> None:
    content = bytearray(SMALL)
    content[32:40] = (64).to_bytes(8, "little")  # e_phoff
    content[54:58] = bytes.fromhex("3800ffff")  # e_phentsize, e_phnum
    assert "program headers" in read_elf_binary(Window.of(bytes(content)), bytes(content)).problem
    content[56:58] = b"\x01\x00"
    segment = bytearray(56)
    segment[:4] = (2).to_bytes(4, "little")  # PT_DYNAMIC
    segment[32:40] = (1 << 62).to_bytes(8, "little")
    hostile = bytes(content + segment)
    assert "truncated" in read_elf_binary(Window.of(hostile), hostile).problem


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damage_anywhere_is_a_problem_or_still_readable(data: st.DataObject) -> None:
    content = bytearray(LIBRARY.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 2000), st.integers(0, len(content) - 8)))
        content[at : at + 8] = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8)))
    cut = bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(20, len(content))))])
    found = read_elf_binary(Window.of(cut), cut[:64])
    assert bool(found.problem) != bool(found.slices)
    assert Binary.decode(Decoder(parse_json(dump_json(found.to_json()), "x"), "x")) == found


@given(st.binary(max_size=4096))
@example(b"")
@settings(max_examples=200, deadline=None)
def test_noise_behind_the_magic(noise: bytes) -> None:
    content = b"\x7fELF\x02\x01" + noise
    assert isinstance(read_elf_binary(Window.of(content), content[:64]), Binary)
    with pytest.raises(BuildError) if len(content) < 64 else pytest.MonkeyPatch.context():
        read_elf(content, "noise")


def test_slices_come_back_from_json() -> None:
    whole = Slice(
        system="darwin", architecture="arm64", kind="executable", name="@rpath/a", needed=("x", "y"), optional=("z",),
        rpaths=("", "@loader_path"), floor="14.0", cxx=("GLIBCXX_3.4.29",), signature="valid",
    )  # fmt: skip
    for binary in (
        Binary(format="macho", slices=(whole, Slice(system="a", architecture="b"))),
        Binary(format="elf", problem="x"),
    ):
        read = Decoder(binary.to_json(), "x")
        assert Binary.decode(read) == binary
        read.finish()
