from __future__ import annotations

from pathlib import Path

import pytest

from support.shim_place import Place, make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)
