"""Versions that a recipe writes once and names elsewhere: ``vllm = "0.27.1"`` stands for ``{vllm}``."""

from __future__ import annotations

import re

from mr_core.decode import Decoder

_VALUE = r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,100}"
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Versions:
    """The table ``[versions]``, and which of its names were used."""

    def __init__(self, root: Decoder) -> None:
        self._root = root
        self._values: dict[str, str] = {}
        self._used: set[str] = set()
        table = root.table("versions")
        for name, item in table.entries():
            if _NAME.fullmatch(name) is None:
                item.problem("a name consists of lower-case letters, digits and single `-`, `_` or `.` between them")
            self._values[name] = table.text(name, pattern=_VALUE)

    def expand(self, text: str, path: str) -> str:
        """Return ``text`` with each ``{name}`` replaced; ``{{`` and ``}}`` stand for one brace.

        A brace that stands alone and a name that is not in the table are problems at ``path``.
        """

        def replace(match: re.Match[str]) -> str:
            if match[0] in {"{{", "}}"}:
                return match[0][0]
            name = match[1]
            if name is None:
                self._root.problem(f"{path}: a single `{match[0]}` means nothing; write it twice for the character")
                return ""
            self._used.add(name)
            if name not in self._values:
                known = ", ".join(f"`{known}`" for known in sorted(self._values)) or "nothing"
                self._root.problem(f"{path}: `{{{name[:100]}}}` is not in [versions], which holds {known}")
                return "0"  # keeps the text around it well-formed, so that nothing else is reported for it
            return self._values[name]

        return _PLACE.sub(replace, text)

    def refuse_unused(self) -> None:
        """Record a problem for each version that nothing names."""
        for name in sorted(set(self._values) - self._used):
            self._root.problem(f"versions.{name}: nothing uses it; write `{{{name}}}` where it is meant, or remove it")
