"""Read what the dynamic loader reads of 64-bit little-endian ELF files, and drop what it does not.

Written after the System V gABI and `elf.h`; the loader's view (program headers and the dynamic section) is used for
facts, the section table only for stripping. Kept in Python so that the result does not depend on the machine's tools.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mr_bundler.binaries.binary import Kind
from mr_bundler.binaries.window import Window
from mr_core.errors import BuildError

MAGIC = b"\x7fELF"
MACHINES = {62: "amd64", 183: "arm64"}
_CLASS64_LITTLE = b"\x02\x01"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_VERNEED = 0x6FFFFFFE
# What the loader maps as well: DT_AUXILIARY, DT_FILTER; DT_DEPAUDIT, DT_AUDIT, which are lists with colons
_DT_FILTERS, _DT_AUDITS = {0x7FFFFFFD, 0x7FFFFFFF}, {0x6FFFFEFB, 0x6FFFFEFC}
_SHT_NOBITS, _SHF_ALLOC = 8, 2
_MOST_ENTRIES = 4096
"""Program headers, dynamic entries, symbol versions: the largest libraries there are have some dozens of each."""
_MOST_RUNPATH = 16 << 10
_GLIBC = re.compile(r"GLIBC_([0-9]+(?:\.[0-9]+)+)")
_LIBSTDCXX = "libstdc++.so.6"
_CXX = re.compile(r"(CXXABI|GLIBCXX)_([0-9]+(?:\.[0-9]+)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """The dynamic facts of one file.

    Attributes:
        machine: Architecture in OCI spelling, or ``machine <number>`` for one this project does not know.
        needed: Names of the libraries the loader must find, filters and audit libraries included.
        soname: The library's own name, or an empty string.
        runpath: Entries of DT_RUNPATH, or of DT_RPATH when there is only that; empty entries included.
        versions: Symbol versions asked of other libraries, such as ``GLIBC_2.34``.
        libstdcxx: Those of them that are asked of a host's ``libstdc++.so.6``.
        kind: ``object`` for what no loader loads.
        loader: The dynamic loader an executable is started with (PT_INTERP), or an empty string.
    """

    machine: str
    needed: tuple[str, ...]
    soname: str
    runpath: tuple[str, ...]
    versions: frozenset[str]
    libstdcxx: frozenset[str] = frozenset()
    kind: Kind = "library"
    loader: str = ""

    @property
    def glibc(self) -> tuple[int, ...]:
        """The lowest glibc that has every symbol version this file asks for; empty when it asks for none."""
        found = [match[1] for version in self.versions if (match := _GLIBC.fullmatch(version))]
        if "GLIBC_ABI_DT_RELR" in self.versions:
            found.append("2.36")  # the first loader that reads packed relocations
        return max((tuple(int(part) for part in text.split(".")) for text in found), default=())

    @property
    def cxx(self) -> tuple[str, ...]:
        """The highest version of each family that this file asks of a host's libstdc++, such as ``GLIBCXX_3.4.29``.

        Families without an order, such as ``CXXABI_FLOAT128``, are left out: they came with a numbered version.
        """
        highest: dict[str, tuple[int, ...]] = {}
        for version in self.libstdcxx:
            if match := _CXX.fullmatch(version):
                number = tuple(int(part) for part in match[2].split("."))
                highest[match[1]] = max(number, highest.get(match[1], ()))
        return tuple(f"{family}_{'.'.join(map(str, highest[family]))}" for family in sorted(highest))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    kind: int
    offset: int
    address: int
    file_size: int


def is_elf(content: bytes) -> bool:
    """Return whether ``content`` begins as an ELF file does."""
    return content[:4] == MAGIC


def read_elf(content: bytes | Window, what: str) -> Elf:
    """Read the dynamic facts of an ELF file; raise `BuildError` naming ``what`` when it is malformed or not 64-bit."""
    try:
        return _read(content if isinstance(content, Window) else Window.of(content))
    except (struct.error, ValueError) as error:
        raise BuildError(f"Cannot read the ELF file `{what}`: {error}", reason=str(error)) from error


def floor_of(floors: Iterator[tuple[int, ...]]) -> str:
    """Return the highest of several glibc floors as text, or an empty string when there is none."""
    return ".".join(str(part) for part in max(floors, default=()))


def strip_elf(content: bytes) -> bytes:
    """Return the file without debug information, static symbols and comments, as ``strip --strip-all`` does.

    Nothing the loader maps moves. A file whose section table is not in the order all linkers write (a tool edited it
    after linking) is returned unchanged.
    """
    try:
        return _strip(content)
    except (struct.error, ValueError, IndexError, OverflowError):
        return content


def _read(window: Window) -> Elf:
    if window.take(0, 6)[4:] != _CLASS64_LITTLE:
        raise ValueError("it is not 64-bit little-endian")
    header = _HEADER.unpack(window.take(0, _HEADER.size))
    segments = list(_segments(window))
    for segment in segments:
        if segment.kind == _PT_LOAD and segment.offset + segment.file_size > window.size:
            raise ValueError(f"it is truncated: a segment ends at {segment.offset + segment.file_size:#x}")
    single: dict[int, int] = {}
    needed_at: list[int] = []
    audits_at: list[int] = []
    for segment in segments:
        if segment.kind == _PT_DYNAMIC:
            for tag, value in _dynamic(window, segment):
                if tag == _DT_NEEDED or tag in _DT_FILTERS:
                    needed_at.append(value)
                elif tag in _DT_AUDITS:
                    audits_at.append(value)
                else:
                    single[tag] = value
    strings = _offset(segments, single[_DT_STRTAB]) if _DT_STRTAB in single else 0
    versions: list[tuple[str, str]] = []
    if _DT_VERNEED in single:
        versions += _versions(window, _offset(segments, single[_DT_VERNEED]), strings)
    audits = [name for at in audits_at for name in window.text(strings + at, _MOST_RUNPATH).split(":") if name]
    runpath_at = single.get(_DT_RUNPATH, single.get(_DT_RPATH))
    return Elf(
        machine=MACHINES.get(header[2], f"machine {header[2]}"),
        kind=_kind(header[1], segments),
        loader=next((window.text(segment.offset) for segment in segments if segment.kind == _PT_INTERP), ""),
        needed=(*(window.text(strings + at) for at in needed_at), *audits),
        soname=window.text(strings + single[_DT_SONAME]) if _DT_SONAME in single else "",
        runpath=() if runpath_at is None else tuple(window.text(strings + runpath_at, _MOST_RUNPATH).split(":")),
        versions=frozenset(version for _, version in versions),
        libstdcxx=frozenset(version for library, version in versions if library == _LIBSTDCXX),
    )


def _kind(number: int, segments: list[_Segment]) -> Kind:
    match number:
        case 2:  # ET_EXEC
            return "executable"
        case 3:  # ET_DYN: a library, or a position-independent executable, which names its loader
            return "executable" if any(segment.kind == _PT_INTERP for segment in segments) else "library"
        case _:
            return "object"


def _segments(window: Window) -> Iterator[_Segment]:
    header = _HEADER.unpack(window.take(0, _HEADER.size))
    start, entry_size, count = header[5], header[9], header[10]
    if count > _MOST_ENTRIES or (count and entry_size < _SEGMENT.size):
        raise ValueError(f"its {count} program headers of {entry_size} bytes make no sense")
    table = window.take(start, count * entry_size)
    for number in range(count):
        kind, _, offset, address, _, file_size, _, _ = _SEGMENT.unpack_from(table, number * entry_size)
        yield _Segment(kind=kind, offset=offset, address=address, file_size=file_size)


def _dynamic(window: Window, segment: _Segment) -> Iterator[tuple[int, int]]:
    size = min(segment.file_size, _MOST_ENTRIES * _DYNAMIC.size) // _DYNAMIC.size * _DYNAMIC.size
    for tag, value in _DYNAMIC.iter_unpack(window.take(segment.offset, size)):
        if tag == 0:
            return
        yield tag, value
    if size < segment.file_size - _DYNAMIC.size:
        raise ValueError(f"its dynamic section has more than {_MOST_ENTRIES} entries")


def _offset(segments: list[_Segment], address: int) -> int:
    for segment in segments:
        if segment.kind == _PT_LOAD and segment.address <= address < segment.address + segment.file_size:
            return address - segment.address + segment.offset
    raise ValueError(f"address {address:#x} lies in no segment")


def _versions(window: Window, start: int, strings: int) -> Iterator[tuple[str, str]]:
    """Yield libraries and versions as glibc finds them: along the links, whatever DT_VERNEEDNUM says."""
    left = _MOST_ENTRIES
    while True:
        _, _, file, first, following = _VERNEED.unpack(window.take(start, _VERNEED.size))
        library = window.text(strings + file)
        position, step = start + first, 1
        while step:
            if left == 0:
                raise ValueError(f"it asks for more than {_MOST_ENTRIES} symbol versions")
            left -= 1
            _, _, _, name, step = _VERNAUX.unpack(window.take(position, _VERNAUX.size))
            yield library, window.text(strings + name)
            position += step
        if not following:
            return
        start += following


def _strip(content: bytes) -> bytes:
    header = list(_HEADER.unpack_from(content))
    table, entry_size, count, names_index = header[6], header[11], header[12], header[13]
    if not count:
        return content
    sections = [list(_SECTION.unpack_from(content, table + number * entry_size)) for number in range(count)]
    names_start = sections[names_index][4]
    kept = [section for number, section in enumerate(sections) if number == 0 or section[2] & _SHF_ALLOC]
    if kept != sections[: len(kept)]:
        # symbols and relocations name sections by number, so only a tail may go
        return content
    end = max(
        header[5] + header[9] * header[10],
        *(segment.offset + segment.file_size for segment in _segments(Window.of(content))),
        *(section[4] + section[5] for section in kept if section[1] != _SHT_NOBITS),
    )
    if end > len(content):
        raise ValueError("it is truncated")
    body = bytearray(content[:end])
    for section in sections[len(kept) :]:
        if section[1] != _SHT_NOBITS and section[4] < end:
            stop = min(section[4] + section[5], end)
            body[section[4] : stop] = bytes(stop - section[4])
    names = bytearray(b"\0")
    for section in kept[1:]:
        text = _string(content, names_start + section[0])
        section[0] = len(names)
        names += text.encode("utf-8", "surrogateescape") + b"\0"
    own_name = len(names)
    names += b".shstrtab\0"
    kept.append([own_name, 3, 0, 0, len(body), len(names), 0, 0, 1, 0])
    body += names
    body += bytes(-len(body) % 8)
    header[6], header[11], header[12], header[13] = len(body), _SECTION.size, len(kept), len(kept) - 1
    body[: _HEADER.size] = _HEADER.pack(*header)
    for section in kept:
        body += _SECTION.pack(*section)
    return bytes(body)


def _string(content: bytes, start: int) -> str:
    return content[start : content.index(b"\0", start)].decode("utf-8", "surrogateescape")
