"""Look up the parts of a small bundle in a layout."""

from __future__ import annotations

from mr_core.layout import LayoutStore
from mr_core.manifest import Descriptor, Index, Manifest, parse_document
from support.bundles import BACKEND, GOOD

NAME = f"{BACKEND}-{GOOD}"


def entry(layout: LayoutStore, name: str = NAME) -> Descriptor:
    """Return the only entry of the index called ``name``."""
    top = layout.resolve(name)
    index = parse_document(layout.read_document(top), top.media_type)
    assert isinstance(index, Index)
    (only,) = index.manifests
    return only


def manifest(layout: LayoutStore, name: str = NAME) -> Manifest:
    """Return the manifest behind it."""
    found = entry(layout, name)
    document = parse_document(layout.read_document(found), found.media_type)
    assert isinstance(document, Manifest)
    return document
