"""Find the licence texts of libraries that come from the machine's own packages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_SECONDS = 30


def package_licences(libraries: Iterable[Path]) -> dict[Path, tuple[str, bytes]]:
    """Return, for each library whose Debian package is known, the package's name and its copyright text.

    Nothing for the others: the caller says so, since a licence is missing then.
    """
    program = shutil.which("dpkg-query")
    if program is None:
        return {}
    # dpkg knows a file under the name it was packed with: on merged-/usr systems that may be /lib or /usr/lib
    names = {name: place for place in libraries for name in _spellings(place)}
    command = [program, "--search", *sorted(names)]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[Path, tuple[str, bytes]] = {}
    for line in listed.splitlines():
        owner, separator, name = line.partition(": ")
        package = owner.split(",")[0].partition(":")[0]
        text = Path("/usr/share/doc", package, "copyright")
        if separator and name in names and text.is_file():
            found[names[name]] = (package, text.read_bytes())
    return found


def _spellings(place: Path) -> tuple[str, ...]:
    text = str(place)
    return (text, text.removeprefix("/usr")) if text.startswith("/usr/lib") else (text, f"/usr{text}")
