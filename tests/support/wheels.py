"""Wheels made on the spot: any files, modes and records, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mr_bundler.lock.lock import LockedWheel


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel to write; a file is its content, or content and mode. Paths are those inside the archive."""

    name: str
    version: str = "1.0"
    files: Mapping[str, bytes | str | tuple[bytes, int]] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    """Console scripts: ``module:attribute`` by name."""
    tag: str = "py3-none-any"
    unlisted: tuple[str, ...] = ()
    """Files that RECORD does not name."""
    ghosts: tuple[str, ...] = ()
    """Files that only RECORD names."""
    metadata: str = ""
    """Text of METADATA instead of the shortest one."""

    @property
    def stem(self) -> str:
        return self.name.replace("-", "_")

    @property
    def info(self) -> str:
        return f"{self.stem}-{self.version}.dist-info"

    def write(self, directory: Path) -> LockedWheel:
        """Write the wheel and return its line of a lock."""
        directory.mkdir(parents=True, exist_ok=True)
        members: dict[str, tuple[bytes, int]] = {}
        for path, content in {**self.files, **self._metadata()}.items():
            match content:
                case tuple():
                    members[path] = content
                case str():
                    members[path] = (content.encode(), 0o644)
                case bytes():
                    members[path] = (content, 0o644)
        record = "".join(
            f'"{path}",sha256={_digest(content)},{len(content)}\n'
            for path, (content, _) in members.items()
            if path not in self.unlisted
        )
        record += "".join(f"{path},sha256={_digest(b'')},0\n" for path in self.ghosts)
        members[f"{self.info}/RECORD"] = (f"{record}{self.info}/RECORD,,\n".encode(), 0o644)
        place = directory / f"{self.stem}-{self.version}-{self.tag}.whl"
        with zipfile.ZipFile(place, "w") as archive:
            for path, (content, mode) in members.items():
                entry = zipfile.ZipInfo(path)
                entry.external_attr = (0o100000 | mode) << 16
                archive.writestr(entry, content)
        sha256 = hashlib.sha256(place.read_bytes()).hexdigest()
        return LockedWheel(name=self.name, version=self.version, file=place.name, sha256=sha256)

    def _metadata(self) -> dict[str, str]:
        shortest = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        metadata = {
            f"{self.info}/METADATA": self.metadata or shortest,
            f"{self.info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {self.tag}\n",
        }
        if self.scripts:
            lines = "".join(f"{name} = {reference}\n" for name, reference in self.scripts.items())
            metadata[f"{self.info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
        return metadata


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
