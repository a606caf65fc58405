"""Write the bill of materials: CycloneDX 1.6, JSON, the same bytes for the same bundle.

Source: ECMA-424 / CycloneDX 1.6 JSON schema. How this document uses it:

- ``metadata.component`` is the bundle and owns what this project put into it. ``components`` are the distributions, the
  interpreter, the libraries grafted into it, and what native steps wrote; libraries vendored in a wheel are nested in
  their distribution.
- Every file and link stands once, as ``evidence.occurrences[].location`` of its owner, relative to the property
  ``mr-backends:root``. Components of type ``file`` would say the same in three times the bytes, and drown the real ones
  in every tool that lists components. The sha256 of each file is in the bundle's file manifest, whose digest is the
  property ``mr-backends:files-digest``; ``mr-backends:files`` is the number of occurrences there must be.
- Licences are SPDX expressions; one that is not known exactly stands by the name its distribution gives it.

It is written by hand: the models of cyclonedx-python-lib would be one more dependency of the bundler, for a document of
a dozen fields. Its schemas judge these bytes in the tests.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mr_bundler.papers.component import Component, Kind, package_address, purl
from mr_bundler.papers.libraries import ComponentTree
from mr_bundler.papers.requirements import RequirementGraph
from mr_core.bundle_config import IMAGE_ROOT, BundleConfig
from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.errors import BuildError
from mr_core.file_manifest import BUNDLE_PATH, FILES_PATH, FileEntry

_OWN = (BUNDLE_PATH, FILES_PATH)
"""Files of every bundle that its file manifest cannot list."""
_NAMESPACE = uuid.UUID("5b4f8c36-9f0a-5d0e-8a52-0d3b8f7c2f61")
"""Of serial numbers; it has no meaning, and only has to stay as it is."""
_TYPES: Mapping[Kind, str] = {
    "distribution": "library",
    "interpreter": "platform",
    "library": "library",
    "bundle": "application",
    "prebuild": "library",
}


def write_sbom(
    config: BundleConfig,
    subject: Digest,
    parts: Sequence[ComponentTree],
    graph: RequirementGraph,
    *,
    created: str,
    builder: str,
) -> bytes:
    """Return the document; the licences are those the components have by now.

    Args:
        config: Of the bundle.
        subject: Digest of the bundle's manifest.
        parts: All components; those of kind ``bundle`` become the bundle itself.
        graph: Which distribution needs which.
        created: When the image counts as created.
        builder: Name and version of this tool.

    Raises:
        BuildError: when the components do not own as many files as the bundle has, each once.
    """
    own = [part.component for part in parts if part.component.kind == "bundle"]
    root = _bundle(config, subject, own)
    components = [item for part in parts if part.component.kind != "bundle" for item in _components(part, graph)]
    components.sort(key=lambda item: str(item["bom-ref"]))
    _check_files([root, *components], config.contents.count + len(_OWN))
    tool, _, version = builder.partition(" ")
    return dump_json(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, str(subject))}",
            "version": 1,
            "metadata": {
                "timestamp": created,
                "lifecycles": [{"phase": "build"}],
                "tools": {"components": [_present({"type": "application", "name": tool, "version": version})]},
                "component": root,
            },
            "components": components,
            "dependencies": _dependencies(parts, graph),
        }
    )


def _bundle(config: BundleConfig, subject: Digest, own: Sequence[Component]) -> dict[str, Any]:
    paths = [entry.path for component in own for entry in component.entries if entry.path not in _OWN]
    properties = [
        ("target", str(config.target)),
        ("manifest", str(subject)),
        ("root", f"/{IMAGE_ROOT}"),
        ("files", str(config.contents.count + len(_OWN))),
        ("files-digest", str(config.contents.digest)),
        ("python", f"{config.python_version} ({config.python_source})"),
    ]
    return _present(
        {
            "type": "application",
            "bom-ref": "bundle",
            "name": config.backend,
            "version": config.version,
            "description": config.summary,
            "purl": purl("oci", config.backend, str(subject)),
            "hashes": _hashes(subject.hex if subject.algorithm == "sha256" else ""),
            "licenses": _licences(config.license),
            "externalReferences": [{"type": "website", "url": config.homepage}] if config.homepage else [],
            "evidence": _evidence([*paths, *_OWN]),
            "properties": _properties(properties),
        }
    )


def _components(part: ComponentTree, graph: RequirementGraph) -> Iterator[dict[str, Any]]:
    """Yield a component; what is grafted into an interpreter stands beside it, what a wheel vendors inside of it."""
    reference = _reference(part.component)
    libraries = [_component(library, _reference(library, inside=part.component)) for library in part.libraries]
    main = _component(part.component, reference, absent=graph.absent.get(part.component.name, ()))
    if part.component.kind == "distribution":
        if libraries:
            main["components"] = libraries
        yield main
    else:
        yield main
        yield from libraries


def _component(component: Component, reference: str, *, absent: Sequence[str] = ()) -> dict[str, Any]:
    metadata = component.metadata
    address = package_address(component)
    entries = component.entries
    sha256 = component.sha256
    if component.kind == "library" and len(entries) == 1 and isinstance(entries[0], FileEntry):
        sha256 = entries[0].sha256
    properties = [("kind", component.kind), ("wheel" if metadata else "archive", component.file)]
    if metadata is not None:
        properties += [("licence-source", metadata.licence_source), ("stated-licence", metadata.stated)]
        properties += [("absent-requirement", name) for name in absent]
    links = metadata.links if metadata is not None else ()
    return _present(
        {
            "type": _TYPES[component.kind],
            "bom-ref": reference,
            "name": component.name,
            "version": component.version,
            "description": metadata.summary if metadata is not None else "",
            "authors": [{"name": metadata.author}] if metadata is not None and metadata.author else [],
            "purl": address,
            "cpe": _cpe(component),
            "hashes": _hashes(sha256),
            "licenses": _licences(component.licence, metadata.stated if metadata is not None else ""),
            "externalReferences": [{"type": kind, "url": address} for kind, address in links],
            "evidence": _evidence([entry.path for entry in entries]),
            "properties": _properties(properties),
        }
    )


def _reference(component: Component, *, inside: Component | None = None) -> str:
    """Return a component's name within the document; libraries of one name may be vendored in several wheels."""
    if inside is not None and inside.kind == "distribution":
        return f"library:{inside.name}/{component.name}"
    return package_address(component) or f"{component.kind}:{component.name}"


