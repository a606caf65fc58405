"""The model runner's image says that it is no bundle, so nobody takes it for one before a layer is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from mr_bundler.export.model_runner import write_model_runner
from mr_bundler.join import join_index
from mr_bundler.published import read_published
from mr_core.errors import BundleError, InvalidInputError, UnsupportedError
from mr_core.layout import LayoutStore
from mr_installer import Installer
from support.bundles import BACKEND, GOOD, Bundles


def test_it_is_not_taken_for_a_bundle(bundles: Bundles, tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout", create=True)
    image = write_model_runner(LayoutStore(bundles.layout), f"{BACKEND}-{GOOD}", store, "image", scratch=tmp_path)
    bundle, _ = bundles.digests(GOOD)
    refused: list[BundleError] = []
    with pytest.raises(UnsupportedError) as error:
        Installer(tmp_path / "root").install(BACKEND, source=f"oci:{tmp_path / 'layout'}:image")
    refused.append(error.value)
    with pytest.raises(InvalidInputError) as bad:
        read_published(store, "image", place="here")
    refused.append(bad.value)
    with pytest.raises(InvalidInputError) as joined:
        join_index(store, "joined", ["image"])
    refused.append(joined.value)
    assert image.index.digest
    assert all("model runner's image" in error.message and bundle in error.hint for error in refused)
