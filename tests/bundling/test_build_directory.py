"""Private directories of builds that share one cache: each removes its own, and only what killed builds left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mr_bundler.build import build_bundle
from mr_bundler.environment import tree as environment
from mr_bundler.environment.tree import build_directory
from mr_bundler.result import BuildOptions
from mr_core.durable import remove_tree
from mr_core.errors import BuildError, HostError
from support.building import HERE, SERVER, Builder


def fill(place: Path, files: int = 60) -> None:
    for number in range(files):
        path = place / f"backend/{number % 7}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_builds_that_start_and_end_together(tmp_path: Path) -> None:
    def work(_: int) -> None:
        for _ in range(15):
            with build_directory(tmp_path) as place:
                fill(place)
                assert place.is_dir()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(tmp_path.iterdir()) == []


def test_a_failing_build_during_a_sweep_tells_why_it_failed(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        for _ in range(15):
            with pytest.raises(BuildError, match="the reason"), build_directory(tmp_path) as place:
                fill(place)
                raise BuildError("the reason")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fail, range(4)))
    assert list(tmp_path.iterdir()) == []


def test_the_tree_goes_while_the_lock_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep in the middle of a removal keeps off."""
    removed: list[Path] = []

    def remove(path: Path) -> None:
        removed.append(path)
        if len(removed) == 1:
            with build_directory(tmp_path) as other:
                assert path.is_dir()
            assert removed == [path, other]
        remove_tree(path)

    monkeypatch.setattr(environment, "remove_tree", remove)
    with build_directory(tmp_path) as place:
        fill(place)
    assert list(tmp_path.iterdir()) == []


def test_cleaning_up_never_hides_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise HostError(f"Cannot remove `{path}`: no such file")

    monkeypatch.setattr(environment, "remove_tree", refuse)
    with pytest.raises(BuildError, match="the reason"), build_directory(tmp_path):
        raise BuildError("the reason")
    with pytest.raises(HostError), build_directory(tmp_path) as second:  # its sweep fails, and that is not its trouble
        assert second.is_dir()


def test_two_builds_in_one_cache(builder: Builder, tmp_path: Path) -> None:
    recipe = builder.recipe()
    lock = builder.lock(recipe, [SERVER])

    def build(name: str) -> str:
        options = BuildOptions(
            layout=tmp_path / name, cache=builder.cache, use_cache=False, python_from=builder.python, jobs=1
        )
        return str(build_bundle(recipe, HERE, lock, options=options).digest)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(build, ["one", "two"])
    assert first == second
    assert not list((builder.cache / "tmp").iterdir())
