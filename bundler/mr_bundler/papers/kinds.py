"""Which papers there are, and the types that tell them apart in a registry; for those who only look."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

PaperKind: TypeAlias = Literal["sbom", "provenance", "licences"]

MEDIA_SBOM = "application/vnd.cyclonedx+json"
MEDIA_PROVENANCE = "application/vnd.in-toto+json"
MEDIA_LICENCES = "application/vnd.io.mr-backends.licences.v1+json"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
PREDICATE_ANNOTATION = "in-toto.io/predicate-type"
"""Annotation that tells statements of the in-toto type apart."""

PAPER_KINDS: Mapping[PaperKind, str] = MappingProxyType(
    {"sbom": MEDIA_SBOM, "provenance": MEDIA_PROVENANCE, "licences": MEDIA_LICENCES}
)
"""Artifact type, which is the media type of the content too, by kind."""
