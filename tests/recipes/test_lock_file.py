from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.pylock import Pylock

from mr_bundler.lock.export import export_pylock, export_requirements
from mr_bundler.lock.lock import (
    Lock,
    LockedWheel,
    VcsPin,
    check_locks,
    current_lock,
    inputs_digest,
    load_lock,
    lock_path,
    parse_lock,
    platform_floor,
)
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.recipe.recipe import Recipe, load_recipe
from mr_core.bundle_config import HostRequirements
from mr_core.errors import InvalidInputError, NotFoundError, UnsupportedError
from mr_core.platform import Target
from support.recipe_files import RECIPE, edit, write_recipe

LINUX = Target.parse("linux/amd64+cpu")
DARWIN = Target.parse("darwin/arm64+metal")
ONE = LockedWheel(
    name="tiny-kernels",
    version="2.0",
    file="tiny_kernels-2.0-cp312-cp312-manylinux_2_28_x86_64.whl",
    sha256="ab" * 32,
    size=1234,
    upload_time="2026-10-01T00:00:00Z",
)
TWO = LockedWheel(name="tiny-server", version="1.5", file="tiny_server-1.5-py3-none-any.whl", sha256="cd" * 32)
LOCK = Lock(
    backend="tiny",
    version="1.5",
    target=LINUX,
    requires=HostRequirements(glibc="2.35"),
    exclude_newer="2026-11-20T00:00:00Z",
    python=pin_for("3.12.14", "20260814", LINUX.platform),
    packages=(ONE, TWO),
    inputs=f"sha256:{'0' * 64}",
)
TEXT = LOCK.dump().decode()


def test_the_text_of_a_lock() -> None:
    assert TEXT.startswith("# Written by `mr-bundle lock`")
    assert TEXT.endswith(
        '[[packages]]\nname = "tiny-kernels"\nversion = "2.0"\n'
        'wheels = [{ name = "tiny_kernels-2.0-cp312-cp312-manylinux_2_28_x86_64.whl", '
        f'upload-time = 2026-10-01T00:00:00Z, size = 1234, hashes = {{ sha256 = "{"ab" * 32}" }} }}]\n'
        '\n[[packages]]\nname = "tiny-server"\nversion = "1.5"\n'
        'wheels = [{ name = "tiny_server-1.5-py3-none-any.whl", '
        f'hashes = {{ sha256 = "{"cd" * 32}" }} }}]\n'
    )
    assert parse_lock(TEXT.encode()) == LOCK


