"""Build a git commit to a wheel: the same commit gives the same bytes in every directory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from mr_bundler.process import run_program
from mr_bundler.wheels.uv_build import build_wheel
from mr_core.durable import host_errors
from mr_core.errors import BuildError, HostError, NotFoundError, UnavailableError
from mr_core.events import Cancel, Phase, Reporter, discard

_SECONDS = 1800
_SAFE = {
    "core.hooksPath": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "core.attributesFile": os.devnull,
    "log.showSignature": "false",
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    "protocol.file.allow": "always",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "init.defaultBranch": "commit",
    "advice.detachedHead": "false",
}
"""Set for every run: no hook, monitor or signature check of the user's configuration runs, and the files of a commit
are the same everywhere. The user's filters are shut out by `_NO_FILTERS`. How a server is reached stays the user's
choice, as it is for every git command: proxies, certificates, `url.*.insteadOf`, and credential helpers, which run."""
_NO_FILTERS = "* -filter\n"
"""The attributes of the repository itself go before those of the commit: no `filter.*` of the user's configuration,
Git LFS among them, changes a file, whatever `.gitattributes` asks for."""
_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GCM_INTERACTIVE": "never",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C.UTF-8",
}
_KEPT = re.compile(r"GIT_(CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|SSL_.+|PROXY_SSL_.+|HTTP_.+)")
_ABSENT = re.compile(r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref", re.IGNORECASE)
_NO_PLACE = re.compile(r"does not appear to be a git repository|repository .* not found|does not exist", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What to build, and which wheel must come out.

    Attributes:
        url: Of the repository, https or file.
        commit: 40 hexadecimal digits.
        subdirectory: Where the project lies; empty for the root.
        name: Normalised name of the distribution.
        version: What a project is told that takes its version from tags, which are not fetched.
        file: Name of the wheel.
    """

    url: str
    commit: str
    subdirectory: str
    name: str
    version: str
    file: str


def build_commit(
    commit: Commit,
    directory: Path,
    *,
    exclude_newer: str,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Path:
    """Fetch one commit into ``directory``, which is empty, build it there, and return the wheel.

    Tools of the build are resolved as of ``exclude_newer``, and all times are the commit's. No hook and no submodule is
    used, no filter runs, and nobody is asked for a password.

    Raises:
        UnavailableError: the repository does not answer.
        NotFoundError: there is no such repository or commit.
        BuildError: the project does not build, or gives another wheel than ``commit.file``.
        HostError: git or uv is missing.
    """
    source, out = directory / "source", directory / "out"
    with Phase(report, "git wheel", f"{commit.name} {commit.version}"):
        git = _Git(source, commit, report, cancel)
        source.mkdir()
        out.mkdir()
        git.run("init", "--quiet", "--template=", ".")
        with host_errors("write", source):
            (source / ".git" / "info").mkdir(exist_ok=True)
            (source / ".git" / "info" / "attributes").write_text(_NO_FILTERS)
        git.run("fetch", "--quiet", "--depth=1", "--no-tags", "--", commit.url, commit.commit)
        git.run("checkout", "--quiet", "--force", "--detach", commit.commit)
        moment = git.run("show", "--no-patch", "--format=%ct", commit.commit).strip()
        project = source / commit.subdirectory
        if not project.resolve().is_relative_to(source.resolve()) or not project.is_dir():
            raise NotFoundError(
                f"Cannot build `{commit.name}`: {commit.commit} has no directory `{commit.subdirectory}`",
                hint="correct `subdirectory` in the recipe",
            )
        build_wheel(
            project,
            out,
            what=f"Cannot build `{commit.name}` from {commit.commit}",
            exclude_newer=exclude_newer,
            environ={"SOURCE_DATE_EPOCH": moment, **_pretended(commit)},
            report=report,
            cancel=cancel,
        )
        return _only_wheel(out, commit)


def _pretended(commit: Commit) -> dict[str, str]:
    """Return what tells setuptools-scm and its kin the version: only one commit is here, and no tag."""
    suffix = canonicalize_name(commit.name).upper().replace("-", "_")
    return {f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{suffix}": commit.version}


def _only_wheel(out: Path, commit: Commit) -> Path:
    wheels = sorted(path.name for path in out.glob("*.whl"))
    if wheels != [commit.file]:
        raise BuildError(
            f"Cannot use what {commit.commit} of `{commit.name}` builds: expected `{commit.file}`, found "
            f"{', '.join(f'`{name}`' for name in wheels) or 'no wheel'}",
            hint="correct `version` and `file` of this commit in the recipe; only wheels for any platform are portable",
        )
    return out / commit.file


class _Git:
    """git in one repository."""

    def __init__(self, directory: Path, commit: Commit, report: Reporter, cancel: Cancel | None) -> None:
        found = shutil.which("git")
        if found is None:
            raise HostError("Cannot find git: it is not installed", hint="install git: this recipe builds a git commit")
        self._command = [found, *_settings(_SAFE)]
        self._directory, self._commit, self._report, self._cancel = directory, commit, report, cancel
        self._environ = {
            name: text for name, text in os.environ.items() if not name.startswith("GIT_") or _KEPT.fullmatch(name)
        } | _QUIET

    def run(self, *arguments: str) -> str:
        """Run one git command to its end and return what it wrote to stdout."""
        ended = run_program(
            [*self._command, *arguments],
            what="git",
            source="git",
            environ=self._environ,
            cwd=self._directory,
            umask=0o022,
            seconds=_SECONDS,
            apart=True,
            report=self._report,
            cancel=self._cancel,
        )
        if ended.status:
            raise self._failed(arguments[0], "\n".join(ended.log))
        return ended.output

    def _failed(self, verb: str, errors: str) -> Exception:
        reason = " ".join(errors.split())[-600:] or "git failed without a word"
        text = f"Cannot fetch {self._commit.commit} of `{self._commit.name}` from `{self._commit.url}`: {reason}"
        if verb != "fetch":
            return BuildError(text)
        if _ABSENT.search(errors):
            return NotFoundError(text, hint="correct `commit` in the recipe; it must be in the repository itself")
        if _NO_PLACE.search(errors):
            return NotFoundError(text, hint="correct `url` in the recipe")
        return UnavailableError(text, hint="check the network; git must reach this repository without a password")


def _settings(values: dict[str, str]) -> Iterable[str]:
    for key, value in values.items():
        yield from ("-c", f"{key}={value}")
