"""What installed distributions say about themselves: ``*.dist-info/RECORD`` and ``METADATA``, read and written.

Format of RECORD: Python packaging specifications, "Recording installed projects": CSV rows of path, digest as
``sha256=<urlsafe base64 without padding>``, and size in bytes.
"""

from __future__ import annotations

import base64
import csv
import io
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name

from mr_bundler.recipe.recipe import SITE_PACKAGES
from mr_core.errors import BuildError
from mr_core.file_manifest import FileEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledDistribution:
    """A distribution in an environment.

    Attributes:
        name: Normalised.
        place: Its ``.dist-info`` directory, relative to the root of the tree.
        files: Recorded digest (``sha256=…``, or empty) by path relative to the root of the tree.
        entry_points: Text of its ``entry_points.txt``, empty without one.
    """

    name: str
    version: str
    place: str
    files: Mapping[str, str]
    entry_points: str = ""

    @property
    def record(self) -> str:
        """Path of its RECORD, relative to the root of the tree."""
        return f"{self.place}/RECORD"


def read_distributions(root: Path) -> tuple[InstalledDistribution, ...]:
    """Return the distributions installed below ``root``, sorted by name.

    Raises:
        BuildError: when one has no readable RECORD or METADATA, or two have the same name.
    """
    found: dict[str, InstalledDistribution] = {}
    for place in sorted((root / SITE_PACKAGES).glob("*.dist-info")):
        distribution = _read(place, f"{SITE_PACKAGES}/{place.name}")
        if distribution.name in found:
            raise BuildError(f"Cannot use the environment: `{distribution.name}` is installed twice")
        found[distribution.name] = distribution
    return tuple(found[name] for name in sorted(found))


def _read(place: Path, relative: str) -> InstalledDistribution:
    try:
        metadata = HeaderParser().parsestr((place / "METADATA").read_text(encoding="utf-8", errors="replace"))
        rows = parse_record((place / "RECORD").read_text(encoding="utf-8"), relative)
        entry_points = place / "entry_points.txt"
        text = entry_points.read_text(encoding="utf-8") if entry_points.is_file() else ""
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BuildError(
            f"Cannot read `{relative}`: {error}", hint="the wheel is damaged; lock another version"
        ) from error
    return InstalledDistribution(
        name=canonicalize_name(metadata.get("Name", "")),
        version=metadata.get("Version", ""),
        place=relative,
        files=rows,
        entry_points=text,
    )


def parse_record(text: str, place: str) -> dict[str, str]:
    """Return digests by path relative to the root of the tree; raise `BuildError` for a path that leaves it."""
    files = read_rows(text, SITE_PACKAGES)
    for path in files:
        if path.startswith(("/", "../")) or path == "..":
            raise BuildError(f"Cannot use `{place}`: its RECORD names `{path}`, outside the environment")
    return files


def read_rows(text: str, directory: str) -> dict[str, str]:
    """Return digests by path for the rows of a RECORD.

    Format: Python packaging specifications, "Recording installed projects".

    Args:
        text: All of it.
        directory: Where its ``.dist-info`` directory lies, relative to the root of the tree. So are the paths
            returned; those that leave the tree begin with ``..`` or ``/``.

    Raises:
        csv.Error: when it is no table.
    """
    files: dict[str, str] = {}
    for row in csv.reader(io.StringIO(text, newline="")):
        if row and row[0]:
            files[posixpath.normpath(posixpath.join(directory, row[0]))] = row[1] if len(row) > 1 else ""
    return files


def record_digest(sha256: str) -> str:
    """Return a hexadecimal sha256 in the form of RECORD."""
    return "sha256=" + base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()


def dump_record(place: str, files: Iterable[FileEntry]) -> bytes:
    """Return the bytes of a RECORD for ``files``, sorted by path, with its own row at the end of them all.

    Bytecode is not listed, as uv does it: whoever removes a ``.py`` removes what was compiled from it.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    rows = [(_from_site(item.path), record_digest(item.sha256), item.size) for item in files]
    rows.sort(key=lambda row: row[0].encode())
    writer.writerows(rows)
    writer.writerow((_from_site(f"{place}/RECORD"), "", ""))
    return out.getvalue().encode()


def _from_site(path: str) -> str:
    """Return ``path`` relative to site-packages, which is where almost every file lies."""
    inside = path.removeprefix(f"{SITE_PACKAGES}/")
    return posixpath.relpath(path, SITE_PACKAGES) if inside == path else inside
