"""``mr-bundle diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_never

import click

from mr_bundler.cli.advice import tag_advice
from mr_bundler.cli.outdated import DIFFERENT, show_change
from mr_bundler.cli.recipe_arguments import host_target
from mr_bundler.compare.bundle_facts import read_facts
from mr_bundler.compare.bundles import BundleDifference, BundleFacts, LayerSide, compare_bundles
from mr_bundler.compare.locks import (
    Composition,
    DistributionChange,
    LockDifference,
    compare_compositions,
    compose_config,
    compose_lock,
)
from mr_bundler.lock.lock import Lock, load_lock, lock_path
from mr_bundler.published import read_published
from mr_bundler.recipe.recipe import RECIPE_FILE, load_recipe
from mr_core.cli.arguments import check_location, parse_target
from mr_core.cli.options import output_options, registry_options
from mr_core.cli.session import Session
from mr_core.cli.units import show_bytes
from mr_core.location import parse_location
from mr_core.open_store import open_source
from mr_core.platform import Target
from mr_core.registry_options import RegistryOptions

_LOCK_SUFFIX = ".lock.toml"
_MOST_LINES = 200


def _check_side(ctx: click.Context, parameter: click.Parameter, text: str) -> str:
    """Return a lock file, a recipe or a location that parses."""
    return text if _names_toml(text) or _is_recipe(text) else check_location(ctx, parameter, text)


def _names_toml(text: str) -> bool:
    return text.endswith(".toml") and not text.startswith(("docker:", "oci:", "oci-archive:"))


def _is_recipe(text: str) -> bool:
    try:
        return bool(text) and (Path(text) / RECIPE_FILE).is_file()
    except (OSError, ValueError):
        return False


@click.command(short_help="Show what differs between two locks or bundles.")
@click.argument("old", metavar="A", callback=_check_side)
@click.argument("new", metavar="B", callback=_check_side)
@click.option(
    "--target", metavar="OS/ARCH+ACCELERATOR", callback=parse_target, help="Which lock of a recipe, bundle of an index."
)
@click.option("--check", "only_check", is_flag=True, help="Exit with status 3 if anything differs.")
@registry_options
@output_options
def diff(
    session: Session, old: str, new: str, *, target: Target | None, only_check: bool, registry: RegistryOptions
) -> None:
    """Show what changes from A to B. Each is a lock file, a recipe directory, or the location of a bundle.

    Between two bundles, that includes sizes, licences, what a host must offer, and the bytes a client that has A must
    fetch for B. Of a lock and a bundle, what both say is compared.

    \b
      mr-bundle diff oci:dist/layout:mlx-lm-0.32.1 oci:dist/layout:mlx-lm-0.32.2
      mr-bundle diff recipes/mlx-lm docker://registry.example/bundles/mlx-lm:0.32.2
      mr-bundle diff old/linux-amd64+cpu.lock.toml recipes/mlx-lm/linux-amd64+cpu.lock.toml
    """
    sides = (_read(old, target, registry, session), _read(new, target, registry, session))
    different = _tell(session, (old, new), sides)
    if only_check and different:
        raise click.exceptions.Exit(DIFFERENT)


def _read(text: str, target: Target | None, registry: RegistryOptions, session: Session) -> Lock | BundleFacts:
    if _names_toml(text) and not text.endswith(RECIPE_FILE):
        return load_lock(Path(text))
    if _names_toml(text) or _is_recipe(text):
        recipe = load_recipe(Path(text))
        wanted = recipe.target(target).target if target is not None else host_target(recipe)
        return load_lock(lock_path(recipe, wanted))
    source, name = open_source(parse_location(text), options=registry, cancel=session.cancel)
    try:
        with tag_advice(text):
            return read_facts(source, read_published(source, name, place=text, target=target))
    finally:
        source.close()


def _tell(session: Session, places: tuple[str, str], sides: tuple[Lock | BundleFacts, Lock | BundleFacts]) -> bool:
    """Give the outcome, and return whether anything differs."""
    old, new = sides
    value: dict[str, Any]
    if isinstance(old, BundleFacts) and isinstance(new, BundleFacts):
        found = compare_bundles(old, new)
        different = not found.identical
        value = {**_made_of(found.made_of), **_bundle_value(found)}
        lines = show_bundles(found)
    else:
        made_of = compare_compositions(_compose(old), _compose(new))
        different = not made_of.is_empty
        value = _made_of(made_of)
        lines = show_made_of(made_of)
    text = "\n".join([f"--- {places[0]}", f"+++ {places[1]}", *lines]) if different else "no difference"
    session.result({"old": places[0], "new": places[1], "different": different, **value}, text)
    return different


def _compose(side: Lock | BundleFacts) -> Composition:
    match side:
        case Lock():
            return compose_lock(side)
        case BundleFacts():
            return compose_config(side.bundle.config, side.lock, side.ingredients)
        case _:
            assert_never(side)


def _made_of(found: LockDifference) -> dict[str, Any]:
    return {"fields": found.fields, "distributions": found.distributions, "licences": found.licences}


def _bundle_value(found: BundleDifference) -> dict[str, Any]:
    return {
        "old_digest": found.old_digest,
        "new_digest": found.new_digest,
        "files": found.files,
        "installed_bytes": found.installed,
        "compressed_bytes": found.compressed,
        "layers": {"shared": found.layers.shared, "only_old": found.layers.only_old, "only_new": found.layers.only_new},
        "fetch_bytes": found.layers.fetch_bytes,
        "fetch_share": round(found.layers.fetch_share, 4),
        "unsaid": found.unsaid,
    }


def show_made_of(found: LockDifference) -> list[str]:
    """Return the lines for fields, distributions and licences."""
    lines = [f"  {change.name}: {change.old or '(none)'} -> {change.new or '(none)'}" for change in found.fields]
    if found.distributions:
        lines.append("distributions")
        lines += [f"  {_distribution(change)}" for change in found.distributions]
    if found.licences:
        lines.append("licences")
        lines += [f"  {change.name}: {change.old or '(none)'} -> {change.new or '(none)'}" for change in found.licences]
    return lines


def _distribution(change: DistributionChange) -> str:
    line = show_change(change)
    old, new = change.old_bytes, change.new_bytes
    if old is not None and new is not None:
        return line if old == new else f"{line} ({show_bytes(old)} -> {show_bytes(new)})"
    known = old if change.direction == "removed" else new if change.direction == "added" else None
    return line if known is None else f"{line} ({show_bytes(known)})"


def show_bundles(found: BundleDifference) -> list[str]:
    """Return the lines for two bundles that differ."""
    files, layers = found.files, found.layers
    lines = [
        *show_made_of(found.made_of),
        "sizes",
        f"  installed   {show_bytes(found.installed.old)} -> {show_bytes(found.installed.new)}",
        f"  compressed  {show_bytes(found.compressed.old)} -> {show_bytes(found.compressed.new)}",
        f"  files       {files.added} added, {files.removed} removed, {files.changed} changed, {files.same} the same",
        f"layers: {len(layers.shared)} shared, {len(layers.only_old)} only in A, {len(layers.only_new)} only in B",
        *(f"  - {_layer(layer)}" for layer in layers.only_old[:_MOST_LINES]),
        *(f"  + {_layer(layer)}" for layer in layers.only_new[:_MOST_LINES]),
        (
            f"a client that has A fetches {show_bytes(layers.fetch_bytes)} of {show_bytes(layers.new_bytes)}"
            f" ({layers.fetch_share:.1%}) for B"
        ),
    ]
    return lines + [f"not known: {text}" for text in found.unsaid]


def _layer(layer: LayerSide) -> str:
    return f"{show_bytes(layer.size):>8}  {layer.name}"
