"""Make locks: resolve each target through uv, choose one wheel for each distribution, write what changed."""

from __future__ import annotations

import contextlib
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from mr_bundler.cache import default_cache
from mr_bundler.lock.given import Settled, Source, settle
from mr_bundler.lock.lock import Lock, LockedWheel, inputs_digest, load_lock, lock_path, platform_floor
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.lock.wheel_tags import best_wheel
from mr_bundler.recipe.fields import parse_time
from mr_bundler.recipe.recipe import Recipe
from mr_bundler.recipe.targets import RecipeTarget
from mr_bundler.wheels.uv import compile_pylock
from mr_bundler.wheels.uv_process import find_uv
from mr_core.decode import Decoder
from mr_core.errors import BundleError, HostError, InvalidInputError, UnavailableError
from mr_core.events import Cancel, Phase, Reporter, SafeReporter, discard
from mr_core.platform import Target

_WORKERS = 4
_NOTHING: Mapping[str, LockedWheel] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class LockChange:
    """What locking did to one target.

    Attributes:
        changed: Pairs of the old and the new file of one distribution.
        written: Whether the file's bytes changed; they also do when only the Python or an input changed.
    """

    target: Target
    path: Path
    lock: Lock
    added: tuple[LockedWheel, ...] = ()
    removed: tuple[LockedWheel, ...] = ()
    changed: tuple[tuple[LockedWheel, LockedWheel], ...] = ()
    written: bool