def _cpe(component: Component) -> str:
    """Return the name under which vulnerability databases know CPython; others are found by their purl."""
    if component.kind != "interpreter" or not component.version:
        return ""
    return f"cpe:2.3:a:python:python:{component.version}:*:*:*:*:*:*:*"


def _licences(expression: str, stated: str = "") -> list[dict[str, Any]]:
    if expression:
        return [{"expression": expression, "acknowledgement": "declared"}]
    return [{"license": {"name": stated, "acknowledgement": "declared"}}] if stated else []


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}] if sha256 else []


def _evidence(paths: Iterable[str]) -> dict[str, Any]:
    found = [{"location": path} for path in sorted(paths, key=str.encode)]
    return {"occurrences": found} if found else {}


def _properties(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": f"mr-backends:{name}", "value": value} for name, value in pairs if value]


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


def _dependencies(parts: Sequence[ComponentTree], graph: RequirementGraph) -> list[dict[str, Any]]:
    references = {part.component.name: _reference(part.component) for part in parts if _is_distribution(part)}
    others = [part for part in parts if not _is_distribution(part) and part.component.kind != "bundle"]
    needs: dict[str, set[str]] = {"bundle": {references[name] for name in graph.roots}}
    needs["bundle"] |= {_reference(part.component) for part in others}
    for part in parts:
        if part.component.kind == "bundle":
            continue
        libraries = {_reference(library, inside=part.component) for library in part.libraries}
        wanted = graph.needs.get(part.component.name, ()) if _is_distribution(part) else ()
        needs[_reference(part.component)] = libraries | {references[name] for name in wanted}
        needs |= {library: set() for library in libraries}
    return [{"ref": reference, "dependsOn": sorted(needs[reference])} for reference in sorted(needs)]


def _is_distribution(part: ComponentTree) -> bool:
    return part.component.kind == "distribution"


def _check_files(components: Sequence[dict[str, Any]], expected: int) -> None:
    paths: list[str] = []
    for component in (*components, *(inner for outer in components for inner in outer.get("components", []))):
        paths += [item["location"] for item in component.get("evidence", {}).get("occurrences", [])]
    if len(set(paths)) != len(paths) or len(paths) != expected:
        raise BuildError(
            f"Cannot write the SBOM: components own {len(paths)} files, {len(set(paths))} of them different,"
            f" and the bundle has {expected}",
            hint="this is a bug of the bundler: please report it",
        )
