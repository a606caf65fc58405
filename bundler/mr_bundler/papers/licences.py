"""Write the licence report of a bundle as JSON; `mr_bundler.papers.licence_table` shows it to people.

Format 1: ``distributions``, ``interpreter`` and ``libraries``, each item with ``name``, ``version``, ``licence`` (an
SPDX expression, empty when unknown), ``source`` (where that was found; ``well-known`` when this tool knows it by name),
``stated`` (the distribution's own words where they differ) and ``files`` (licence texts in the bundle, below its root);
``counts`` of distributions by licence; ``unknown``, the names of those without one. A vendored library has the item
``in``: its distribution has to state its licence too.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mr_bundler.papers.component import Component
from mr_bundler.papers.libraries import ComponentTree
from mr_bundler.papers.licence_table import FORMAT, UNKNOWN
from mr_core.bundle_config import BundleConfig
from mr_core.decode import dump_json
from mr_core.digest import Digest

CPYTHON = "Python-2.0.1"
"""CPython since 2.0.1 is under the stack of four licences that SPDX calls so, beginning with that of the PSF."""
_WELL_KNOWN = "well-known"
_LICENCE_NAMES = ("licence", "license", "copying", "copyright", "notice", "unlicense")


def with_licences(components: Iterable[Component], stated: Mapping[str, str]) -> list[Component]:
    """Return the components with their licences filled in.

    What the recipe states (``stated``, SPDX expression by normalised name) wins over what a distribution says: its
    author has looked.
    """
    found = []
    for component in components:
        metadata = component.metadata
        licence = component.licence or (metadata.licence if metadata is not None else "")
        if component.kind == "interpreter":
            licence = licence or CPYTHON
        if component.kind == "distribution" and component.name in stated:
            licence = stated[component.name]
            metadata = replace(metadata, licence_source="recipe") if metadata is not None else None
        found.append(replace(component, licence=licence, metadata=metadata))
    return found


def licences_of(components: Iterable[Component], stated: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the SPDX expression of every distribution by name, empty for one that is unknown."""
    known = with_licences(components, stated or {})
    return {component.name: component.licence for component in known if component.kind == "distribution"}


def write_licences(config: BundleConfig, subject: Digest, parts: Sequence[ComponentTree]) -> bytes:
    """Return the report; the licences are those the components have by now."""
    distributions = sorted(
        (part for part in parts if part.component.kind == "distribution"), key=lambda part: part.component.name
    )
    interpreters = [part for part in parts if part.component.kind == "interpreter"]
    libraries = [_item(library) for part in interpreters for library in part.libraries]
    libraries += [{**_item(library), "in": part.component.name} for part in distributions for library in part.libraries]
    counts = Counter(part.component.licence or UNKNOWN for part in distributions)
    return dump_json(
        {
            "format": FORMAT,
            "backend": config.backend,
            "version": config.version,
            "target": str(config.target),
            "manifest": str(subject),
            "distributions": [_item(part.component) for part in distributions],
            "interpreter": [_item(part.component) for part in interpreters],
            "libraries": libraries,
            "counts": dict(counts),
            "unknown": [part.component.name for part in distributions if not part.component.licence],
        }
    )


def _item(component: Component) -> dict[str, Any]:
    metadata = component.metadata
    return {
        "name": component.name,
        "version": component.version,
        "licence": component.licence,
        "source": metadata.licence_source if metadata is not None else _WELL_KNOWN if component.licence else "",
        "stated": metadata.stated if metadata is not None else "",
        "files": sorted(entry.path for entry in component.entries if _is_licence_file(entry.path)),
    }


def _is_licence_file(path: str) -> bool:
    directory, name = posixpath.split(path)
    if name.endswith((".py", ".pyc", ".so")):
        return False
    if ".dist-info/licenses/" in path or path.startswith("share/licenses/"):
        return True
    return directory.endswith((".dist-info", "/python3.12")) and name.lower().startswith(_LICENCE_NAMES)
