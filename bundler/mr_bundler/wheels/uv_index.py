"""Where the address of a named index is: in uv's own configuration, never in a recipe or a lock."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mr_core.errors import InvalidInputError

_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(\S+)")


def find_index(name: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the entry of the index ``name`` as uv writes one in ``[[index]]``, to be used for pins alone.

    Looked for where uv looks: ``UV_INDEX`` and ``UV_DEFAULT_INDEX`` (``name=address``), then the ``uv.toml`` of
    ``UV_CONFIG_FILE``, or of the user and the machine.

    Raises:
        InvalidInputError: no index of that name is configured.
    """
    for entry in (*_from_variables(environ), *_from_files(environ)):
        if entry.get("name") == name and isinstance(entry.get("url"), str):
            kept = {key: value for key, value in entry.items() if key != "default"}
            return {**kept, "explicit": True}
    raise InvalidInputError(
        f"Cannot find the index `{name}`, to which the recipe pins distributions: uv's configuration does not name it",
        hint=f'set `UV_INDEX="{name}=ADDRESS"`, or add `[[index]]` with that `name` and its `url` to your uv.toml',
        index=name,
    )


def without_indexes(names: Collection[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that keep uv from asking the named indexes for anything but what is pinned to them."""
    if not names or "UV_INDEX" not in environ:
        return {}
    kept = [word for word in environ["UV_INDEX"].split() if not ((match := _NAMED.match(word)) and match[1] in names)]
    return {"UV_INDEX": " ".join(kept)}


def _from_variables(environ: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for variable in ("UV_INDEX", "UV_DEFAULT_INDEX"):
        for word in environ.get(variable, "").split():
            if match := _NAMED.fullmatch(word):
                yield {"name": match[1], "url": _absolute(match[2], Path.cwd())}


def _from_files(environ: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for path in _configuration(environ):
        try:
            document = tomllib.loads(path.read_text())
        except (OSError, ValueError, RecursionError):  # uv itself will say what is wrong with it
            continue
        entries = document.get("index")
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("url"), str):
                yield {**entry, "url": _absolute(entry["url"], path.parent)}


def _configuration(environ: Mapping[str, str]) -> list[Path]:
    """Return the files uv reads, the most decisive first (uv 0.13: user, then system)."""
    if environ.get("UV_NO_CONFIG", "").lower() in {"1", "true", "yes", "on"}:
        return []
    if named := environ.get("UV_CONFIG_FILE"):
        return [Path(named)]
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config"
    system = [directory for directory in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if directory]
    return [Path(base) / "uv" / "uv.toml" for base in (home, *system, "/etc")]


def _absolute(address: str, base: Path) -> str:
    """Return a path relative to ``base`` as an absolute one; an address as it is."""
    return address if "://" in address else str(base.absolute() / address)
