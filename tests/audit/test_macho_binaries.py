"""Mach-O facts and signatures: real wheels pass, one flipped byte does not, hostile files are a problem."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr_bundler.binaries.binary import Binary
from mr_bundler.binaries.formats import read_binary, read_macho_binary
from mr_bundler.binaries.macho import is_macho, read_macho
from mr_bundler.binaries.window import Window
from support.macho import ARM64, BUNDLE, EXECUTE, OBJECT, X86_64, MachO, fat


def read(content: bytes) -> Binary:
    assert is_macho(content[:64])
    return read_macho_binary(Window.of(content))


def signature(content: bytes) -> str:
    (found,) = read(content).slices
    return found.signature


def real_libraries(tree: Path) -> list[Path]:
    return sorted(place for place in tree.rglob("*.so") if place.is_file())


def test_what_the_load_commands_say() -> None:
    made = MachO(
        kind=EXECUTE, needed=("/usr/lib/libSystem.B.dylib", "@rpath/liba.dylib"), weak=("/opt/libweak.dylib",),
        rpaths=("@loader_path/../lib", "/opt/homebrew/lib"), minos="13.3.1",
    )  # fmt: skip
    (found,) = read(made.dump()).slices
    assert (found.system, found.architecture, found.kind) == ("darwin", "arm64", "executable")
    assert (found.needed, found.optional) == (made.needed, made.weak)
    assert (found.rpaths, found.floor, found.signature) == (made.rpaths, "13.3.1", "valid")
    (found,) = read(MachO(name="@rpath/libself.dylib", cpu=X86_64, platform=2, minos="10.9").dump()).slices
    assert (found.system, found.architecture, found.name, found.floor) == (
        "ios",
        "amd64",
        "@rpath/libself.dylib",
        "10.9",
    )


def with_command(content: bytes, command: bytes) -> bytes:
    """Put a load command behind the others, over content; without a signature nobody notices."""
    count, size = struct.unpack_from("<II", content, 16)
    grown = struct.pack("<II", count + 1, size + len(command))
    return content[:16] + grown + content[24 : 32 + size] + command + content[32 + size + len(command) :]


def build_version(platform: int, minos: int) -> bytes:
    return struct.pack("<IIIIII", 0x32, 24, platform, minos << 16, 0, 0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, "14.0"), build_version(1, 11), ("darwin", "14.0")),
        ((1, "11.0"), build_version(1, 14), ("darwin", "14.0")),
        ((1, "14.0"), build_version(6, 99), ("darwin", "14.0")),
        ((6, "99.0"), build_version(1, 14), ("darwin", "14.0")),
        ((2, "14.0"), build_version(3, 99), ("ios", "14.0")),
        ((1, "14.0"), struct.pack("<IIII", 0x24, 16, 10 << 16, 0), ("darwin", "14.0")),
        ((1, "14.0"), struct.pack("<IIII", 0x25, 16, 10 << 16, 0), ("darwin", "14.0")),
    ],
    ids=["same", "higher", "zippered", "zippered-reversed", "not-for-macs", "old-command", "old-for-ios"],
)
def test_the_highest_floor_counts(first: tuple[int, str], second: bytes, expected: tuple[str, str]) -> None:
    content = MachO(platform=first[0], minos=first[1], signed=()).dump()
    (found,) = read(with_command(content, second)).slices
    assert (found.system, found.floor) == expected


def test_the_environment_that_an_executable_brings_for_its_loader() -> None:
    text = b"DYLD_LIBRARY_PATH=@executable_path/../lib:/opt/homebrew/lib\0"
    text += bytes(-(12 + len(text)) % 8)
    command = struct.pack("<III", 0x27, 12 + len(text), 12) + text
    (found,) = read(with_command(MachO(kind=EXECUTE, rpaths=("@loader_path",), signed=()).dump(), command)).slices
    assert found.rpaths == ("@loader_path", "@executable_path/../lib", "/opt/homebrew/lib")


@pytest.mark.parametrize(("subtype", "expected"), [(0, "arm64"), (2, "arm64e"), (0x80000002, "arm64e"), (1, "arm64")])
def test_pointer_authentication_is_another_architecture(subtype: int, expected: str) -> None:
    content = bytearray(MachO(signed=()).dump())
    content[8:12] = struct.pack("<I", subtype)
    assert read(bytes(content)).slices[0].architecture == expected
    whole = fat((ARM64, bytes(content)), (X86_64, MachO(cpu=X86_64).dump()))
    assert [found.architecture for found in read(whole).slices] == [expected, "amd64"]


def test_real_wheels_are_signed_as_they_should_be(mac_tree: Path) -> None:
    places = real_libraries(mac_tree)
    assert len(places) >= 3
    kinds = set()
    for place in places:
        binary = read_binary(place, place.read_bytes()[:64])
        assert binary is not None
        assert not binary.problem
        for found in binary.slices:
            kinds.add((found.architecture, found.signature, len(binary.slices)))
            assert found.needed[-1].startswith("/usr/lib/lib")
            assert found.floor
    assert ("arm64", "valid", 1) in kinds
    assert ("arm64", "valid", 2) in kinds, "a fat one"


def test_one_flipped_byte_of_a_real_library(mac_tree: Path) -> None:
    place = next(place for place in real_libraries(mac_tree) if "safetensors" in place.name)
    content = bytearray(place.read_bytes())
    end = content.index(bytes.fromhex("fade0cc0"))
    rng = random.Random(1)  # the same bytes in every run
    for at in [40, 4095, 4096, end - 1, *(rng.randrange(4000, end) for _ in range(6))]:
        content[at] ^= 1
        found = read(bytes(content))
        assert found.problem or "differs from what was signed" in found.slices[0].signature, hex(at)
        content[at] ^= 1
    assert signature(bytes(content)) == "valid"


@pytest.mark.parametrize("kinds", [(1,), (2,), (3,), (4,), (1, 2), (2, 4)])
@pytest.mark.parametrize("bits", [12, 14, 0])
def test_every_kind_of_digest_and_page(kinds: tuple[int, ...], bits: int) -> None:
    content = bytearray(MachO(signed=kinds, page_bits=bits, content=bytes(9000)).dump())
    assert signature(bytes(content)) == "valid"
    for at in (600, 8999):  # in the first page, and in the last, which is not full
        content[at] ^= 0x80
        assert f"the page at {0 if bits == 0 or at < 4096 or bits == 14 else 0x2000:#x} differs" in signature(
            bytes(content)
        )
        content[at] ^= 0x80


def test_a_large_page_is_read_in_pieces() -> None:
    content = bytearray(MachO(page_bits=0, content=bytes(3 << 20)).dump())
    assert signature(bytes(content)) == "valid"
    content[2 << 20] = 1
    assert "differs" in signature(bytes(content))


def test_an_alternate_code_directory_counts_too() -> None:
    content = bytearray(MachO(signed=(2, 4)).dump())
    content[-1] ^= 1  # the last digest of the second
    assert "differs" in signature(bytes(content))


def test_files_without_a_signature() -> None:
    assert signature(MachO(signed=()).dump()) == "unsigned"
    assert signature(MachO(signed=(), kind=OBJECT).dump()) == ""


def edit_directory(at: int, value: bytes) -> bytes:
    content = bytearray(MachO(kind=BUNDLE).dump())
    start = content.index(bytes.fromhex("fade0c02"))
    content[start + at : start + at + len(value)] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (0, bytes(4), "malformed"),
        (4, b"\xff\xff\xff\xff", "malformed"),
        (16, b"\xff\xff\xff\x00", "malformed"),
        (28, (1).to_bytes(4, "big"), "digests for 1 pages"),
        (28, b"\xff\xff\xff\xff", "digests for 4294967295 pages"),
        (32, (4096).to_bytes(4, "big"), "covers 4096 bytes"),
        (32, b"\xff\xff\xff\xff", "covers 4294967295 bytes"),
        (37, b"\x09", "unknown kind 9"),
        (36, b"\x10", "unknown kind 2"),
        (39, b"\x3f", "malformed"),
        (44, b"\x00\x00\x00\x01", "scattered"),
    ],
)
def test_code_directories_that_lie(at: int, value: bytes, problem: str) -> None:
    assert problem in signature(edit_directory(at, value))


def test_a_signature_without_a_code_directory() -> None:
    content = bytearray(MachO().dump())
    start = content.index(bytes.fromhex("fade0cc0"))
    content[start + 8 : start + 12] = bytes(4)
    assert signature(bytes(content)) == "it has no code directory"
    content[start] = 0
    assert signature(bytes(content)) == "it is malformed"


@pytest.mark.parametrize("wide", [False, True])
def test_fat_files(wide: bool) -> None:
    archive = b"!<arch>\n" + bytes(100)
    content = fat((X86_64, MachO(cpu=X86_64, signed=()).dump()), (ARM64, MachO().dump()), (ARM64, archive), wide=wide)
    found = read(content)
    assert [(item.architecture, item.kind, item.signature) for item in found.slices] == [
        ("amd64", "library", "unsigned"), ("arm64", "library", "valid"), ("arm64", "object", ""),
    ]  # fmt: skip
    assert "truncated" in read(content[:5000]).problem
    assert (
        "no Mach-O" in read(content[:4096] + b"\0" * 50000).problem
        or "not a Mach-O" in read(content[:4096] + b"\0" * 50000).problem
    )


def test_java_classes_and_short_files_are_something_else(tmp_path: Path) -> None:
    assert not is_macho(bytes.fromhex("cafebabe00000034"))
    assert not is_macho(bytes.fromhex("cafebabe"))
    assert not is_macho(bytes.fromhex("cafebabe00000000"))
    (tmp_path / "A.class").write_bytes(bytes.fromhex("cafebabe00000041") + bytes(100))
    assert read_binary(tmp_path / "A.class", (tmp_path / "A.class").read_bytes()) is None


@pytest.mark.parametrize(
    ("magic", "name"),
    [("cefaedfe", "i386 (32-bit)"), ("feedface", "i386 (32-bit big-endian)"), ("feedfacf", "i386 (64-bit big-endian)")],
)
def test_old_kinds_have_an_architecture_only(magic: str, name: str) -> None:
    order = "little" if magic.startswith("ce") else "big"
    content = bytes.fromhex(magic) + (7).to_bytes(4, order) + bytes(100)
    (found,) = read(content).slices
    assert (found.architecture, found.needed) == (name, ())


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (20, 1 << 30),  # sizeofcmds
        (16, 1 << 30),  # ncmds
        (36, 4),  # length of the first command
        (36, 1 << 31),
        (40, 4000),  # offset of its text
        (40, 4),
    ],
)
def test_load_commands_that_lie(at: int, value: int) -> None:
    content = bytearray(MachO().dump())
    content[at : at + 4] = struct.pack("<I", value)
    assert read(bytes(content)).problem


@pytest.mark.parametrize("length", [4, 8, 31, 40, 200, -1])
def test_files_that_are_cut_off(length: int) -> None:
    assert read(MachO().dump()[:length]).problem


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damage_anywhere_is_a_problem_or_a_broken_signature(data: st.DataObject) -> None:
    made = fat((ARM64, MachO(name="@rpath/x").dump())) if data.draw(st.booleans()) else MachO(rpaths=("x",)).dump()
    content = bytearray(made)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(4, 400), st.integers(4096, 4500), st.integers(4, len(content) - 4)))
        content[at : at + 4] = data.draw(st.one_of(st.binary(min_size=1, max_size=4), st.just(b"\xff" * 4)))
    cut = bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(4, len(content))))])
    found = read_macho_binary(Window.of(cut))
    assert bool(found.problem) != bool(found.slices)


@given(st.binary(max_size=2048))
@settings(max_examples=200, deadline=None)
def test_noise_behind_any_magic(noise: bytes) -> None:
    for magic in ("cffaedfe", "cefaedfe", "feedfacf", "cafebabe", "cafebabf"):
        try:
            read_macho(Window.of(bytes.fromhex(magic) + noise))
        except ValueError as error:
            assert str(error)
