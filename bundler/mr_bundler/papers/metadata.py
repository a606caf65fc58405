"""What a distribution says about itself in ``METADATA``: read from hostile text, with its licence as SPDX expression.

Format: Python packaging specifications, "Core metadata", in the reading of `email.parser` with the policy compat32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from email.policy import compat32
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mr_bundler.papers.licence_names import (
    BSD_CLASSIFIER,
    BSD_FAMILY,
    NVIDIA,
    PROPRIETARY,
    classified_licence,
    is_bsd_family,
    named_licence,
    spdx_expression,
)
from mr_bundler.papers.licence_texts import main_licence, read_licence_files, recognise_beginning, recognise_text
from mr_core.durable import host_errors
from mr_core.errors import InvalidInputError

LicenceSource: TypeAlias = Literal["", "License-Expression", "License", "Classifier", "licence file", "recipe"]
"""Where a licence was found; ``recipe`` when the author of a recipe states it, nothing when it is unknown."""
NO_TEXTS: Mapping[str, str] = MappingProxyType({})

MOST_HEADER_LETTERS = 1 << 20
_MOST_LETTERS = 500
_MOST_REQUIREMENTS = 5000
_MOST_REQUIREMENT_LETTERS = 4000
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,198}[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._!+-]{0,199}")
# An address that every reader of JSON papers takes: no user, no blanks, whole percent escapes, ASCII only.
_LETTER = r"[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}"
_ADDRESS = re.compile(
    rf"https?://[A-Za-z0-9.-]+(?::[0-9]{{1,5}})?(?:/(?:{_LETTER})*)?(?:\?(?:{_LETTER}|\?)*)?(?:#(?:{_LETTER})*)?"
)
_LINKS = {
    "changelog": "release-notes",
    "changes": "release-notes",
    "code": "vcs",
    "documentation": "documentation",
    "docs": "documentation",
    "github": "vcs",
    "homepage": "website",
    "issues": "issue-tracker",
    "issue tracker": "issue-tracker",
    "bug tracker": "issue-tracker",
    "release notes": "release-notes",
    "repository": "vcs",
    "source": "vcs",
    "source code": "vcs",
    "tracker": "issue-tracker",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionMetadata:
    """A distribution in its own words; every text is one line of at most 500 characters.

    Attributes:
        name: Normalised.
        licence: SPDX expression, empty when none is named exactly.
        licence_source: Which field or file named it.
        stated: What the distribution says where `licence` is no literal copy of it; for people.
        homepage: An http(s) address, or empty.
        links: Kinds of CycloneDX external references (``vcs``, ``documentation``, …) and addresses, sorted.
        requires: Its ``Requires-Dist``, those that are valid.
    """

    name: str
    version: str
    licence: str = ""
    licence_source: LicenceSource = ""
    stated: str = ""
    homepage: str = ""
    summary: str = ""
    author: str = ""
    links: tuple[tuple[str, str], ...] = ()
    requires: tuple[str, ...] = ()


def read_metadata(place: Path) -> DistributionMetadata:
    """Return what the ``.dist-info`` directory ``place`` says, licence files included.

    Raises:
        HostError: when a file cannot be read.
        InvalidInputError: as `parse_metadata` does.
    """
    path = place / "METADATA"
    with host_errors("read", path), path.open("rb") as file:
        content = file.read(MOST_HEADER_LETTERS + 1)
    return parse_metadata(content.decode("utf-8", "replace"), read_licence_files(place))


def parse_metadata(headers: str, licence_texts: Mapping[str, str] = NO_TEXTS) -> DistributionMetadata:
    """Parse the header block of a ``METADATA`` file; what follows its first blank line is ignored.

    Args:
        headers: The text, from anywhere.
        licence_texts: Texts of the distribution's licence files by path in its ``.dist-info`` directory. They decide
            where the headers name a family of licences or nothing.

    Raises:
        InvalidInputError: when it has no valid name or version, or more than 1 MiB of headers.
    """
    read = _Headers(headers)
    name, version = read.line("Name"), read.line("Version")
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        raise InvalidInputError(
            f"Cannot read METADATA: `{name[:100]}` `{version[:100]}` is not a name and a version",
            hint="the wheel is damaged; lock another version",
        )
    licence, source = _find_licence(read, name, dict(licence_texts))
    links = _links(read)
    return DistributionMetadata(
        name=canonicalize_name(name),
        version=version,
        licence=licence,
        licence_source=source,
        stated=_stated(read, licence),
        homepage=next((address for kind, address in links if kind == "website"), ""),
        summary=read.line("Summary"),
        author=_author(read),
        links=links,
        requires=_requires(read),
    )


class _Headers:
    """Header fields by name, as clean text."""

    def __init__(self, text: str) -> None:
        block = re.split(r"\r?\n\r?\n", text[: MOST_HEADER_LETTERS + 1], maxsplit=1)[0]
        if len(block) > MOST_HEADER_LETTERS:
            raise InvalidInputError("Cannot read METADATA: more than 1 MiB of headers")
        clean = block.encode("utf-8", "replace").decode().replace("\x00", "")
        self._message: Message[str, str] = HeaderParser(policy=compat32).parsestr(clean, headersonly=True)

    def lines(self, name: str, *, most: int = _MOST_LETTERS) -> list[str]:
        """Return every value of a field, each as one line of at most ``most`` characters."""
        return [" ".join(str(value).split())[:most] for value in self._message.get_all(name, [])]

    def line(self, name: str) -> str:
        """Return the first value of a field as one line."""
        return next(iter(self.lines(name)), "")

    def text(self, name: str) -> str:
        """Return the first value of a field with its line breaks."""
        return str(self._message.get(name, "")).strip()


def _find_licence(read: _Headers, name: str, texts: dict[str, str]) -> tuple[str, LicenceSource]:
    """Take the first of the places that names one licence exactly, the most deliberate first."""
    field = read.text("License")
    classifiers = read.lines("Classifier")
    if licence := spdx_expression(read.line("License-Expression")):
        return licence, "License-Expression"
    if licence := named_licence(field) or recognise_text(field):
        return licence, "License"
    if licence := classified_licence(classifiers):
        return licence, "Classifier"
    own = main_licence(texts)
    if licence := recognise_text(own):
        return licence, "licence file"
    if BSD_CLASSIFIER in classifiers or is_bsd_family(field):
        # the text tells which BSD licence is meant, even when the licences of bundled parts follow it
        if (licence := recognise_beginning(field)) in BSD_FAMILY:
            return licence, "License"
        if (licence := recognise_beginning(own)) in BSD_FAMILY:
            return licence, "licence file"
    makers = f"{name} {read.line('Author')} {read.line('Author-email')}".lower()
    if PROPRIETARY in classifiers and re.search(r"\bnvidia\b", makers):
        return NVIDIA, "Classifier"
    return "", ""


def _stated(read: _Headers, licence: str) -> str:
    said = [read.line("License-Expression"), *read.text("License").split("\n")[:1]]
    said += [text.rpartition(" :: ")[2] for text in read.lines("Classifier") if text.startswith("License ::")]
    shown = [" ".join(text.split())[:100] for text in dict.fromkeys(said) if text]
    return "" if shown == [licence] else "; ".join(shown)[:_MOST_LETTERS]


def _links(read: _Headers) -> tuple[tuple[str, str], ...]:
    found = {("website", read.line("Home-page"))}
    for line in read.lines("Project-URL"):
        label, _, address = line.partition(",")
        kind = _LINKS.get(label.strip().lower())
        if kind is not None:
            found.add((kind, address.strip()))
    return tuple(sorted((kind, address) for kind, address in found if _ADDRESS.fullmatch(address)))


def _author(read: _Headers) -> str:
    """Return names without addresses of electronic mail."""
    text = read.line("Author") or re.sub(r"<[^<>]*>|\"", "", read.line("Author-email"))
    return "" if "@" in text else " ".join(text.split())


def _requires(read: _Headers) -> tuple[str, ...]:
    found = []
    for text in read.lines("Requires-Dist", most=_MOST_REQUIREMENT_LETTERS)[:_MOST_REQUIREMENTS]:
        try:
            found.append(str(Requirement(text)))
        except (InvalidRequirement, RecursionError):
            continue  # old distributions hold requirements of a grammar nobody reads any more
    return tuple(found)
