"""One small bundle that many tests look at; each changes a copy of its documents. Building takes seconds."""

from __future__ import annotations

from dataclasses import dataclass

from mr_bundler.result import BuildResult
from support.building import Builder
from support.wheels import Wheel

PART = Wheel(name="part", files={"part/__init__.py": "x = 'part of it'\n", "part/note.txt": "a note\n"})


@dataclass(frozen=True)
class Published:
    """The bundle of the server and `PART`, and what built it."""

    builder: Builder
    built: BuildResult