BAD = {
    "short sha256": ("cd" * 32, "cd" * 31, "packages[1].wheels[0].hashes.sha256: `cdcd"),
    "upper-case sha256": ("cd" * 32, "CD" * 32, "packages[1].wheels[0].hashes.sha256: `CDCD"),
    "no sha256": (f'sha256 = "{"cd" * 32}"', "", "packages[1].wheels[0].hashes.sha256: required string is missing"),
    "other digest": (
        f'sha256 = "{"cd" * 32}"',
        'md5 = "00"',
        "packages[1].wheels[0].hashes.md5: unknown field; known here: sha256",
    ),
    "no hashes": (f', hashes = {{ sha256 = "{"cd" * 32}" }}', "", "packages[1].wheels[0].hashes: required table is"),
    "twice": ('name = "tiny-server"', 'name = "tiny-kernels"', "packages[1].name: `tiny-kernels` is listed twice"),
    "other name": (
        "tiny_server-1.5-py3",
        "other-1.5-py3",
        "packages[1].wheels[0].name: `other-1.5-py3-none-any.whl` is",
    ),
    "other version": ('"2.0"', '"2.1"', "packages[0].wheels[0].name: `tiny_kernels-2.0-cp312"),
    "no version": ('version = "2.0"\n', "", "packages[0].version: required string is missing"),
    "bad version": ('"2.0"', '"two"', "packages[0].wheels[0]: `two` is not a version"),
    "not normal": ('name = "tiny-server"', 'name = "Tiny.Server"', "packages[1].name: `Tiny.Server` does not match"),
    "glibc too new": ("manylinux_2_28", "manylinux_2_39", "does not install on `linux/amd64+cpu` with glibc 2.35"),
    "architecture": ("2_28_x86_64", "2_28_aarch64", "packages[0].wheels[0].name: `tiny_kernels-2.0-cp312"),
    "sdist": (
        "tiny_server-1.5-py3-none-any.whl",
        "tiny-server-1.5.tar.gz",
        "packages[1].wheels[0].name: Invalid wheel",
    ),
    "path": ('"tiny_server-1.5-py3', '"../tiny_server-1.5-py3', "packages[1].wheels[0].name: "),
    "size": ("size = 1234", "size = -1", "packages[0].wheels[0].size: -1 is not between"),
    "time": ("2026-10-01T00:00:00Z", "2026-10-01", "packages[0].wheels[0].upload-time: expected a date and time"),
    "unknown field": ('version = "2.0"', 'version = "2.0"\nx = 1', "packages[0].x: unknown field"),
    "unknown wheel field": ("size = 1234", "bytes = 1234", "packages[0].wheels[0].bytes: unknown field"),
    "unknown top field": ('backend = "tiny"', 'backend = "tiny"\nx = 1', "x: unknown field"),
    "address": ("size = 1234", 'url = "ftp://x"', "packages[0].wheels[0].url: the address must begin with"),
    "target": ('"linux/amd64+cpu"', '"linux"', "target: Cannot read target"),
    "no floor": ('glibc = "2.35"\n', "", "glibc: required string is missing"),
    "wrong floor": ('glibc = "2.35"', 'glibc = "2.35"\nmacos = "14.0"', "macos: unknown field"),
    "inputs": (f"sha256:{'0' * 64}", "sha256:00", "inputs: Cannot read inputs"),
    "no content": (f'content = "{LOCK.content}"\n', "", "content: required value is missing"),
    "python": ('build = "20260814"', "build = 20260814", "python.build: expected a string, found a number"),
    "python sha256": (LOCK.python.sha256, "00", "python.hashes.sha256: `00` does not match"),
    "no time": ("exclude-newer = 2026-11-20T00:00:00Z\n", "", "exclude-newer: required value is missing"),
    "cut": ("[python]", "[python", "Expected ']'"),
    "not text": ('"tiny"', '"tiny\\u0000"', "backend: "),
}


@pytest.mark.parametrize(("old", "new", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_lock_names_the_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "x.lock.toml"
    path.write_text(edit(TEXT, old, new))
    with pytest.raises(InvalidInputError) as caught:
        load_lock(path)
    assert expected in caught.value.message
    assert caught.value.exit_code == 3
    assert str(path) in caught.value.message
    assert "mr-bundle lock" in caught.value.hint


def test_two_wheels_of_one_distribution() -> None:
    document = edit(TEXT, 'wheels = [{ name = "tiny_server', 'wheels = [{ name = "a" }, { name = "tiny_server')
    with pytest.raises(InvalidInputError, match=r"packages\[1\]\.wheels: expected one wheel, found 2"):
        parse_lock(document.encode())


def test_a_version_may_be_spelled_in_two_ways() -> None:
    lock = replace(LOCK, packages=(replace(ONE, version="2"), TWO))
    assert parse_lock(lock.dump()).packages[0].version == "2"


_SECOND = TEXT.rpartition("\n[[packages]]")[1] + TEXT.rpartition("\n[[packages]]")[2]
CHANGED = {
    "package removed": (_SECOND, ""),
    "other file": ("ab" * 32, "ba" * 32),
    "other size": ("size = 1234", "size = 1235"),
    "other Python": (LOCK.python.sha256, "0" * 64),
    "digest": (LOCK.content, f"sha256:{'0' * 64}"),
}


@pytest.mark.parametrize(("old", "new"), CHANGED.values(), ids=CHANGED.keys())
def test_a_lock_changed_by_hand_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "x.lock.toml"
    path.write_text(edit(TEXT, old, new))
    with pytest.raises(InvalidInputError, match="it was changed after it was written") as caught:
        load_lock(path)
    assert str(path) in caught.value.message
    assert "mr-bundle lock" in caught.value.hint
    path.write_text(edit(TEXT, "[python]\n", "# words of a reviewer\n[python]\n"))
    assert load_lock(path) == LOCK


def test_newer_format_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="format 2 is newer"):
        parse_lock(edit(TEXT, "format = 1", "format = 2").encode())
    with pytest.raises(NotFoundError):
        load_lock(tmp_path / "absent")
    with pytest.raises(InvalidInputError, match=r"not UTF-8 text \(at line 2\)"):
        parse_lock(b"\n\xff")


NAMES = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,6}){0,2}", fullmatch=True)
TIMES = st.sampled_from(["", "1999-12-31T23:59:59Z", "2026-11-18T11:06:54Z"])
VERSIONS = st.sampled_from(["0", "1.2.3", "2026.11.15", "1!2.0", "1.0rc1", "1.0.post3", "2.9.0+cpu", "0.3.0.dev2026"])
TAGS = st.sampled_from(["py3-none-any", "cp312-cp312-manylinux_2_35_x86_64", "cp38-abi3-manylinux2014_x86_64"])

