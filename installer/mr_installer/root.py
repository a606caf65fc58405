"""The layout on disk: where everything of a backend lies below the root.

::

    <root>/<backend>/bin/python3 -> ../releases/<id>/bin/python3.12     the commit point
    <root>/<backend>/bin/{python,python3.12,mr-serve}                   convenience entries
    <root>/<backend>/releases/<id>/                                     immutable, complete or absent
    <root>/<backend>/.mr/{lock,journal.json,history.json,probed/<id>.json,stage-<tx>/,trash-<tx>/}
    <root>/<backend>/.<backend>-version                                 for the existing host daemon
    <root>/.mr/blobs/sha256/{<hex>,<hex>.part}                          downloads, shared by all backends
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mr_core.bundle_config import NAME_PATTERN
from mr_core.digest import Digest
from mr_core.durable import host_errors
from mr_core.errors import HostError, UsageError

_NAME = re.compile(NAME_PATTERN)
RELEASE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._!+-]{0,100}-[0-9a-f]{12}")
PYTHON = "python3.12"


def default_root() -> Path:
    """Return ``MR_ROOT``, else the directory the existing host daemon uses."""
    configured = os.environ.get("MR_ROOT", "")
    return Path(configured or "~/.docker/model-runner")


def release_id(version: str, digest: Digest) -> str:
    """Return the name of a release: the version and 12 digits of the manifest digest."""
    return f"{version}-{digest.short}"


@dataclass(frozen=True, slots=True)
class Root:
    """A directory that holds backends. Absolute, but its links are not resolved: the user's spelling is kept."""

    path: Path

    @classmethod
    def at(cls, path: Path | str | None = None) -> Root:
        """Return the root at ``path``, or the default one."""
        chosen = Path(path) if path is not None and str(path) else default_root()
        try:
            expanded = chosen.expanduser()
        except RuntimeError as error:  # a user id without a home, or `~nobody-of-that-name`
            raise HostError(
                f"Cannot use `{chosen}` as the root: there is no such home directory",
                hint="name a directory with `--root` or MR_ROOT",
            ) from error
        return cls(Path(os.path.abspath(expanded)))  # noqa: PTH100 - resolve() would follow links

    def backend(self, name: str) -> BackendDirectory:
        """Return the paths of one backend.

        Raises:
            UsageError: when ``name`` cannot be a backend's name.
        """
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"Cannot use `{name[:80]}` as a backend: a name has lower-case letters, digits, `.`, `_` and `-`",
                hint="`mr-install list` shows what is installed",
            )
        return BackendDirectory(self.path / name, name)

    @property
    def blobs(self) -> Path:
        """Download store shared by all backends."""
        return self.path / ".mr" / "blobs"

    def backends(self) -> list[BackendDirectory]:
        """Return every directory below the root that could be a backend, sorted by name."""
        names = _directories(self.path)
        return [BackendDirectory(self.path / name, name) for name in names if _NAME.fullmatch(name)]


@dataclass(frozen=True, slots=True)
class BackendDirectory:
    """The paths of one backend."""

    path: Path
    name: str

    @property
    def bin(self) -> Path:
        """Stable entry points."""
        return self.path / "bin"

    @property
    def python(self) -> Path:
        """The commit point."""
        return self.bin / "python3"

    @property
    def launcher(self) -> Path:
        """The stable launch shim."""
        return self.bin / "mr-serve"

    @property
    def releases(self) -> Path:
        """Where releases lie."""
        return self.path / "releases"

    def release(self, release: str) -> Path:
        """Return the place of one release."""
        return self.releases / release

    @property
    def state(self) -> Path:
        """Where the installer keeps its own files."""
        return self.path / ".mr"

    @property
    def lock(self) -> Path:
        """Lock between processes."""
        return self.state / "lock"

    @property
    def journal(self) -> Path:
        """The transaction under way."""
        return self.state / "journal.json"

    @property
    def history(self) -> Path:
        """Activations, oldest first."""
        return self.state / "history.json"

    def probed(self, release: str) -> Path:
        """Return the record that ``release`` passed its probe here."""
        return self.state / "probed" / f"{release}.json"

    @property
    def logs(self) -> Path:
        """Reports of failed probes and logs of servers."""
        return self.state / "logs"

    @property
    def version_file(self) -> Path:
        """Plain-text version, read by the existing host daemon."""
        return self.path / f".{self.name}-version"

    def active(self) -> str | None:
        """Return the id of the active release, `None` when there is none or the link is not one of ours."""
        try:
            target = os.readlink(self.python)  # noqa: PTH115 - the raw text decides
        except OSError:
            return None
        parts = target.split("/")
        ours = len(parts) == 5 and parts[:2] == ["..", "releases"] and parts[3:] == ["bin", PYTHON]
        return parts[2] if ours and RELEASE_ID.fullmatch(parts[2]) else None

    def release_ids(self) -> list[str]:
        """Return the ids of all placed releases, sorted by name."""
        return [name for name in _directories(self.releases) if RELEASE_ID.fullmatch(name)]

    def entries(self, release: str) -> dict[str, str]:
        """Return the links below ``bin/`` when ``release`` is active: name and target."""
        return {
            "python3": f"../releases/{release}/bin/{PYTHON}",
            "python": "python3",
            PYTHON: "python3",
            "mr-serve": f"../releases/{release}/bin/mr-serve",
        }

    def foreign_entries(self) -> list[str]:
        """Return what lies here and is not ours, such as a plain tree that the host daemon put there.

        Dot files do not count: desktops leave them everywhere.
        """
        found = [name for name in _names(self.path) if name not in {"bin", "releases"}]
        found += [f"bin/{name}" for name in _names(self.bin) if not self._is_entry(name)]
        return sorted(found)

    def _is_entry(self, name: str) -> bool:
        if name not in self.entries("") or not (self.bin / name).is_symlink():
            return False
        return name != "python3" or self.active() is not None

    def is_foreign(self) -> bool:
        """Whether something that is not ours lies here."""
        return bool(self.foreign_entries())


def _names(place: Path) -> list[str]:
    with host_errors("read", place):
        try:
            return sorted(entry for entry in os.listdir(place) if not entry.startswith("."))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []


def _directories(place: Path) -> list[str]:
    """Return the names of real directories below ``place``, sorted; a link is none."""
    with host_errors("read", place):
        try:
            return sorted(entry.name for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
