"""Name what a test cannot do without: missing parts skip loudly, and fail in CI."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the calling test because ``what`` is not here; in CI, where everything must be, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must not skip this test", pytrace=False)
    pytest.skip(f"{what} is missing: install it to run this test")


def need(program: str) -> str:
    """Return the path of ``program``, or skip."""
    beside = str(Path(sys.executable).parent)  # programs that come from the package index live in the environment
    found = shutil.which(program) or shutil.which(program, path=beside)
    if found is None:
        missing(f"the program `{program}`")
    return found
