"""Which wheels a target can install: decided from file names alone, so that any machine can lock any target."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from mr_core.bundle_config import HostRequirements
from mr_core.platform import Target

PYTHON = (3, 12)
"""The Python inside bundles."""
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Names that PEP 599, 571 and 513 gave to glibc 2.x before PEP 600."""
_OLDEST_GLIBC = {"amd64": 5, "arm64": 17}
"""The least minor of glibc 2 a manylinux wheel of the architecture can ask for (PEP 513, PEP 599)."""


def version_pair(text: str) -> tuple[int, int]:
    """Return major and minor of ``2.35`` or ``14``; callers hold text that was checked to have that form."""
    major, _, rest = text.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)


@functools.lru_cache(maxsize=32)
def supported_tags(target: Target, requires: HostRequirements) -> tuple[Tag, ...]:
    """Return every wheel tag a host with exactly the least ``requires`` accepts, best first."""
    platforms = tuple(_platforms(target, requires))
    return (
        *cpython_tags(PYTHON, ["cp312"], platforms),
        *compatible_tags(PYTHON, "cp312", platforms),
    )


def _platforms(target: Target, requires: HostRequirements) -> Iterator[str]:
    architecture = target.platform.architecture
    if target.platform.os == "darwin":
        yield from mac_platforms(version_pair(requires.macos), "arm64" if architecture == "arm64" else "x86_64")
        return
    machine = _MACHINES[architecture]
    for minor in range(version_pair(requires.glibc)[1], _OLDEST_GLIBC[architecture] - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_{machine}"
    yield f"linux_{machine}"


@functools.lru_cache(maxsize=32)
def _ranks(target: Target, requires: HostRequirements) -> dict[Tag, int]:
    ranks: dict[Tag, int] = {}
    for rank, tag in enumerate(supported_tags(target, requires)):
        ranks.setdefault(tag, rank)
    return ranks


def wheel_rank(file: str, target: Target, requires: HostRequirements) -> int | None:
    """Return how well the wheel ``file`` fits, 0 best; None when the target cannot install it or it is no wheel."""
    try:
        _, _, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return None
    ranks = _ranks(target, requires)
    return min((ranks[tag] for tag in tags if tag in ranks), default=None)


def best_wheel(files: Iterable[str], target: Target, requires: HostRequirements) -> str | None:
    """Return the file installers prefer: best tag, then highest build number, then name; None when none fits."""
    ranked: list[tuple[int, tuple[int, str], str]] = []
    for file in files:
        rank = wheel_rank(file, target, requires)
        if rank is not None:
            number, text = parse_wheel_filename(file)[2] or (0, "")
            ranked.append((rank, (-number, text), file))
    return min(ranked)[2] if ranked else None
