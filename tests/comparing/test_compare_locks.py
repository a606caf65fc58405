"""What differs between two locks, and the lines people read about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.compare.files import compare_files
from mr_bundler.compare.locks import compare_compositions, compose_lock, flatten
from mr_bundler.lock.lock import Lock, LockedWheel, inputs_digest, lock_path, platform_floor
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.recipe.recipe import Recipe, load_recipe
from mr_core.file_manifest import FileEntry, LinkEntry
from mr_core.platform import Target
from support.command import Ran
from support.recipe_files import write_recipe

LINUX = Target.parse("linux/amd64+cpu")


def wheel(name: str, version: str, sha256: str = "a", size: int | None = None) -> LockedWheel:
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return LockedWheel(name=name, version=version, file=file, sha256=sha256 * 64, size=size)


def make_lock(recipe: Recipe, *wheels: LockedWheel) -> Lock:
    item = recipe.target(LINUX)
    return Lock(
        backend=recipe.backend,
        version=next(wheel.version for wheel in wheels if wheel.name == "tiny-server"),
        target=LINUX,
        requires=platform_floor(item.requires),
        exclude_newer=recipe.exclude_newer,
        python=pin_for(recipe.python.version, recipe.python.build, LINUX.platform),
        packages=tuple(sorted(wheels, key=lambda wheel: wheel.name)),
        inputs=inputs_digest(recipe, item),
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path / "tiny"))


@pytest.fixture
def locks(recipe: Recipe) -> tuple[Lock, Lock]:
    old = make_lock(recipe, wheel("tiny-server", "1.9", size=10), wheel("gone", "1", size=7), wheel("other", "2"))
    new = make_lock(recipe, wheel("tiny-server", "1.10", size=12), wheel("fresh", "3"), wheel("other", "2", "b"))
    return old, replace(new, exclude_newer="2026-11-21T00:00:00Z")


def test_everything_that_differs_is_found(locks: tuple[Lock, Lock]) -> None:
    found = compare_compositions(*map(compose_lock, locks))
    assert [(change.name, change.direction, change.old, change.new) for change in found.distributions] == [
        ("fresh", "added", "", "3"),
        ("gone", "removed", "1", ""),
        ("other", "file", "2", "2"),
        ("tiny-server", "newer", "1.9", "1.10"),
    ]
    assert [(change.name, change.old, change.new) for change in found.fields] == [
        ("version", "1.9", "1.10"),
        ("exclude-newer", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"),
    ]
    back = compare_compositions(*map(compose_lock, reversed(locks)))
    assert next(change.direction for change in back.distributions if change.name == "tiny-server") == "older"
    assert compare_compositions(compose_lock(locks[0]), compose_lock(locks[0])).is_empty


def test_diff_of_lock_files_and_recipes(
    mr_bundle: Callable[..., Ran], recipe: Recipe, locks: tuple[Lock, Lock], tmp_path: Path
) -> None:
    old = tmp_path / "old.lock.toml"
    old.write_bytes(locks[0].dump())
    lock_path(recipe, LINUX).write_bytes(locks[1].dump())
    ran = mr_bundle("diff", old, recipe.directory, "--target", LINUX)
    assert ran.status == 0, ran.errors
    assert ran.output.splitlines() == [
        f"--- {old}",
        f"+++ {recipe.directory}",
        "  version: 1.9 -> 1.10",
        "  exclude-newer: 2026-11-20T00:00:00Z -> 2026-11-21T00:00:00Z",
        "distributions",
        "  + fresh 3",
        "  - gone 1 (7 B)",
        "  ~ other 2: other-2-py3-none-any.whl -> other-2-py3-none-any.whl",
        "  ~ tiny-server 1.9 -> 1.10 (10 B -> 12 B)",
    ]
    told = mr_bundle("diff", old, lock_path(recipe, LINUX), "--json", "--check")
    assert told.status == 3
    assert told.outcome["different"] is True
    assert [item["name"] for item in told.outcome["distributions"]] == ["fresh", "gone", "other", "tiny-server"]
    same = mr_bundle("diff", old, old, "--check")
    assert (same.status, same.output) == (0, "no difference\n")
    assert mr_bundle("diff", old, recipe.directory / "recipe.toml", "--target", LINUX).status == 0


def test_bad_sides(mr_bundle: Callable[..., Ran], recipe: Recipe, locks: tuple[Lock, Lock], tmp_path: Path) -> None:
    old = tmp_path / "old.lock.toml"
    old.write_bytes(locks[0].dump())
    for arguments, status, text in (
        ((old, tmp_path / "none.lock.toml"), 4, "none.lock.toml"),
        ((old, recipe.directory, "--target", "linux/arm64+cpu"), 4, "linux/amd64+cpu"),
        ((old, recipe.directory, "--target", LINUX), 4, "mr-bundle lock"),
        ((old, recipe.directory, "--target", "beos"), 2, "--target"),
        ((old, tmp_path / "nothing"), 2, "nothing"),
        ((old,), 2, "B"),
    ):
        ran = mr_bundle("diff", *arguments)
        assert ran.status == status, ran.errors
        assert text in ran.errors
    old.write_bytes(old.read_bytes().replace(b'"1.9"', b'"1.8"'))
    assert mr_bundle("diff", old, old).status == 3


def test_compare_files() -> None:
    def file(path: str, sha256: str = "a", mode: int = 0o644, size: int = 3) -> FileEntry:
        return FileEntry(path=path, mode=mode, size=size, sha256=sha256 * 64)

    first = [file("same"), file("bytes"), file("mode"), file("gone"), LinkEntry(path="link", link="a"), file("type")]
    second = [
        *(file("same"), file("bytes", "b"), file("mode", mode=0o755), file("added")),
        *(LinkEntry(path="link", link="b"), LinkEntry(path="type", link="same")),
    ]
    found = compare_files({entry.path: entry for entry in first}, {entry.path: entry for entry in second})
    assert {change.path: change.kind for change in found} == {
        "added": "added",
        "bytes": "bytes",
        "gone": "removed",
        "link": "link",
        "mode": "mode",
        "type": "type",
    }
    assert [change.path for change in found] == sorted(change.path for change in found)
    mode = next(change for change in found if change.kind == "mode")
    assert (mode.old, mode.new) == (
        "3 bytes, sha256 aaaaaaaaaaaa…, mode 644",
        "3 bytes, sha256 aaaaaaaaaaaa…, mode 755",
    )


def test_flatten() -> None:
    assert flatten("a", {"c": [1, 2], "b": {"d": True}}) == {"a.b.d": "True", "a.c": "1, 2"}
    assert flatten("", {"x": {"y": "z"}}) == {"x.y": "z"}
