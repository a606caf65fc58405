"""The ELF reader and stripper agree with binutils, and survive damaged files."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess

import pytest

from mr_bundler.binaries.elf import MAGIC, Elf, is_elf, read_elf, strip_elf
from mr_core.errors import BuildError
from support.need import need


@pytest.fixture(scope="module")
def originals(host):
    places = [host.executable, *sorted((host.prefix / "lib/python3.12/lib-dynload").glob("*.so"))[:12]]
    return [*places, *sorted((host.prefix / "lib").glob("libpython3.12.so.1*"))]


def readelf(*arguments):
    return subprocess.run([need("readelf"), *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def test_it_reads_what_readelf_reads(originals):
    for place in originals:
        read = read_elf(place.read_bytes(), place.name)
        dynamic = readelf("-dW", place)
        assert list(read.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
        assert list(read.runpath) == [p for found in re.findall(r"PATH\).*\[(.*)\]", dynamic) for p in found.split(":")]
        assert [read.soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) or [""])
        assert read.versions == set(re.findall(r"Name: (\S+) +Flags", readelf("-VW", place)))


def test_stripping_keeps_all_the_loader_sees(originals, tmp_path):
    saved = 0
    for place in originals:
        content = place.read_bytes()
        stripped = strip_elf(content)
        assert strip_elf(stripped) == stripped
        saved += len(content) - len(stripped)
        (tmp_path / "stripped").write_bytes(stripped)
        for option in ("-lW", "-dW", "-rW", "-VW", "--dyn-syms"):
            before, after = readelf(option, place), readelf(option, tmp_path / "stripped")
            if option == "-lW":
                before, after = (re.sub(r"\n +Section to Segment.*", "", t, flags=re.DOTALL) for t in (before, after))
            assert after == before
        assert ".debug" not in readelf("-SW", tmp_path / "stripped")
    assert saved > 0


def test_a_damaged_file_is_an_error_of_ours_or_still_readable(originals):
    content = originals[1].read_bytes()
    rng = random.Random(1)  # the same damage in every run
    for _ in range(300):
        damaged = bytearray(content[: rng.randrange(4, len(content))])
        for _ in range(rng.randrange(1, 8)):
            damaged[rng.randrange(4, min(len(damaged), 4096))] = rng.randrange(256)
        with contextlib.suppress(BuildError):
            assert isinstance(read_elf(bytes(damaged), "damaged"), Elf)
        assert isinstance(strip_elf(bytes(damaged)), bytes)


def test_only_64_bit_little_endian_files_are_read():
    assert is_elf(MAGIC)
    assert not is_elf(b"#!/bin/sh")
    with pytest.raises(BuildError, match="64-bit"):
        read_elf(MAGIC + b"\x01\x01" + bytes(100), "old")


def test_a_glibc_floor_is_the_highest_version():
    def floor(*versions):
        return Elf(machine="amd64", needed=(), soname="", runpath=(), versions=frozenset(versions)).glibc

    assert floor("GLIBC_2.9", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBCXX_3.4.30") == (2, 34)
    assert floor("GLIBC_2.2.5", "GLIBC_ABI_DT_RELR") == (2, 36)
    assert floor() == ()
