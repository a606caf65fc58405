"""Index pins: a distribution comes from one named index, nothing else does, and no address stands in recipe or lock."""

from __future__ import annotations

import hashlib
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.pylock import Pylock

from mr_bundler.lock.export import export_pylock
from mr_bundler.lock.lock import check_locks
from mr_bundler.lock.resolve import lock_recipe, resolve_exactly
from mr_bundler.recipe.recipe import SITE_PACKAGES, Recipe, load_recipe
from mr_bundler.wheels.uv import install_wheels
from mr_core.errors import IntegrityError, InvalidInputError
from mr_core.platform import Target
from support.dated_index import DatedIndex
from support.recipe_files import RECIPE, edit, write_recipe, write_wheel

LINUX = Target.parse("linux/amd64+cpu")


@pytest.fixture
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A public index, and a private one that also has another build of everything."""
    public, private = tmp_path / "public", tmp_path / "private"
    write_wheel(public, "tiny-server", "1.5", requires=("tiny-words",))
    write_wheel(public, "tiny-words", "3")
    write_wheel(public, "tiny-kernels", "2.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    write_wheel(private, "tiny-server", "9")
    write_wheel(private, "tiny-words", "3+private", requires=("tiny-deep",))
    write_wheel(private, "tiny-deep", "1+private")
    write_wheel(private, "tiny-unrelated", "1", requires=("tiny-deep",))
    write_wheel(public, "tiny-deep", "2")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for name in ("UV_INDEX", "UV_CONFIG_FILE", "UV_FIND_LINKS", "UV_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    times = defaultdict(lambda: "2026-01-01T00:00:00Z")
    with DatedIndex(public, times) as one, DatedIndex(private, times) as other:
        monkeypatch.setenv("UV_DEFAULT_INDEX", one.url)
        yield {"private": other.url, "public": one.url}


def pinned(directory: Path, pins: str = 'tiny-words = "private"', text: str = RECIPE) -> Recipe:
    return load_recipe(
        write_recipe(
            directory, edit(text, '[[targets]]\ntarget = "linux', f'[lock.index]\n{pins}\n[[targets]]\ntarget = "linux')
        )
    )


def by_variable(address: str, _directory: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("UV_INDEX", f"private={address}")


def by_user(address: str, directory: Path, _patch: pytest.MonkeyPatch) -> None:
    (directory / "xdg/uv").mkdir(parents=True)
    (directory / "xdg/uv/uv.toml").write_text(f'[[index]]\nname = "private"\nurl = "{address}"\nexplicit = true\n')


def by_file(address: str, directory: Path, patch: pytest.MonkeyPatch) -> None:
    place = directory / "my.toml"
    place.write_text(f'[[index]]\nname = "private"\nurl = "{address}"\nexplicit = true\n')
    patch.setenv("UV_CONFIG_FILE", str(place))


@pytest.mark.parametrize("configure", [by_variable, by_user, by_file])
def test_only_what_is_pinned_comes_from_there(
    indexes: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    python312: Path,
    configure: Callable[[str, Path, pytest.MonkeyPatch], None],
) -> None:
    configure(indexes["private"], tmp_path, monkeypatch)
    recipe = pinned(tmp_path / "tiny")
    (change,) = lock_recipe(recipe, targets=[LINUX])
    found = {wheel.name: (wheel.version, wheel.index) for wheel in change.lock.packages}
    assert found == {
        "tiny-deep": ("2", ""),
        "tiny-kernels": ("2.0", ""),
        "tiny-server": ("1.5", ""),
        "tiny-words": ("3+private", "private"),
    }
    text = change.path.read_text()
    assert 'index = "private"' in text
    assert str(tmp_path) not in text
    assert indexes["private"] not in text
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh"))
    install_wheels(change.lock, prefix=tmp_path / "tree", python=python312)
    assert (tmp_path / "tree" / SITE_PACKAGES / "tiny_words/__init__.py").read_text() == '__version__ = "3+private"\n'
    exported = export_pylock(change.lock, resolve_exactly(change.lock))
    private, public = (indexes[name].removesuffix("/simple") for name in ("private", "public"))
    assert f"{private}/files/tiny_words-3+private" in exported
    assert f"{public}/files/tiny_deep-2" in exported
    Pylock.from_dict(tomllib.loads(exported)).validate()
    again = lock_recipe(recipe, targets=[LINUX])
    assert [item.written for item in again] == [False]


def test_a_pin_requires_nothing(indexes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins of what turns out not to be needed, also by each other, bring nothing in."""
    by_variable(indexes["private"], tmp_path, monkeypatch)
    recipe = pinned(tmp_path / "tiny", 'tiny-unrelated = "private"\ntiny-deep = "private"')
    (change,) = lock_recipe(recipe, targets=[LINUX])
    assert [wheel.name for wheel in change.lock.packages] == ["tiny-kernels", "tiny-server", "tiny-words"]


