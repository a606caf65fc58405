"""Read what dyld reads of 64-bit Mach-O files, thin and fat, and check their signatures.

Written after Apple's published headers ``mach-o/loader.h`` and ``mach-o/fat.h``. Every number comes from the file, so
each is checked before it is used, and nothing larger than the load commands is read at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from mr_bundler.binaries.binary import UNSIGNED, Kind, Slice
from mr_bundler.binaries.code_signature import check_signature
from mr_bundler.binaries.window import MOST_TEXT_BYTES, Window

THIN_MAGICS = {
    b"\xcf\xfa\xed\xfe": "64-bit",
    b"\xce\xfa\xed\xfe": "32-bit",
    b"\xfe\xed\xfa\xcf": "64-bit big-endian",
    b"\xfe\xed\xfa\xce": "32-bit big-endian",
}
FAT_MAGICS = (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf")
_ARCHIVE = b"!<arch>\n"
_ARCHITECTURES = {0x01000007: "amd64", 0x0100000C: "arm64"}  # CPU_TYPE_X86_64, CPU_TYPE_ARM64
_ARM64E = (0x0100000C, 2)  # CPU_TYPE_ARM64 and CPU_SUBTYPE_ARM64E, with Apple's pointer authentication
_SUBTYPE_BITS = 0x00FFFFFF  # the rest are capabilities (CPU_SUBTYPE_MASK)
_OTHER_CPUS = {7: "i386", 12: "arm", 18: "ppc", 0x01000012: "ppc64", 0x0200000C: "arm64_32"}
# MH_EXECUTE, MH_DYLIB, MH_DYLINKER, MH_BUNDLE; everything else (objects, debug symbols, kernel extensions) is not
# loaded into a process
_KINDS: dict[int, Kind] = {2: "executable", 6: "library", 7: "library", 8: "library"}
# PLATFORM_… of LC_BUILD_VERSION
_PLATFORMS = {
    1: "darwin",
    2: "ios",
    3: "tvos",
    4: "watchos",
    5: "bridgeos",
    6: "maccatalyst",
    7: "ios-simulator",
    8: "tvos-simulator",
    9: "watchos-simulator",
    10: "driverkit",
    11: "visionos",
    12: "visionos-simulator",
}
_HEADER = struct.Struct("<4sIIIIIII")
_FAT_ENTRIES = {FAT_MAGICS[0]: struct.Struct(">IIIII"), FAT_MAGICS[1]: struct.Struct(">IIQQII")}
_COMMAND = struct.Struct("<II")
_LC_SEGMENT_64, _LC_CODE_SIGNATURE, _LC_BUILD_VERSION, _LC_ID_DYLIB, _LC_RPATH = 0x19, 0x1D, 0x32, 0x0D, 0x8000001C
_LC_DYLD_ENVIRONMENT = 0x27
# LC_LOAD_DYLIB, LC_REEXPORT_DYLIB, LC_LOAD_UPWARD_DYLIB; LC_LOAD_WEAK_DYLIB, LC_LAZY_LOAD_DYLIB
_LC_NEEDED, _LC_OPTIONAL = {0x0C, 0x8000001F, 0x80000023}, {0x80000018, 0x20}
_LC_VERSION_MIN = {0x24: "darwin", 0x25: "ios", 0x2F: "tvos", 0x30: "watchos"}
_MOST_COMMAND_BYTES = 1 << 20
_MOST_SLICES = 16


def is_macho(head: bytes) -> bool:
    """Return whether ``head`` begins as a Mach-O file does.

    Java's class files share the magic of fat files; what follows is a number of slices here and a version above 44
    there, as ``file`` tells them apart.
    """
    if head[:4] in FAT_MAGICS:
        return len(head) >= 8 and 0 < int.from_bytes(head[4:8], "big") <= 44
    return head[:4] in THIN_MAGICS


def read_macho(window: Window) -> tuple[Slice, ...]:
    """Return the slices of a Mach-O file; raise `ValueError` when it is malformed."""
    try:
        magic = window.take(0, 4)
        return _read_fat(window, magic) if magic in FAT_MAGICS else (_read_thin(window),)
    except struct.error as error:
        raise ValueError(f"it is truncated ({error})") from error


def _read_fat(window: Window, magic: bytes) -> tuple[Slice, ...]:
    count = int.from_bytes(window.take(4, 4), "big")
    if not 0 < count <= _MOST_SLICES:
        raise ValueError(f"it says that it holds {count} slices")
    entry = _FAT_ENTRIES[magic]
    found = []
    for cpu, subtype, offset, size, *_ in entry.iter_unpack(window.take(8, count * entry.size)):
        part = window.part(offset, size)
        if part.take(0, min(len(_ARCHIVE), size)) == _ARCHIVE:
            found.append(Slice(system="darwin", architecture=_architecture(cpu, subtype), kind="object"))
        elif part.take(0, 4) in THIN_MAGICS:
            found.append(_read_thin(part))
        else:
            raise ValueError(f"the slice at {offset:#x} is not a Mach-O file")
    return tuple(found)


def _architecture(cpu: int, subtype: int = 0) -> str:
    if (cpu, subtype & _SUBTYPE_BITS) == _ARM64E:
        return "arm64e"  # macOS runs it for its own programs only
    return _ARCHITECTURES.get(cpu) or _OTHER_CPUS.get(cpu) or f"cpu {cpu:#x}"


@dataclass(slots=True)
class _Found:
    """What the load commands said so far."""

    floors: dict[str, int] = field(default_factory=dict)  # by system, in the order they were found
    name: str = ""
    needed: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    rpaths: list[str] = field(default_factory=list)
    signature: tuple[int, int] | None = None
    end: int = 0

    @property
    def system(self) -> str:
        """What it is for; a zippered library is for macOS and for Mac Catalyst."""
        return "darwin" if "darwin" in self.floors else next(iter(self.floors), "darwin")

    def asks_for(self, system: str, version: int) -> None:
        """Keep the highest of several versions: which one counts is the loader's to choose."""
        self.floors[system] = max(version, self.floors.get(system, 0))


