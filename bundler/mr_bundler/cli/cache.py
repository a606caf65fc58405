"""``mr-bundle cache``: what the cache holds, and removing what nobody uses."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import click

from mr_bundler.cache import default_cache
from mr_bundler.cache_usage import KINDS, CacheEntry, KindUsage, prune_cache, read_cache, sum_usage
from mr_core.cli.arguments import PathText
from mr_core.cli.options import output_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.errors import UsageError

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Return seconds for ``30d``, ``12h``, ``45m`` or ``2w``."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if match is None:
        raise click.BadParameter(f"`{text}` is not a time such as 30d, 12h, 45m or 2w")
    return int(match[1]) * _UNITS[match[2]]


@click.command(short_help="Show what the cache holds, or remove what nobody uses.")
@click.argument("action", type=click.Choice(["show", "prune"]), default="show", metavar="[show|prune]")
@click.option(
    "--cache",
    type=PathText(file_okay=False),
    help="Directory.  [default: $MR_CACHE, else ~/.cache/mr-bundle]",
)
@click.option("--older-than", callback=_duration, metavar="TIME", help="Prune what was last used longer ago: 30d, 12h.")
@click.option("--all", "everything", is_flag=True, help="Prune all of it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@output_options
def cache(
    session: Session,
    *,
    action: str,
    cache: Path | None,
    older_than: int | None,
    everything: bool,
    dry_run: bool,
) -> None:
    """Show what the cache of builds holds, by kind, or remove what no build has used for some time.

    Builds touch what they use, and nothing is removed while one runs. All of it can be removed: builds make it again,
    or fetch it.

    \b
      mr-bundle cache
      mr-bundle cache prune --older-than 30d --dry-run
      mr-bundle cache prune --all
    """
    directory = cache or default_cache()
    if action == "show":
        if older_than is not None or everything or dry_run:
            raise UsageError("Cannot show the cache: these options are for pruning", hint="run `mr-bundle cache prune`")
        kinds = sum_usage(read_cache(directory))
        value = {"directory": directory, "bytes": sum(kind.bytes for kind in kinds), "kinds": kinds}
        session.result(value, lambda: show_usage(directory, kinds))
        return
    if everything == (older_than is not None):
        raise UsageError("Cannot prune the cache: name either a time or everything", hint="add `--older-than 30d`")
    before = float("inf") if older_than is None else time.time() - older_than
    removed = prune_cache(directory, before=before, dry_run=dry_run, report=session.report, cancel=session.cancel)
    value = {
        "directory": directory,
        "dry_run": dry_run,
        "bytes": sum(entry.bytes for entry in removed),
        "kinds": sum_usage(removed),
        "removed": [path for entry in removed for path in entry.paths],
    }
    session.result(value, lambda: show_pruned(removed, dry_run=dry_run))


def show_usage(directory: Path, kinds: Sequence[KindUsage]) -> str:
    """Return a line for each kind, with its bytes."""
    lines = [f"{directory} holds {show_bytes(sum(kind.bytes for kind in kinds))}"]
    lines += [f"  {kind.kind:<13}{show_bytes(kind.bytes):>8} in {kind.entries:<5} {KINDS[kind.kind]}" for kind in kinds]
    return "\n".join(lines)


def show_pruned(removed: Sequence[CacheEntry], *, dry_run: bool) -> str:
    """Return what went, by kind."""
    verb = "would be removed" if dry_run else "removed"
    kinds = [kind for kind in sum_usage(removed) if kind.entries]
    lines = [f"{show_bytes(sum(kind.bytes for kind in kinds))} {verb}"]
    lines += [f"  {kind.kind:<13}{show_bytes(kind.bytes):>8} in {kind.entries}" for kind in kinds]
    return "\n".join(lines)