def lock_recipe(
    recipe: Recipe,
    *,
    targets: Sequence[Target] | None = None,
    dry_run: bool = False,
    complete: bool = False,
    cache: Path | None = None,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> list[LockChange]:
    """Lock all targets of a recipe, or the named ones, and write those locks that changed.

    The old lock does not steer the choice: ``exclude-newer`` fixes what exists, so the same recipe gives the same lock,
    and moving that date is how to upgrade. Nothing is written unless every target has a solution. Only a sha256 that is
    pending in the recipe is taken from the old lock, when that has it for the same address or commit; else it is found
    out, and stays pending, with a warning, where its address cannot be reached.

    ``complete`` makes one that stays pending an error. ``cache`` keeps the wheels that were fetched or built for that
    (`default_cache`).

    Raises:
        InvalidInputError: the requirements of a target have no solution; all such targets are named.
        NotFoundError: the recipe does not have a named target, or an address serves no such file.
        UnavailableError, AccessDeniedError: an index did not answer, or refused; a sha256 stays pending (``complete``).
        IntegrityError: an address serves other bytes than the recipe says.
        HostError: uv is missing, or a lock cannot be written.
    """
    wanted = recipe.targets if targets is None else tuple(recipe.target(target) for target in targets)
    find_uv()
    report = SafeReporter(report)
    with Phase(report, "lock", recipe.backend, total=len(wanted)) as phase:
        given = settle(
            wanted,
            _old_wheels(recipe),
            cache=default_cache() if cache is None else cache,
            exclude_newer=recipe.exclude_newer,
            report=report,
            cancel=cancel,
        )
        with ThreadPoolExecutor(_WORKERS) as pool:
            futures = [pool.submit(_resolve, recipe, target, given, report, cancel) for target in wanted]
        locks: list[Lock] = []
        errors: list[BundleError] = []
        for done, future in enumerate(futures, start=1):
            try:
                locks.append(future.result())
            except BundleError as error:
                errors.append(error)
            phase.progress(done)
        if errors:
            raise _joined(errors)
        if complete:
            _require_complete(recipe, locks)
        changes = [_compare(recipe, lock) for lock in locks]
        if not dry_run:
            for change in changes:
                if change.written:
                    _write(change.path, change.lock.dump())
        phase.detail = {"stale" if dry_run else "written": sum(change.written for change in changes)}
    return changes


def _joined(errors: list[BundleError]) -> BundleError:
    """Return the first error, or one with the text of all when every one is for the author."""
    first, *rest = errors
    for error in errors:
        if not isinstance(error, InvalidInputError):
            return error
    if not rest:
        return first
    return InvalidInputError(
        "\n  ".join(error.message for error in errors),
        hint=first.hint,
        problems=[error.message for error in errors],
    )


def _require_complete(recipe: Recipe, locks: Sequence[Lock]) -> None:
    pending = sorted({f"`{wheel.name}` {wheel.version}" for lock in locks for wheel in lock.pending})
    if pending:
        raise UnavailableError(
            f"Cannot lock `{recipe.backend}` completely: the sha256 of {', '.join(pending)} stays pending",
            hint="run this where the addresses of these wheels can be reached",
            pending=pending,
        )


def resolve_exactly(lock: Lock, *, report: Reporter = discard, cancel: Cancel | None = None) -> bytes:
    """Return the PEP 751 document that uv writes for exactly the versions of ``lock``: where the index has its files.

    Raises as `compile_pylock` does.
    """
    served = [wheel for wheel in lock.packages if not wheel.url and wheel.vcs is None]
    return compile_pylock(
        [f"{wheel.name}=={wheel.version}" for wheel in served],
        target=lock.target,
        requires=lock.requires,
        python_version=lock.python.version,
        exclude_newer=lock.exclude_newer,
        index={wheel.name: wheel.index for wheel in served if wheel.index},
        dependencies=False,
        report=report,
        cancel=cancel,
    )


def _resolve(
    recipe: Recipe, target: RecipeTarget, given: Mapping[Source, Settled], report: Reporter, cancel: Cancel | None
) -> Lock:
    settled = [given[source] for source in target.sources()]
    data = compile_pylock(
        [*target.requirements, *(item.requirement for item in settled)],
        target=target.target,
        requires=target.requires,
        python_version=recipe.python.version,
        exclude_newer=recipe.exclude_newer,
        constraints=target.constraints,
        overrides=target.overrides,
        index=dict(target.index),
        metadata=target.metadata,
        report=report,
        cancel=cancel,
    )
    packages = read_pylock(data, target, given={item.wheel.name: item.wheel for item in settled})
    version = next((item.version for item in packages if item.name == recipe.version_from), None)
    if version is None:
        raise InvalidInputError(
            f"Cannot lock `{target.target}`: `{recipe.version_from}` is not among its packages",
            hint="name in `backend.version-from` a distribution that this target requires",
        )
    return Lock(
        backend=recipe.backend,
        version=version,
        target=target.target,
        requires=platform_floor(target.requires),
        exclude_newer=recipe.exclude_newer,
        python=pin_for(recipe.python.version, recipe.python.build, target.target.platform),
        packages=packages,
        inputs=inputs_digest(recipe, target),
    )


def read_pylock(
    data: bytes, target: RecipeTarget, *, given: Mapping[str, LockedWheel] = _NOTHING
) -> tuple[LockedWheel, ...]:
    """Return one wheel for each package of a PEP 751 document: the one installers prefer on the target.

    ``given`` are those that are known by themselves; uv only says whether they are needed.

    Raises:
        InvalidInputError: a package has no wheel that fits, or a wheel has no sha256.
    """
    read = Decoder(tomllib.loads(data.decode()), f"uv's resolution for `{target.target}`")
    pins = dict(target.index)
    found: dict[str, LockedWheel] = {}
    for package in read.tables("packages"):
        name = canonicalize_name(package.text("name"))
        if name in found:
            package.problem(f"`{name}` is there twice; a lock holds one version of each distribution")
        if name in given:
            found[name] = given[name]
            continue
        wheels = {_file(wheel): wheel for wheel in package.tables("wheels")}
        file = best_wheel(wheels, target.target, target.requires)
        if file is None:
            package.problem(f"`{name}` has no wheel for this target")
            continue
        wheel = wheels[file]
        found[name] = LockedWheel(
            name=name,
            version=package.text("version"),
            file=file,
            sha256=wheel.table("hashes").text("sha256", pattern=r"[0-9a-f]{64}"),
            size=wheel.integer("size") if wheel.has("size") else None,
            upload_time=wheel.parsed("upload-time", parse_time, "") if wheel.has("upload-time") else "",
            index=pins.get(name, ""),
        )
    read.finish(hint="the index must serve wheels with their sha256")
    return tuple(found[name] for name in sorted(found))


def _file(wheel: Decoder) -> str:
    """Return the file name: PEP 751 lets it be left out when the address or path ends with it."""
    address = wheel.text("name", "") or urlsplit(wheel.text("url", "")).path or wheel.text("path", "")
    return unquote(address.rpartition("/")[2])


def _compare(recipe: Recipe, lock: Lock) -> LockChange:
    path = lock_path(recipe, lock.target)
    try:
        old = load_lock(path)
        before = path.read_bytes()
    except (BundleError, OSError):  # missing or damaged: written anew
        old, before = None, b""
    known = {item.name: item for item in old.packages} if old is not None else {}
    lock = replace(lock, packages=tuple(_learn(item, known.get(item.name)) for item in lock.packages))
    now = {item.name: item for item in lock.packages}
    return LockChange(
        target=lock.target,
        path=path,
        lock=lock,
        added=tuple(item for name, item in now.items() if name not in known),
        removed=tuple(item for name, item in known.items() if name not in now),
        changed=tuple(
            (known[name], item) for name, item in now.items() if name in known and known[name].sha256 != item.sha256
        ),
        written=lock.dump() != before,
    )


def _old_wheels(recipe: Recipe) -> list[LockedWheel]:
    """Return what the locks as they are say about wheels that no index serves; damaged locks say nothing."""
    found: list[LockedWheel] = []
    for target in recipe.targets:
        with contextlib.suppress(BundleError):
            packages = load_lock(lock_path(recipe, target.target)).packages
            found += [item for item in packages if item.url or item.vcs is not None]
    return found


def _learn(wheel: LockedWheel, old: LockedWheel | None) -> LockedWheel:
    """Keep the size and time an earlier index gave for the same file, so that a mirror without them changes nothing."""
    if old is None or old.sha256 != wheel.sha256:
        return wheel
    size = old.size if old.size is not None else wheel.size
    return replace(wheel, size=size, upload_time=old.upload_time or wheel.upload_time)


def _write(path: Path, data: bytes) -> None:
    """Replace the lock in one step: an interrupted write must not leave half of one."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            stream.write(data)
        temporary = Path(stream.name)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise HostError(f"Cannot write lock `{path}`: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
