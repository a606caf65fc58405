"""Write the lines of a lock: one value each, so that a review shows one line for each distribution that changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import tomli_w


def moment(text: str) -> datetime:
    """Return the time that ``YYYY-MM-DDTHH:MM:SSZ`` says."""
    return datetime.fromisoformat(text)


def line(key: str, value: Any) -> str:
    """Return ``key = value`` in TOML, on one line."""
    return f"{key} = {_value(value)}"


def package_lines(name: str, version: str, values: Mapping[str, Any]) -> list[str]:
    """Return the lines of one table of ``[[packages]]``, after an empty one."""
    return ["", "[[packages]]", line("name", name), line("version", version), *(line(*item) for item in values.items())]


def _value(value: Any) -> str:
    """Write a value on one line: tomli_w would spread the wheel of every distribution over two tables."""
    match value:
        case datetime():
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        case dict():
            return "{ " + ", ".join(line(key, item) for key, item in value.items()) + " }"
        case list():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case _:
            return tomli_w.dumps({"key": value}).removeprefix("key = ").rstrip("\n")
