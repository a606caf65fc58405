"""Fields of a recipe that need more than a type check: requirements, times, slim patterns, specs in kebab-case."""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mr_bundler.recipe.versions import Versions
from mr_core.decode import Decoder
from mr_core.errors import InvalidInputError
from mr_shim.spec import LaunchSpec, ProbeSpec, SpecError

API_PATHS = (
    "health",
    "models",
    "chat-completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages-count-tokens",
)
"""Endpoints an API profile may name."""
_LAUNCH_FIELDS = ("health-path", "start-timeout", "stop-signal", "stop-grace", "served-model-name", "chat-template")
_SNAKE_FIELD = re.compile("|".join(rf"\b{name.replace('-', '_')}\b" for name in _LAUNCH_FIELDS))
_OPTION_TABLES = ("options", "unsupported")
Spec = TypeVar("Spec", LaunchSpec, ProbeSpec)


def parse_toml(data: bytes, what: str, *, hint: str, most: int) -> dict[str, Any]:
    """Return the document in ``data``; raise `InvalidInputError` with the line when it is not UTF-8 or not TOML."""
    if len(data) > most:
        raise InvalidInputError(f"Cannot read {what}: it is larger than {most} bytes", hint=hint)
    if data.startswith(codecs.BOM_UTF8):
        raise InvalidInputError(
            f"Cannot read {what}: it begins with a byte order mark (at line 1)", hint="save it as UTF-8 without a mark"
        )
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(f"Cannot read {what}: it is not UTF-8 text (at line {line})", hint=hint) from error
    except RecursionError as error:
        raise InvalidInputError(f"Cannot read {what}: it is nested too deeply", hint=hint) from error
    except ValueError as error:
        raise InvalidInputError(f"Cannot read {what}: it is not TOML: {error}", hint=hint) from error


def parse_time(value: Any, where: str) -> str:
    """Return a point in time as ``YYYY-MM-DDTHH:MM:SSZ``; takes a TOML date-time with offset, or its text."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInputError(f"expected a date and time with offset such as `2026-11-20T00:00:00Z`, found `{value}`")
    try:
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError as error:
        raise InvalidInputError(f"`{value}` is out of range in {where}") from error


def parse_license(value: Any, _where: str) -> str:
    """Return the canonical SPDX expression."""
    if not isinstance(value, str):
        raise InvalidInputError("expected a string with an SPDX licence expression")
    try:
        return canonicalize_license_expression(value)
    except InvalidLicenseExpression as error:
        raise InvalidInputError(f"`{value}` is not an SPDX licence expression: {error}") from error


def parse_requirement(root: Decoder, text: str, path: str) -> Requirement | None:
    """Return the requirement, or None after recording a problem at ``path``; one with an address is a problem."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        root.problem(f"{path}: `{text[:300]}` is not a requirement: {reason}")
        return None
    except RecursionError:
        root.problem(f"{path}: it is nested too deeply")
        return None
    if requirement.url:
        root.problem(f"{path}: `{requirement.name}` has an address; give it in [[lock.wheels]] or [[lock.git]]")
        return None
    return requirement


def decode_requirements(root: Decoder, read: Decoder, key: str, path: str, versions: Versions) -> list[str]:
    """Return the list of requirements at ``key``, each in canonical text; problems are recorded with ``path``.

    Constraints take no extras; only overrides take a marker, for one that is never true removes a distribution.
    """
    found = []
    for index, text in enumerate(read.texts(key)):
        place = f"{path}[{index}]"
        requirement = parse_requirement(root, versions.expand(text, place), place)
        if requirement is None:
            continue
        name = requirement.name
        if requirement.marker and key != "overrides":
            root.problem(f"{place}: `{name}` has a marker; list it under the targets that need it instead")
        elif requirement.extras and key == "constraints":
            root.problem(f"{place}: `{name}` has an extra; a constraint limits versions only")
        elif not requirement.specifier and key == "constraints":
            root.problem(f"{place}: `{name}` says no version; a constraint limits versions")
        else:
            found.append(_canonical(requirement))
    return found


def _canonical(requirement: Requirement) -> str:
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return f"{canonicalize_name(requirement.name)}{f'[{extras}]' if extras else ''}{requirement.specifier}{marker}"


def merge_requirements(root: Decoder, common: Sequence[str], own: Sequence[str], path: str) -> tuple[str, ...]:
    """Join what all targets need with what one needs, sorted; a version typed twice is a problem.

    The same distribution may stand twice, as ``mlx==0.32.4`` and ``mlx[cpu]``, when only one says a version.
    """
    merged = sorted({*common, *own})
    pinned: dict[str, str] = {}
    for text in merged:
        requirement = Requirement(text)
        if requirement.specifier or requirement.marker:
            other = pinned.setdefault(requirement.name, text)
            if other != text:
                root.problem(f"{path}: `{other}` and `{text}` both say a version; say it once")
    return tuple(merged)


def decode_patterns(root: Decoder, read: Decoder, key: str, path: str, *, required: bool = False) -> tuple[str, ...]:
    """Return patterns of paths; see `mr_bundler.recipe.recipe.SlimRules` for what they mean."""
    patterns = read.texts(key, required=required)
    for index, pattern in enumerate(patterns):
        parts = pattern.removeprefix("/").split("/")
        if any(part in {"", ".", ".."} for part in parts) or "\\" in pattern:
            root.problem(f"{path}[{index}]: `{pattern}` has an empty, `.` or `..` component, or a backslash")
        elif any("**" in part and part != "**" for part in parts):
            root.problem(f"{path}[{index}]: `**` in `{pattern}` must be a whole component")
        elif all(set(part) <= {"*"} for part in parts):
            root.problem(f"{path}[{index}]: `{pattern}` names nothing in particular")
    return patterns


def decode_spec(root: Decoder, key: str, default: Spec) -> Spec:
    """Let the shim's own parser read ``[launch]`` or ``[probe]``, and give its problems the recipe's spelling."""
    table = root.table(key, required=True)
    if not root.has(key):
        return default
    try:
        return type(default).from_json(_to_snake(table), strict=True)
    except SpecError as error:
        for problem in error.problems:
            root.problem(f"{key}.{_SNAKE_FIELD.sub(lambda match: match[0].replace('_', '-'), problem)}")
        return default


def _to_snake(table: Decoder) -> dict[str, Any]:
    """Return the table with its field names, and only those, in the spec's spelling."""
    found: dict[str, Any] = {}
    for name, item in table.entries():
        if "_" in name:
            item.problem(f"unknown field; keys are written with hyphens: `{name.replace('_', '-')}`")
            continue
        value = item.value
        if name in _OPTION_TABLES and isinstance(value, dict):
            for option in value:
                if "_" in option:
                    item.problem(f"unknown field; keys are written with hyphens: `{option.replace('_', '-')}`", option)
            value = {option.replace("-", "_"): flag for option, flag in value.items() if "_" not in option}
        found[name.replace("-", "_")] = value
    return found


def decode_api(root: Decoder) -> dict[str, str]:
    """Return the API profile's paths with keys in the bundle config's spelling (``chat_completions``)."""
    table = root.table("api")
    found = {}
    for key in API_PATHS:
        if table.has(key):
            found[key.replace("-", "_")] = table.text(key, pattern=r"/[A-Za-z0-9/_.-]*")
        else:
            table.text(key, "")
    table.refuse_unknown()
    return found
