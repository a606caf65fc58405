"""What a wheel itself says it requires, to be compared with what a recipe says for it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from email.parser import BytesHeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mr_core.errors import IntegrityError

_MOST_BYTES = 16 << 20


def read_requirements(wheel: Path) -> tuple[str, ...]:
    """Return the ``Requires-Dist`` lines of a wheel, without those of extras, as text that can be compared.

    Raises:
        IntegrityError: the file is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(
                name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            )
            with archive.open(name) as stream:
                headers = BytesHeaderParser().parsebytes(stream.read(_MOST_BYTES))
        return plain_requirements(str(text) for text in headers.get_all("Requires-Dist", []))
    except (OSError, ValueError, StopIteration, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise IntegrityError(
            f"Cannot read wheel `{wheel.name}`: {str(error) or 'it has no METADATA'}", hint="find out what that file is"
        ) from error


def plain_requirements(texts: Iterable[str]) -> tuple[str, ...]:
    """Return requirements in one spelling, sorted; without those that only an extra asks for."""
    found = set()
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            found.add(text)
            continue
        if requirement.marker is None or "extra" not in str(requirement.marker):
            requirement.name = canonicalize_name(requirement.name)
            found.add(str(requirement))
    return tuple(sorted(found))
