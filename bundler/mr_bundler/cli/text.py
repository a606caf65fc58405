"""What outcomes look like to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mr_bundler.listing import ListedBundle
from mr_bundler.push import PushResult
from mr_bundler.result import BuildResult
from mr_core.cli.units import show_bytes, show_seconds
from mr_core.location import LayoutLocation, Location

_SLOWEST = 5


def show_changes(rows: list[dict[str, Any]]) -> str:
    """Return what locking changed, one line for each distribution."""
    lines = []
    for row in rows:
        written = "written" if row["written"] else "unchanged"
        lines.append(f"{row['target']}: {row['packages']} distributions, {written} ({row['path']})")
        for sign, key in (("+", "added"), ("-", "removed"), ("~", "changed")):
            lines += [f"  {sign} {text}" for text in row[key]]
    return "\n".join(lines)


def show_build(result: BuildResult, layout: Path) -> str:
    """Return what a build made, its sizes and its slowest steps."""
    cached = sum(layer.cached for layer in result.layers)
    lines = [
        f"{result.ref_name} for {result.target}" + (" is up to date" if result.skipped else ""),
        f"  digest     {result.digest}",
        f"  layout     oci:{layout}:{result.ref_name}",
        f"  installed  {show_bytes(result.installed_bytes)} in {result.file_count} files",
        f"  compressed {show_bytes(result.compressed_bytes)} in {len(result.layers)} layers ({cached} from the cache)",
    ]
    steps = sorted(result.steps, key=lambda step: -step.seconds)[:_SLOWEST]
    if steps and not result.skipped:
        shown = ", ".join(f"{step.name} {show_seconds(step.seconds)}" for step in steps)
        lines.append(f"  slowest    {shown}")
    return "\n".join(lines)


def show_push(result: PushResult, destination: Location) -> str:
    """Return what a push sent, under the full name it has now."""
    match destination:
        case LayoutLocation(path=path, name=""):
            destination = LayoutLocation(path, result.name)
        case _:
            pass
    sent = f"{result.blobs_pushed} blobs sent ({show_bytes(result.bytes_pushed)})"
    kept = f"{result.blobs_skipped} were there already ({show_bytes(result.bytes_skipped)})"
    return f"{destination}\n  digest {result.digest}\n  {sent}, {kept}"


def show_entries(entries: list[ListedBundle]) -> str:
    """Return a table of bundles."""
    if not entries:
        return "no bundle is there"
    lines = [f"{'NAME':<24} {'TARGET':<20} {'LAYERS':>6} {'COMPRESSED':>11} {'INSTALLED':>11}  DIGEST"]
    lines += [
        f"{entry.name:<24} {entry.target:<20} {entry.layers:>6} {show_bytes(entry.compressed_bytes):>11}"
        f" {show_bytes(entry.installed_bytes):>11}  {entry.digest[:19]}"
        for entry in entries
    ]
    return "\n".join(lines)