def _read_thin(window: Window) -> Slice:
    magic = window.take(0, 4)
    if THIN_MAGICS[magic] != "64-bit":
        order = "big" if "big" in THIN_MAGICS[magic] else "little"
        cpu = int.from_bytes(window.take(4, 4), "big" if order == "big" else "little")
        return Slice(system="darwin", architecture=f"{_architecture(cpu)} ({THIN_MAGICS[magic]})")
    _, cpu, subtype, kind_number, count, size, _, _ = _HEADER.unpack(window.take(0, _HEADER.size))
    kind = _KINDS.get(kind_number, "object")
    found = _read_commands(window, count, size)
    signature = ""
    if kind != "object":
        signature = UNSIGNED if found.signature is None else check_signature(window, *found.signature)
    return Slice(
        system=found.system,
        architecture=_architecture(cpu, subtype),
        kind=kind,
        name=found.name,
        needed=tuple(found.needed),
        optional=tuple(found.optional),
        rpaths=tuple(found.rpaths),
        floor=_version(found.floors[found.system]) if found.floors else "",
        signature=signature,
    )


def _read_commands(window: Window, count: int, size: int) -> _Found:
    if size > _MOST_COMMAND_BYTES:
        raise ValueError(f"its load commands have {size} bytes")
    commands = window.take(_HEADER.size, size)
    found = _Found()
    at = 0
    for _ in range(count):
        code, length = _COMMAND.unpack_from(commands, at)
        if length < _COMMAND.size or at + length > size:
            raise ValueError(f"the load command at {_HEADER.size + at:#x} has {length} bytes")
        _read_command(code, commands[at : at + length], found)
        at += length
    if found.end > window.size:
        raise ValueError(f"it is truncated: a segment ends at {found.end:#x}")
    return found


def _read_command(code: int, command: bytes, found: _Found) -> None:
    if code in _LC_NEEDED:
        found.needed.append(_text(command))
    elif code in _LC_OPTIONAL:
        found.optional.append(_text(command))
    elif code == _LC_SEGMENT_64:
        offset, size = struct.unpack_from("<QQ", command, 40)
        found.end = max(found.end, offset + size)
    elif code == _LC_ID_DYLIB:
        found.name = _text(command)
    elif code == _LC_RPATH:
        found.rpaths.append(_text(command))
    elif code == _LC_BUILD_VERSION:
        _, _, platform, least = struct.unpack_from("<IIII", command)
        found.asks_for(_PLATFORMS.get(platform, f"platform {platform}"), least)
    elif code in _LC_VERSION_MIN:
        found.asks_for(_LC_VERSION_MIN[code], struct.unpack_from("<III", command)[2])
    elif code == _LC_DYLD_ENVIRONMENT:  # `DYLD_LIBRARY_PATH=…`: search paths, like LC_RPATH
        found.rpaths += _text(command).partition("=")[2].split(":")
    elif code == _LC_CODE_SIGNATURE:
        if found.signature is not None:
            raise ValueError("it has two signatures")
        _, _, offset, size = struct.unpack_from("<IIII", command)
        found.signature = offset, size


def _text(command: bytes) -> str:
    """Return the text whose offset in the command is its third word (``lc_str``)."""
    (offset,) = struct.unpack_from("<I", command, 8)
    text, end, _ = command[offset:].partition(b"\0")
    if offset < 12 or not text or not end or len(text) > MOST_TEXT_BYTES:
        raise ValueError("the text of a load command is empty, too long, or has no end")
    return text.decode(errors="backslashreplace")


def _version(number: int) -> str:
    """Return ``xxxx.yy.zz`` in nibbles as text, without a last part of zero: ``14.0``, ``10.9``, ``13.3.1``."""
    major, minor, patch = number >> 16, number >> 8 & 0xFF, number & 0xFF
    return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"
