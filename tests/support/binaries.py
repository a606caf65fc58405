"""Real ELF libraries of this machine's Python, edited as a careless build would leave them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from mr_bundler.binaries.elf import strip_elf
from support.need import need


def edited(source: Path, place: Path, *arguments: str) -> Path:
    """Copy a library without its debug information, which may name anything, and edit it with patchelf."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(strip_elf(source.read_bytes()))
    subprocess.run([need("patchelf"), *arguments, str(place)], check=True, capture_output=True)
    return place


def asks_for_glibc(places: list[Path]) -> Path:
    """Return a library with symbol versions of glibc; some small ones have none."""
    return next(place for place in places if b"\0GLIBC_2." in place.read_bytes())


def with_newer_glibc(source: Path, version: str = "2.99") -> bytes:
    """Return a library that asks for a glibc that does not exist yet, with version and hash as a linker writes them."""
    content = bytearray(source.read_bytes())
    old = max(set(re.findall(rb"GLIBC_2\.[0-9.]+", content)), key=len)
    new = f"GLIBC_{version}".encode()
    assert len(new) <= len(old)
    at = content.index(old + b"\0")
    content[at : at + len(old)] = new.ljust(len(old), b"\0")
    hashes = [_hash(name).to_bytes(4, "little") for name in (old, new)]
    assert hashes[0] in content
    return bytes(content.replace(*hashes))


def _hash(name: bytes) -> int:
    """Return the hash of the System V gABI."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value & 0xFFFFFFFF
