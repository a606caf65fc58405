"""Whether every file of a bundle has exactly one owner: said of components before a build ends, read from an SBOM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mr_bundler.papers.component import Component
from mr_core.decode import parse_json
from mr_core.errors import BuildError, InvalidInputError
from mr_core.file_manifest import UNLISTED, Entry

_MOST_BYTES = 256 << 20
_SHOWN = 5


def check_ownership(components: Iterable[Component], entries: Iterable[Entry]) -> None:
    """Refuse components that do not share out ``entries`` exactly; what no file manifest lists is let pass.

    Raises:
        BuildError: when a file has no owner, two, or is not in the bundle as its owner has it.
    """
    listed = {entry.path: entry for entry in entries}
    owners: dict[str, str] = {}
    problems: list[str] = []
    for component in components:
        label = f"{component.name} ({component.kind})"
        for entry in component.entries:
            if entry.path in owners:
                problems.append(f"`{entry.path}` belongs to {owners[entry.path]} and to {label}")
            owners[entry.path] = label
            if entry.path not in listed and entry.path not in UNLISTED:
                problems.append(f"`{entry.path}` of {label} is not in the bundle")
            elif listed.get(entry.path, entry) != entry:
                problems.append(f"`{entry.path}` is not in the bundle as {label} has it")
    problems += [f"`{path}` belongs to nothing" for path in listed if path not in owners]
    if problems:
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise BuildError(
            f"Cannot say who owns which file: {'; '.join(problems[:_SHOWN])}{more}",
            hint="this is a bug of the bundler: please report it",
            problems=problems,
        )


def read_owners(sbom: bytes) -> Mapping[str, str]:
    """Return the name of the owner of every file, by path, as a bill of materials has it.

    Raises:
        InvalidInputError: when it is not one, or gives a file to two components.
    """
    document = parse_json(sbom, "SBOM", limit=_MOST_BYTES)
    owners: dict[str, str] = {}
    try:
        todo: list[dict[str, Any]] = [document["metadata"]["component"], *document["components"]]
        while todo:
            component = todo.pop()
            todo += component.get("components", [])
            for occurrence in component.get("evidence", {}).get("occurrences", []):
                path = str(occurrence["location"])
                if path in owners:
                    raise InvalidInputError(
                        f"Cannot use SBOM: `{path}` belongs to `{owners[path]}` and to `{component['bom-ref']}`"
                    )
                owners[path] = str(component["bom-ref"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError("Cannot read SBOM: it is not a CycloneDX document of this tool") from error
    return owners