SOURCES: list[dict[str, Any]] = [
    {},
    {"index": "private"},
    {"url": "https://example.org/a%2Bb.whl"},
    {"url": "file:///a/b'c.whl"},
    {"vcs": VcsPin(url="https://example.org/x.git", commit="0f" * 20)},
    {"vcs": VcsPin(url="file:///x", commit="0f" * 20, subdirectory="a/b")},
]


@st.composite
def wheels(draw: st.DrawFn) -> LockedWheel:
    name, version = draw(NAMES), draw(VERSIONS)
    source = draw(st.sampled_from(SOURCES))
    pending = bool(source) and "index" not in source and draw(st.booleans())
    return LockedWheel(
        name=name,
        version=version,
        file=f"{name.replace('-', '_')}-{version}-{draw(TAGS)}.whl",
        sha256="" if pending else draw(st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
        size=draw(st.none() | st.integers(0, 1 << 40)),
        upload_time=draw(TIMES),
        pending=pending,
        **source,
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(wheels(), min_size=1, max_size=6, unique_by=lambda wheel: wheel.name))
def test_dump_and_load_give_the_same_lock(packages: list[LockedWheel]) -> None:
    lock = replace(LOCK, packages=tuple(sorted(packages, key=lambda wheel: wheel.name)))
    data = lock.dump()
    assert parse_lock(data) == lock
    assert parse_lock(data).dump() == data
    assert len(tomllib.loads(data.decode()).get("packages", [])) == len(packages)
    lines = [line for line in data.decode().splitlines() if line.startswith("wheels")]
    assert len(lines) == len(packages)


def test_export_requirements() -> None:
    assert export_requirements(LOCK) == (
        f"tiny-kernels==2.0 --hash=sha256:{'ab' * 32}\ntiny-server==1.5 --hash=sha256:{'cd' * 32}\n"
    )


def test_export_what_no_index_serves() -> None:
    url = "https://example.org/tiny_server-1.5-py3-none-any.whl"
    given = replace(TWO, url=url)
    made = replace(ONE, vcs=VcsPin(url="https://example.org/x", commit="0f" * 20, subdirectory="y"))
    assert export_requirements(replace(LOCK, packages=(made, given))) == (
        f"tiny-kernels==2.0 --hash=sha256:{'ab' * 32}\ntiny-server @ {url} --hash=sha256:{'cd' * 32}\n"
    )
    document = tomllib.loads(export_pylock(replace(LOCK, packages=(made, given)), b""))
    Pylock.from_dict(document).validate()
    kernels, server = document["packages"]
    assert kernels["vcs"] == {
        "type": "git",
        "url": "https://example.org/x",
        "commit-id": "0f" * 20,
        "subdirectory": "y",
    }
    assert server["wheels"] == [{"name": TWO.file, "url": url, "hashes": {"sha256": "cd" * 32}}]


def test_an_index_that_lost_a_file() -> None:
    with pytest.raises(InvalidInputError, match="the index does not serve `tiny_kernels-2") as caught:
        export_pylock(LOCK, b"")
    assert "--format requirements" in caught.value.hint


@pytest.mark.parametrize("export", [export_requirements, lambda lock: export_pylock(lock, b"")])
def test_a_pending_wheel_is_not_exported(export: Callable[[Lock], str]) -> None:
    lock = replace(LOCK, packages=(replace(TWO, url="https://example.org/x", sha256="", pending=True),))
    with pytest.raises(InvalidInputError, match=r"the sha256 of `tiny-server` 1\.5 is pending"):
        export(lock)


def make_lock(recipe: Recipe, target: Target) -> Lock:
    wanted = recipe.target(target)
    packages = (ONE, TWO) if target == LINUX else (TWO,)
    return replace(
        LOCK,
        target=target,
        requires=platform_floor(wanted.requires),
        python=pin_for("3.12.14", "20260814", target.platform),
        packages=packages,
        inputs=inputs_digest(recipe, wanted),
    )


@pytest.fixture
def locked(tmp_path: Path) -> Recipe:
    recipe = load_recipe(write_recipe(tmp_path / "tiny"))
    for target in recipe.targets:
        lock_path(recipe, target.target).write_bytes(make_lock(recipe, target.target).dump())
    return recipe


def test_a_current_lock(locked: Recipe) -> None:
    assert lock_path(locked, LINUX).name == "linux-amd64+cpu.lock.toml"
    assert set(check_locks(locked)) == {LINUX, DARWIN}
    assert current_lock(locked, LINUX) == make_lock(locked, LINUX)


STALE = {
    "requirement": ('"tiny-kernels"', '"tiny-kernels>1"', {LINUX}),
    "common requirement": ('"Tiny_Server>=1"', '"Tiny_Server>=1.1"', {LINUX, DARWIN}),
    "time": ("2026-11-20T00:00:00Z", "2026-11-20T00:00:01Z", {LINUX, DARWIN}),
    "floor": ('"14.0"', '"15.0"', {DARWIN}),
    "same requirement": ('"Tiny_Server>=1"', '"tiny-server >= 1"', set()),
    "launch": ("stop-grace = 5", "stop-grace = 6", set()),
    "slim": ('"**/tests"', '"**/test"', set()),
    "cpu feature": ('glibc = "2.35"', 'glibc = "2.35"\ncpu-features = ["avx2"]', set()),
}


@pytest.mark.parametrize(("old", "new", "stale"), STALE.values(), ids=STALE.keys())
def test_a_lock_is_stale_when_what_decides_it_changes(locked: Recipe, old: str, new: str, stale: set[Target]) -> None:
    recipe = load_recipe(write_recipe(locked.directory, edit(RECIPE, old, new)))
    for target in recipe.targets:
        if target.target in stale:
            with pytest.raises(InvalidInputError, match="it is stale") as caught:
                current_lock(recipe, target.target)
            assert caught.value.hint == "run `mr-bundle lock`"
        else:
            assert current_lock(recipe, target.target).target == target.target


def test_missing_and_swapped_locks_are_reported_together(locked: Recipe) -> None:
    lock_path(locked, LINUX).write_bytes(lock_path(locked, DARWIN).read_bytes())
    lock_path(locked, DARWIN).unlink()
    with pytest.raises(InvalidInputError) as caught:
        check_locks(locked)
    assert "it is the lock of `tiny` for `darwin/arm64+metal`" in caught.value.message
    assert "`darwin/arm64+metal` is not locked" in caught.value.message