def test_a_direct_requirement_is_pinned(
    indexes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_variable(indexes["private"], tmp_path, monkeypatch)
    recipe = pinned(tmp_path / "tiny", 'Tiny_Server = "private"')
    (change,) = lock_recipe(recipe, targets=[LINUX])
    assert change.lock.version == "9"


def test_another_file_of_the_pinned_index_stops(
    indexes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python312: Path
) -> None:
    by_variable(indexes["private"], tmp_path, monkeypatch)
    (change,) = lock_recipe(pinned(tmp_path / "tiny"), targets=[LINUX])
    write_wheel(tmp_path / "private", "tiny-words", "3+private", files={"tiny_words/evil.py": ""})
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh"))
    with pytest.raises(IntegrityError, match="tiny-words"):
        install_wheels(change.lock, prefix=tmp_path / "tree", python=python312)


@pytest.mark.usefixtures("indexes")
def test_an_index_that_is_not_configured(tmp_path: Path, mr_bundle: Callable[..., Any]) -> None:
    recipe = pinned(tmp_path / "tiny")
    ran = mr_bundle("lock", recipe.directory)
    assert ran.status == 3
    assert "Cannot find the index `private`, to which the recipe pins distributions" in ran.err
    assert 'hint: set `UV_INDEX="private=ADDRESS"`, or add `[[index]]`' in ran.err
    assert list(recipe.directory.glob("*.lock.toml")) == []


@pytest.mark.usefixtures("indexes")
def test_damaged_configuration_is_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = pinned(tmp_path / "tiny")
    (place := tmp_path / "bad.toml").write_text("[[index")
    monkeypatch.setenv("UV_CONFIG_FILE", str(place))
    monkeypatch.setenv("UV_INDEX", "file:///no/name")
    with pytest.raises(InvalidInputError, match="Cannot find the index `private`"):
        lock_recipe(recipe)


def test_a_changed_pin_makes_the_lock_stale(
    indexes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_variable(indexes["private"], tmp_path, monkeypatch)
    text = RECIPE.partition('[[targets]]\ntarget = "darwin')[0] + "[slim]" + RECIPE.partition("[slim]")[2]
    recipe = pinned(tmp_path / "tiny", text=text)
    lock_recipe(recipe)
    assert len(check_locks(recipe)) == 1
    with pytest.raises(InvalidInputError, match="stale"):
        check_locks(load_recipe(write_recipe(recipe.directory, text)))


@pytest.mark.usefixtures("indexes")
def test_constraints_overrides_and_metadata(tmp_path: Path) -> None:
    text = edit(RECIPE, 'requirements = ["Tiny_Server>=1"]', (
        'requirements = ["Tiny_Server>=1"]\nconstraints = ["tiny-deep<2", "absent>=3"]\n'
        'overrides = ["tiny-kernels; python_version < \'3\'"]'
    ))  # fmt: skip
    text = edit(
        text, "[slim]", '[[lock.metadata]]\nname = "tiny-words"\nversion = "3"\nrequires-dist = ["tiny-deep"]\n[slim]'
    )
    sha256 = write_wheel(tmp_path / "public", "tiny-deep", "1.9")
    (change,) = lock_recipe(load_recipe(write_recipe(tmp_path / "tiny", text)), targets=[LINUX])
    assert [f"{wheel.name} {wheel.version}" for wheel in change.lock.packages] == [
        "tiny-deep 1.9",
        "tiny-server 1.5",
        "tiny-words 3",
    ]
    assert change.lock.packages[0].sha256 == sha256
    assert hashlib.sha256((tmp_path / "public/tiny_deep-1.9-py3-none-any.whl").read_bytes()).hexdigest() == sha256
