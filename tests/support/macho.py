"""Mach-O files made on the spot: load commands of any kind, and a signature that macOS would accept."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

ARM64, X86_64 = 0x0100000C, 0x01000007
EXECUTE, DYLIB, BUNDLE, OBJECT = 2, 6, 8, 1
PAGE = 4096
_HASHES = {1: ("sha1", 20), 2: ("sha256", 32), 3: ("sha256", 20), 4: ("sha384", 48)}


@dataclass(frozen=True, kw_only=True)
class MachO:
    """A thin 64-bit file; ``signed`` are kinds of digests, one code directory for each."""

    cpu: int = ARM64
    kind: int = DYLIB
    name: str = ""
    needed: tuple[str, ...] = ("/usr/lib/libSystem.B.dylib",)
    weak: tuple[str, ...] = ()
    rpaths: tuple[str, ...] = ()
    minos: str = "14.0"
    platform: int = 1
    content: bytes = bytes(range(256)) * 40
    signed: tuple[int, ...] = (2,)
    page_bits: int = 12

    def dump(self) -> bytes:
        commands = [_text(0x0D, self.name, 24)] if self.name else []
        commands += [_text(0x0C, name, 24) for name in self.needed]
        commands += [_text(0x80000018, name, 24) for name in self.weak]
        commands += [_text(0x8000001C, path, 12) for path in self.rpaths]
        commands.append(struct.pack("<IIIIII", 0x32, 24, self.platform, _version(self.minos), 0, 0))
        size = sum(map(len, commands)) + 72 + (16 if self.signed else 0)
        end = 32 + size + len(self.content)
        end += -end % 16
        signature = bytes(self._signature_size(end))
        commands.append(
            struct.pack("<II16sQQQQIIII", 0x19, 72, b"__LINKEDIT", 0, end, 0, end + len(signature), 1, 1, 0, 0)
        )
        if self.signed:
            commands.append(struct.pack("<IIII", 0x1D, 16, end, len(signature)))
        header = struct.pack("<IIIIIIII", 0xFEEDFACF, self.cpu, 0, self.kind, len(commands), size, 0x85, 0)
        body = (header + b"".join(commands) + self.content).ljust(end, b"\0")
        return body + (self._signature(body) if self.signed else b"")

    def _pages(self, end: int) -> int:
        return -(-end // (1 << self.page_bits)) if self.page_bits else 1

    def _signature_size(self, end: int) -> int:
        if not self.signed:
            return 0
        pages = self._pages(end)
        return 12 + 8 * len(self.signed) + sum(48 + pages * _HASHES[kind][1] for kind in self.signed)

    def _signature(self, body: bytes) -> bytes:
        page = 1 << self.page_bits if self.page_bits else len(body)
        offset, table, blobs = 12 + 8 * len(self.signed), b"", b""
        for number, kind in enumerate(self.signed):
            name, size = _HASHES[kind]
            pages = [body[at : at + page] for at in range(0, len(body), page)]
            digests = b"".join(hashlib.new(name, item).digest()[:size] for item in pages)
            fields = (0xFADE0C02, 48 + len(digests), 0x20100, 2, 48, 0, 0, len(pages), len(body), size, kind, 0)
            table += struct.pack(">II", 0x1000 + number - 1 if number else 0, offset + len(blobs))
            blobs += struct.pack(">IIIIIIIIIBBBBII", *fields, self.page_bits, 0, 0) + digests
        return struct.pack(">III", 0xFADE0CC0, 12 + len(table) + len(blobs), len(self.signed)) + table + blobs


def fat(*slices: tuple[int, bytes], wide: bool = False) -> bytes:
    """Join slices to a fat file."""
    entry = struct.Struct(">IIQQII" if wide else ">IIIII")
    at, table, body = 4096, b"", b""
    for cpu, content in slices:
        fields = (cpu, 0, at + len(body), len(content), 12)
        table += entry.pack(*fields, 0) if wide else entry.pack(*fields)
        body += content + bytes(-len(content) % 4096)
    magic = 0xCAFEBABF if wide else 0xCAFEBABE
    return (struct.pack(">II", magic, len(slices)) + table).ljust(4096, b"\0") + body


def _text(command: int, text: str, offset: int) -> bytes:
    raw = text.encode() + b"\0"
    raw += bytes(-(offset + len(raw)) % 8)
    middle = b"" if offset == 12 else struct.pack("<III", 2, 0x10000, 0x10000)
    return struct.pack("<III", command, offset + len(raw), offset) + middle + raw


def _version(text: str) -> int:
    major, minor, patch = (*map(int, text.split(".")), 0, 0)[:3]
    return major << 16 | minor << 8 | patch
