"""Numbers as people read them: decimal units, as disks and registries use them."""

from __future__ import annotations

_STEPS = ("B", "kB", "MB", "GB", "TB")


def show_bytes(count: int) -> str:
    """Return ``count`` bytes with three digits or so: ``87.4 MB``."""
    value = float(count)
    for step in _STEPS[:-1]:
        if value < 999.5:
            return f"{value:.0f} {step}" if step == "B" or value >= 99.5 else f"{value:.1f} {step}"
        value /= 1000
    return f"{value:.1f} {_STEPS[-1]}"


def show_seconds(seconds: float) -> str:
    """Return a duration: ``0.42 s``, ``12.3 s``, ``3 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
