"""Recognise binaries by their first bytes, and read them."""

from __future__ import annotations

from pathlib import Path

from mr_bundler.binaries.binary import Binary, Kind, Slice
from mr_bundler.binaries.elf import MACHINES, is_elf, read_elf
from mr_bundler.binaries.macho import is_macho, read_macho
from mr_bundler.binaries.window import Window, open_window
from mr_core.errors import BuildError

HEAD_BYTES = 64
"""So many first bytes decide what a file is."""
# Code for graphics processors and for virtual machines in the kernel also comes as ELF. No loader of a host maps it;
# its own run time reads it as data: EM_NVIDIA CUDA, AMD GPU, Intel GT, BPF, AMD Xilinx AI engine, Qualcomm Hexagon.
_NOT_HOSTS = frozenset({190, 224, 205, 247, 264, 164})
_MACHINE_NAMES = MACHINES | {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    43: "sparc",
    243: "riscv",
    258: "loongarch",
}
_KINDS: dict[int, Kind] = {2: "executable", 3: "library"}


def is_binary(head: bytes) -> bool:
    """Return whether a file with these first bytes is one that `read_binary` reads."""
    return is_elf(head) or is_macho(head)


def read_binary(place: Path | str, head: bytes) -> Binary | None:
    """Read a binary whose first bytes are ``head``; `None` for any other file, and for code of no host.

    A malformed file gives a `Binary` with its problem.

    Raises:
        HostError: when the file cannot be read.
    """
    if is_elf(head):
        if _elf_machine(head) in _NOT_HOSTS:
            return None
        with open_window(place) as window:
            return read_elf_binary(window, head)
    if is_macho(head):
        with open_window(place) as window:
            return read_macho_binary(window)
    return None


def read_elf_binary(window: Window, head: bytes) -> Binary:
    """Return what an ELF file says of itself; only its architecture when it is not 64-bit little-endian."""
    if len(head) >= 20 and head[4:6] != b"\x02\x01":
        bits = {1: "32-bit", 2: "64-bit"}.get(head[4])
        order = {1: "little-endian", 2: "big-endian"}.get(head[5])
        if bits is None or order is None:
            return Binary(format="elf", problem="its header makes no sense")
        machine = _elf_machine(head)
        name = _MACHINE_NAMES.get(machine, f"machine {machine}")
        kind = _KINDS.get(int.from_bytes(head[16:18], "little" if head[5] == 1 else "big"), "object")
        return Binary(
            format="elf", slices=(Slice(system="linux", architecture=f"{name} ({bits}, {order})", kind=kind),)
        )
    try:
        elf = read_elf(window, "")
    except BuildError as error:
        return Binary(format="elf", problem=str(error.fields["reason"]))
    machine = _elf_machine(head)
    found = Slice(
        system="linux",
        architecture=_MACHINE_NAMES.get(machine, elf.machine),
        kind=elf.kind,
        name=elf.soname,
        needed=((elf.loader,) if elf.loader else ()) + elf.needed,
        rpaths=elf.runpath,
        floor=".".join(str(part) for part in elf.glibc),
        cxx=elf.cxx,
    )
    return Binary(format="elf", slices=(found,))


def read_macho_binary(window: Window) -> Binary:
    """Return what a Mach-O file says of itself, with its signature checked."""
    try:
        return Binary(format="macho", slices=read_macho(window))
    except ValueError as error:
        return Binary(format="macho", problem=str(error))


def _elf_machine(head: bytes) -> int:
    return int.from_bytes(head[18:20], "big" if head[5:6] == b"\x02" else "little")
