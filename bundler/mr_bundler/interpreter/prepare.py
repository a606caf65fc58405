"""Put a base interpreter into an environment: from a pinned archive, or from this machine when there is no way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mr_bundler.cache import true_place
from mr_bundler.interpreter.contents import EXECUTABLE, STDLIB
from mr_bundler.interpreter.fetch import fetch_archive
from mr_bundler.interpreter.host import host_files, relocate_host
from mr_bundler.interpreter.host_search import HostPython, locate_host_python
from mr_bundler.interpreter.kept import keep_tree
from mr_bundler.interpreter.patchelf import find_patchelf
from mr_bundler.interpreter.standalone import unpack_archive
from mr_bundler.interpreter.tree import Tree, digest_of, pack_tree, write_tree
from mr_bundler.interpreter.tree_cache import RULES, CachedTree, load_entry, save_entry, stamp
from mr_bundler.lock.python_pin import PythonPin
from mr_core.decode import dump_json
from mr_core.errors import BuildError, BundleError, HostError, UnavailableError, UnsupportedError
from mr_core.events import Cancel, Level, Notice, Outcome, Phase, Reporter, discard
from mr_core.platform import Platform, Target

_SECONDS = 60
_SELF_CHECK = """
import asyncio, bz2, ctypes, hashlib, json, lzma, multiprocessing, platform, site, sqlite3
import ssl, sys, sysconfig, uuid, zlib
purelib = sysconfig.get_path("purelib")
print(json.dumps([platform.python_version(), sys.prefix, sys.exec_prefix, purelib, site.ENABLE_USER_SITE]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A base interpreter in an environment.

    Attributes:
        prefix: Where it lies and runs: the directory that holds ``bin/`` and ``lib/``.
        version: CPython's exact version; with the second source it may differ from the pin's.
        source: ``python-build-standalone <build>`` or ``host``.
        identity: Stable text that changes exactly when the tree does.
        glibc: Lowest glibc its binaries run with, such as ``2.17``; empty for macOS.
        tree: Its files.
        origin: Prefix of the Python of this machine that it was made of, if it was.
    """

    prefix: Path
    version: str
    source: str
    identity: str
    glibc: str
    tree: Tree = field(repr=False)
    origin: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Where to, and how to tell: what every way of getting an interpreter shares."""

    destination: Path | None
    cache: Path
    report: Reporter
    cancel: Cancel | None

    def write(self, tree: Tree, digest: str) -> tuple[Path, bool]:
        """Return where the tree lies now, and whether that was made by this call."""
        if self.destination is None:
            return keep_tree(tree, digest, self.cache, cancel=self.cancel)
        write_tree(tree, self.destination, cancel=self.cancel)
        return self.destination, True


def prepare_interpreter(
    pin: PythonPin,
    target: Target,
    *,
    cache: Path,
    destination: Path | None = None,
    python_from: Path | None = None,
    python_archive: Path | None = None,
    fallback: bool = True,
    environ: Mapping[str, str] = os.environ,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Interpreter:
    """Write the base interpreter for ``target`` below ``destination``, which must be absent or empty.

    Without a destination it is kept below ``cache``, at the same place in every build, where it may run and nothing may
    be changed.

    The pinned archive by default, from ``python_archive``, ``UV_PYTHON_INSTALL_MIRROR`` or its public home. With
    ``python_from`` (or ``MR_PYTHON_FROM``) this machine's CPython made relocatable. That is also what is used, with a
    notice ``python-fallback``, when the archive cannot be had and the target is this machine's platform, unless
    ``fallback`` is false. Finished trees are kept in ``cache``; equal input gives byte-identical trees.

    Raises:
        IntegrityError: the archive differs from its pin.
        UnavailableError: it cannot be had, and nothing else will do.
        NotFoundError: the named Python does not exist or does not run, or the named archive does not exist.
        UnsupportedError: a host Python cannot serve this target.
        BuildError, HostError, UsageError, CancelledError: as they say.
    """
    host: HostPython | None = None
    here = target.platform == Platform.host()
    named = python_from is not None or (here and python_archive is None and bool(environ.get("MR_PYTHON_FROM")))
    place = None if destination is None else true_place(destination)
    work = _Work(destination=place, cache=true_place(cache), report=report, cancel=cancel)
    with Phase(report, "interpreter", str(target)) as phase:
        if named:
            _require_host(target)
            host = locate_host_python(python_from, environ=environ)
            entry, hit, prefix = _from_host(host, work)
        else:
            try:
                entry, hit, prefix = _from_archive(pin, python_archive, environ, work)
            except UnavailableError as error:
                if python_archive is not None or not fallback:
                    raise
                host = _fallback(error, target, environ)
                text = f"using CPython {host.version} of this machine: the pinned {pin.version} cannot be fetched"
                report(Notice(code="python-fallback", message=text, level=Level.WARNING))
                report(Notice(code="python-fallback", message=error.message, level=Level.DETAIL))
                entry, hit, prefix = _from_host(host, work)
        phase.outcome = Outcome.SKIPPED if hit else Outcome.DONE
        phase.detail = {"version": entry.version, "source": entry.source, "cached": hit}
    return Interpreter(
        prefix=prefix if destination is None else destination,
        version=entry.version,
        source=entry.source,
        identity=entry.identity,
        glibc=entry.glibc,
        tree=entry.tree,
        origin=None if host is None else host.prefix,
    )


def _from_archive(
    pin: PythonPin, archive: Path | None, environ: Mapping[str, str], work: _Work
) -> tuple[CachedTree, bool, Path]:
    key = _key("archive", pin.sha256, pin.version, pin.build)
    entry = load_entry(work.cache, key)
    hit = entry is not None
    if entry is None:
        mirror = environ.get("UV_PYTHON_INSTALL_MIRROR", "")
        place = fetch_archive(pin, work.cache, mirror=mirror, archive=archive, report=work.report, cancel=work.cancel)
        tree, glibc = unpack_archive(place, pin, report=work.report, cancel=work.cancel)
        source = f"python-build-standalone {pin.build}"
        entry = save_entry(work.cache, key, tree, version=pin.version, source=source, glibc=glibc)
    return entry, hit, work.write(entry.tree, entry.digest)[0]


def _from_host(host: HostPython, work: _Work) -> tuple[CachedTree, bool, Path]:
    patchelf = find_patchelf()
    try:
        stamps = [stamp(place) for place in (patchelf, *host_files(host).values())]
        key = _key("host", str(host.prefix), host.version, sorted(stamps))
        entry = load_entry(work.cache, key)
        if entry is not None:
            return entry, True, work.write(entry.tree, entry.digest)[0]
        relocated = relocate_host(host, patchelf=patchelf, report=work.report, cancel=work.cancel)
        inputs = tuple(stamp(place) for place in relocated.grafted)
    except OSError as error:
        raise HostError(f"Cannot read `{error.filename}`: {error.strerror}") from error
    prefix, made = work.write(relocated.tree, digest_of(pack_tree(relocated.tree)))
    try:
        _require_running(prefix, host.version)
        entry = save_entry(
            work.cache, key, relocated.tree, version=host.version, source="host", glibc=relocated.glibc, inputs=inputs
        )
    except BaseException:
        if made:  # else another build may be running from it
            shutil.rmtree(prefix, ignore_errors=True)
        raise
    return entry, False, prefix


def _fallback(error: UnavailableError, target: Target, environ: Mapping[str, str]) -> HostPython:
    """Return a host Python that can stand in, or raise the reason why the archive is missing."""
    if target.platform != Platform.host() or target.platform.os != "linux":
        raise error
    try:
        find_patchelf()
        return locate_host_python(environ=environ)
    except BundleError as second:
        raise error from second


def _require_host(target: Target) -> None:
    if target.platform.os != "linux":
        raise UnsupportedError(
            f"Cannot make a host Python relocatable for {target}: that is possible on Linux only",
            hint="leave `--python-from` away, so that the pinned python-build-standalone is used",
        )
    if target.platform != Platform.host():
        raise UnsupportedError(
            f"Cannot use a Python of this machine ({Platform.host()}) for {target}: the platforms differ",
            hint="leave `--python-from` away, so that the pinned python-build-standalone is used",
        )


def _require_running(prefix: Path, version: str) -> None:
    """Run the relocated interpreter once where it lies; raise `BuildError` when it finds anything but itself."""
    command = [str(prefix / EXECUTABLE), "-P", "-B", "-c", _SELF_CHECK]
    root = str(prefix)
    expected = [version, root, root, f"{root}/{STDLIB}/site-packages", False]
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"Cannot run the relocated interpreter: {error}") from error
    if ran.returncode != 0 or ran.stdout.strip() != json.dumps(expected):
        found = (ran.stderr.strip().splitlines() or [ran.stdout.strip()])[-1]
        raise BuildError(
            f"Cannot relocate this Python: moved away from its prefix, it ends with status {ran.returncode}: {found}",
            hint="name another CPython with `--python-from`",
            output=ran.stderr,
        )


def _key(kind: str, *facts: object) -> str:
    return f"{kind}-{hashlib.sha256(dump_json([RULES, *facts])).hexdigest()[:32]}"
