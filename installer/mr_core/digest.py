"""Digests of the OCI image specification (``algorithm:hex``), and digesting of bytes, streams and files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from mr_core.errors import InvalidInputError

CHUNK = 1 << 20
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"(sha256|sha512):([0-9a-f]+)")


class Hasher(Protocol):
    """The part of a `hashlib` object this project uses."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Feed bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes fed so far, in lower-case hexadecimal."""


class Readable(Protocol):
    """Anything that hands out bytes: a file, buffered or not."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to ``size`` bytes; nothing at the end."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest that is known to be well formed; ``str()`` gives ``sha256:<64 hex>``."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: object, where: str = "digest") -> Digest:
        """Parse ``sha256:…`` or ``sha512:…``; raise `InvalidInputError` naming ``where`` for anything else."""
        match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
        if match is None or len(match[2]) != _HEX_LENGTH[match[1]]:
            shown = repr(text)[:100]
            raise InvalidInputError(
                f"Cannot read {where}: {shown} is not a digest",
                hint="a digest is `sha256:` and 64 lower-case hexadecimal digits",
            )
        return cls(match[1], match[2])

    @classmethod
    def of(cls, data: bytes | memoryview) -> Digest:
        """Return the sha256 of ``data``."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, source: Readable) -> Digest:
        """Return the sha256 of what is left in ``source``, read in constant memory."""
        hasher = hashlib.sha256()
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
        return cls("sha256", hasher.hexdigest())

    def hasher(self) -> Hasher:
        """Return a fresh hasher of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, for people and for release ids."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
