"""What a recipe gives that no index serves: wheels by address, git commits, static metadata; and index pins by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from mr_bundler.recipe.fields import parse_requirement
from mr_bundler.recipe.versions import Versions
from mr_core.decode import Decoder

PENDING = "pending"
"""Written in place of a sha256 that is not known yet; `mr-bundle lock` finds it out where the address answers."""
DISTRIBUTION = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,100}[A-Za-z0-9])?"
INDEX_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
COMMIT = r"[0-9a-f]{40}"
_SHA256 = re.compile(rf"{PENDING}|[0-9a-f]{{64}}")
_FILE = re.compile(r"[A-Za-z0-9._+!-]{1,255}\.whl")
_ASCII = re.compile(r"[!-~]{1,2048}")
SUBDIRECTORY = r"|(?!\.\.?(/|$))[A-Za-z0-9._+-]+(/(?!\.\.?(/|$))[A-Za-z0-9._+-]+)*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A version of a distribution that the recipe itself says something about; both are normalised."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource(Given):
    """A wheel by address. ``sha256`` is empty while it is pending."""

    file: str
    url: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource(Given):
    """A commit that is built to a wheel.

    Attributes:
        url: Of the repository.
        commit: 40 hexadecimal digits.
        subdirectory: Where in the repository the project lies; empty for its root.
        file: Name of the wheel that the build gives.
        sha256: Of that wheel; empty while it is pending.
    """

    file: str
    url: str
    commit: str
    subdirectory: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticMetadata(Given):
    """What one version of a distribution requires, said in the recipe, so that it locks without being fetched."""

    requires_dist: tuple[str, ...] = ()


def problem_of_address(text: str) -> str:
    """Return why ``text`` is not an address a wheel or repository may have; empty when it is one."""
    if _ASCII.fullmatch(text) is None:
        return "an address is 1 to 2048 printable ASCII characters without spaces"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        return f"that is not an address: {error}"
    if "@" in parts.netloc:
        return "no user name or password may stand in an address; give credentials to the client that fetches"
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        return "an address has no query and no fragment here: they hold secrets, or change"
    if parts.scheme == "https" and host:
        return "" if parts.path.strip("/") else "the address names no file"
    if parts.scheme == "file" and host in {"", "localhost"} and parts.path.startswith("/"):
        return ""
    return "the address must begin with `https://` and a host name"


def decode_wheel(root: Decoder, read: Decoder, path: str, versions: Versions) -> WheelSource:
    """Read one table of ``[[lock.wheels]]`` at ``path``; its name and version are those of its file."""
    url = _address(root, read, path, versions)
    file = unquote(urlsplit(url).path.rpartition("/")[2]) if url else ""
    name, version = _named(read, file, "url") if url else ("", "")
    return WheelSource(name=name, version=version, file=file, url=url, sha256=_sha256(read))


def decode_git(root: Decoder, read: Decoder, path: str, versions: Versions) -> GitSource:
    """Read one table of ``[[lock.git]]`` at ``path``."""
    name = canonicalize_name(read.text("name", pattern=DISTRIBUTION))
    version = _version(read, path, versions)
    default = f"{name.replace('-', '_')}-{version}-py3-none-any.whl" if name and version else ""
    file = versions.expand(read.text("file", default), f"{path}.file")
    if file and name and version and _named(read, file, "file") not in {(name, version), ("", "")}:
        read.problem(f"`{file}` is not a wheel of `{name}` {version}", "file")
    subdirectory = read.text("subdirectory", "", pattern=SUBDIRECTORY)
    return GitSource(
        name=name,
        version=version,
        file=file,
        url=_address(root, read, path, versions),
        commit=read.text("commit", pattern=COMMIT),
        subdirectory=subdirectory,
        sha256=_sha256(read),
    )


def decode_metadata(root: Decoder, read: Decoder, path: str, versions: Versions) -> StaticMetadata:
    """Read one table of ``[[lock.metadata]]`` at ``path``."""
    requires = []
    for index, text in enumerate(read.texts("requires-dist", required=True)):
        place = f"{path}.requires-dist[{index}]"
        requirement = parse_requirement(root, versions.expand(text, place), place)
        if requirement is not None:
            requires.append(str(requirement))
    return StaticMetadata(
        name=canonicalize_name(read.text("name", pattern=DISTRIBUTION)),
        version=_version(read, path, versions),
        requires_dist=tuple(requires),
    )


def decode_index_pins(root: Decoder, read: Decoder, path: str) -> dict[str, str]:
    """Read the table ``index``, at ``path``: the name of an index by normalised name of a distribution."""
    found: dict[str, str] = {}
    for name, item in read.table("index").entries():
        place = f"{path}.{name}" if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name) else path
        value = item.value
        if re.fullmatch(DISTRIBUTION, name) is None:
            root.problem(f"{path}: `{name[:100]}` is not the name of a distribution")
        elif not isinstance(value, str):
            root.problem(f"{place}: expected a string with the name of an index")
        elif "://" in value:
            root.problem(
                f"{place}: no address of an index may stand in a recipe; write its name, and give uv its address"
            )
        elif re.fullmatch(INDEX_NAME, value) is None:
            root.problem(f"{place}: `{value[:100]}` is not the name of an index")
        elif canonicalize_name(name) in found:
            root.problem(f"{place}: `{canonicalize_name(name)}` is pinned twice")
        else:
            found[canonicalize_name(name)] = value
    return found


def _address(root: Decoder, read: Decoder, path: str, versions: Versions) -> str:
    url = versions.expand(read.text("url"), f"{path}.url")
    problem = problem_of_address(url) if url else ""
    if problem:
        root.problem(f"{path}.url: {problem}")
    elif not url and isinstance(read.value, dict) and read.value.get("url") == "":
        root.problem(f"{path}.url: the address is empty")
    return "" if problem else url


def _sha256(read: Decoder) -> str:
    text = read.text("sha256")
    if text and _SHA256.fullmatch(text) is None:
        read.problem(f"`{text[:100]}` is neither 64 lower-case hexadecimal digits nor `{PENDING}`", "sha256")
    return "" if text == PENDING else text


def _version(read: Decoder, path: str, versions: Versions) -> str:
    text = versions.expand(read.text("version"), f"{path}.version")
    try:
        return str(Version(text)) if text else ""
    except InvalidVersion:
        read.problem(f"`{text[:100]}` is not a version", "version")
        return ""


def _named(read: Decoder, file: str, key: str) -> tuple[str, str]:
    """Return name and version of the wheel ``file``, both normalised; record a problem when it is no wheel."""
    if _FILE.fullmatch(file) is None:
        read.problem(f"`{file[:300]}` is not the name of a wheel file", key)
        return "", ""
    try:
        name, version, _, _ = parse_wheel_filename(file)
    except InvalidWheelFilename as error:
        read.problem(str(error), key)
        return "", ""
    return name, str(version)
