"""Where the Python interpreter of this process lies, for work that needs a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def find_python() -> Path | None:
    """Return the interpreter that runs this program, or `None` when it is embedded in another one.

    A frozen or embedding program may call itself `sys.executable`; starting that again would start the program.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    path = Path(sys.executable)
    return path if path.name.lower().startswith("python") and os.access(path, os.X_OK) else None
