"""What a dynamic loader would learn from a binary of either format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mr_core.decode import Decoder

Kind: TypeAlias = Literal["executable", "library", "object"]
Format: TypeAlias = Literal["elf", "macho"]
VALID = "valid"
"""Signature whose digests match the pages they sign."""
UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A binary for one architecture: a whole ELF file, or one of several in a fat Mach-O file.

    Attributes:
        system: ``linux`` or ``darwin``; another word for what is neither, such as ``ios``.
        architecture: In OCI spelling, or what the file calls it where this project has no word for it.
        kind: ``object`` for what no loader loads: relocatable objects, archives, debug symbols.
        name: The library's own name: DT_SONAME, LC_ID_DYLIB.
        needed: Libraries without which it is not loaded, and the place of its loader for an ELF executable.
        optional: Libraries it can do without (LC_LOAD_WEAK_DYLIB).
        rpaths: Entries of its search path, empty ones included.
        floor: Least glibc or macOS it asks for, such as ``2.34``; empty when it asks for none.
        cxx: Highest versions it asks of a host's ``libstdc++.so.6``, such as ``CXXABI_1.3.13`` and ``GLIBCXX_3.4.29``.
        signature: Empty where there is no such thing, `VALID`, `UNSIGNED`, or what is wrong with it.
    """

    system: str
    architecture: str
    kind: Kind = "library"
    name: str = ""
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    rpaths: tuple[str, ...] = ()
    floor: str = ""
    cxx: tuple[str, ...] = ()
    signature: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without empty ones, that `decode` reads back."""
        value: dict[str, Any] = {"system": self.system, "architecture": self.architecture, "kind": self.kind}
        texts = {"name": self.name, "floor": self.floor, "signature": self.signature}
        names = {"needed": self.needed, "optional": self.optional, "rpaths": self.rpaths, "cxx": self.cxx}
        return value | {key: text for key, text in texts.items() if text} | {k: list(v) for k, v in names.items() if v}

    @classmethod
    def decode(cls, read: Decoder) -> Slice:
        """Read what `to_json` wrote; problems are recorded in ``read``."""
        kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
        kind = kinds.get(read.text("kind"))
        if kind is None:
            read.problem("is not a kind of binary", "kind")
        return cls(
            system=read.text("system"),
            architecture=read.text("architecture"),
            kind=kind or "object",
            name=read.text("name", ""),
            needed=read.texts("needed"),
            optional=read.texts("optional"),
            rpaths=read.texts("rpaths"),
            floor=read.text("floor", ""),
            cxx=read.texts("cxx"),
            signature=read.text("signature", ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """An ELF or Mach-O file; with a ``problem``, it cannot be read as what it says it is, and has no slices."""

    format: Format
    slices: tuple[Slice, ...] = ()
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `decode` reads back."""
        value: dict[str, Any] = {"format": self.format}
        if self.slices:
            value["slices"] = [item.to_json() for item in self.slices]
        return value | ({"problem": self.problem} if self.problem else {})

    @classmethod
    def decode(cls, read: Decoder) -> Binary:
        """Read what `to_json` wrote; problems are recorded in ``read``."""
        formats: dict[str, Format] = {name: name for name in get_args(Format)}
        found = formats.get(read.text("format"))
        if found is None:
            read.problem("is not a format of binaries", "format")
        return cls(
            format=found or "elf",
            slices=tuple(Slice.decode(item) for item in read.tables("slices")),
            problem=read.text("problem", ""),
        )
