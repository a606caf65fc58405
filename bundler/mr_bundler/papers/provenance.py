"""Write the provenance: an in-toto Statement v1 with the SLSA provenance predicate v1, the same bytes for equal builds.

Sources: in-toto attestation framework, "Statement" and "ResourceDescriptor" v1; SLSA 1.0, "Provenance". It says what a
bundle was made of, every input with its sha256, and nothing of when and on which machine: that would tell two equal
builds apart. A builder that must vouch for its machine signs this document and adds what it knows.

``buildType`` is a name of this project: ``externalParameters`` are ``backend``, ``target``, ``recipe`` and ``lock``
(``sha256`` of the files that lie in the bundle as ``.mr/recipe.toml`` and ``.mr/lock.toml``), and ``created`` (what
``SOURCE_DATE_EPOCH`` or the recipe's ``exclude-newer`` made it). ``internalParameters`` has ``compiler``, the CPython
that compiled the bytecode: the bundle's own interpreter, or one of the building machine where that cannot run there.
With these two files, the same interpreter and the same compiler, `mr-bundle rebuild` gives the same bytes, unless the
recipe has steps of its own: what these read beside the bundle is not known.
"""

from __future__ import annotations

import re
from typing import Any

from mr_bundler.interpreter import Interpreter
from mr_bundler.lock.lock import Lock, LockedWheel
from mr_bundler.papers.component import purl, wheel_address
from mr_bundler.papers.kinds import PREDICATE_TYPE
from mr_core.bundle_config import BundleConfig
from mr_core.decode import dump_json
from mr_core.digest import Digest

BUILD_TYPE = "urn:mr-backends:build:v1"
BUILDER_ID = "urn:mr-backends:mr-bundle"
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")


def write_provenance(
    config: BundleConfig,
    subject: Digest,
    *,
    recipe: bytes,
    lock: Lock,
    interpreter: Interpreter,
    compiler: str,
    created: str,
    builder: str,
) -> bytes:
    """Return the statement.

    Args:
        config: Of the bundle.
        subject: Digest of the bundle's manifest.
        recipe: The bytes of ``recipe.toml``.
        lock: Of the target.
        interpreter: What the bundle really holds, which need not be what the lock pins.
        compiler: Exact version of the CPython that compiled the bytecode.
        created: When the image counts as created.
        builder: Name and version of this tool.
    """
    recipe_digest = Digest.of(recipe).hex
    lock_digest = Digest.of(lock.dump()).hex
    tool, _, version = builder.partition(" ")
    dependencies = [
        {"name": "recipe.toml", "digest": {"sha256": recipe_digest}, "mediaType": "application/toml"},
        {"name": "lock.toml", "digest": {"sha256": lock_digest}, "mediaType": "application/toml"},
        _interpreter(interpreter, lock),
        *(item for wheel in lock.packages for item in _wheel(wheel)),
    ]
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "backend": config.backend,
            "target": str(config.target),
            "recipe": {"sha256": recipe_digest},
            "lock": {"sha256": lock_digest},
            "created": created,
        },
        "internalParameters": {"compiler": f"cpython {compiler}"},
        "resolvedDependencies": dependencies,
    }
    files = {"name": ".mr/files.jsonl", "digest": {config.contents.digest.algorithm: config.contents.digest.hex}}
    return dump_json(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                {
                    "name": f"{config.backend}-{config.version} {config.target}",
                    "digest": {subject.algorithm: subject.hex},
                }
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": definition,
                "runDetails": {"builder": {"id": BUILDER_ID, "version": {tool: version}}, "byproducts": [files]},
            },
        }
    )


def _interpreter(interpreter: Interpreter, lock: Lock) -> dict[str, Any]:
    """Describe the archive; a relocated Python of a machine has no address, and the digest is that of its tree."""
    if interpreter.source != "host":
        pin = lock.python
        return {
            "name": pin.file,
            "uri": purl("generic", "cpython", pin.version, url=pin.url, sha256=pin.sha256),
            "digest": {"sha256": pin.sha256},
            "downloadLocation": pin.url,
        }
    tree = _SHA256.search(interpreter.identity)
    return {
        "name": f"cpython {interpreter.version} ({interpreter.source})",
        "uri": purl("generic", "cpython", interpreter.version),
        **({"digest": {"sha256": tree[0]}} if tree else {}),
    }


def _wheel(wheel: LockedWheel) -> list[dict[str, Any]]:
    """Describe a wheel, and the commit it was built from when that is so."""
    address = wheel_address(wheel)
    found: dict[str, Any] = {
        "name": wheel.file,
        "uri": purl("pypi", wheel.name, wheel.version, url=address, sha256=wheel.sha256),
        "digest": {"sha256": wheel.sha256},
    }
    if wheel.vcs is None:
        return [{**found, "downloadLocation": address}] if address else [found]
    commit: dict[str, Any] = {"name": f"{wheel.name} (source)", "digest": {"gitCommit": wheel.vcs.commit}}
    if address:
        commit["uri"] = address
    if wheel.vcs.subdirectory:
        commit["annotations"] = {"subdirectory": wheel.vcs.subdirectory}
    return [found, commit]
