from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.lock.lock import Lock
from mr_bundler.lock.resolve import lock_recipe
from mr_bundler.recipe.recipe import SITE_PACKAGES, load_recipe
from mr_bundler.wheels.uv import install_wheels
from mr_core.errors import BuildError, CancelledError, IntegrityError, InvalidInputError, UnavailableError
from mr_core.events import Cancel, Event, PhaseFinished
from support.recipe_files import RECIPE, edit, write_index, write_recipe, write_wheel

TEXT = edit(RECIPE, 'macos = "14.0"', 'macos = "14.0"\nrequirements = ["tiny-metal"]')


@pytest.fixture
def locks(tmp_path: Path, wheels_only: Path) -> dict[str, Lock]:
    recipe = load_recipe(write_recipe(tmp_path / "tiny", TEXT))
    return {change.target.platform.os: change.lock for change in lock_recipe(recipe)}


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_exactly_the_locked_files(locks: dict[str, Lock], tmp_path: Path, python312: Path) -> None:
    prefix = tmp_path / "tree"
    (prefix / SITE_PACKAGES).mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/python3.12").write_text("stays")
    events: list[Event] = []
    install_wheels(locks["linux"], prefix=prefix, python=python312, report=events.append)
    site = prefix / SITE_PACKAGES
    assert (site / "tiny_kernels/tag.txt").read_text() == "manylinux_2_28_x86_64"
    assert (site / "tiny_server/app.py").read_text() == "x = 1\n"
    assert sorted(path.name for path in site.glob("*.dist-info")) == [
        "tiny_kernels-2.0.dist-info",
        "tiny_server-1.5.dist-info",
        "tiny_words-3.dist-info",
    ]
    assert sorted(path.name for path in prefix.iterdir()) == ["bin", "lib"], "uv's .lock stays behind"
    assert (prefix / "bin/python3.12").read_text() == "stays"
    assert not list(prefix.rglob("__pycache__"))
    assert isinstance(events[-1], PhaseFinished)
    assert events[-1].detail["wheels"] == 3


def test_another_platform(locks: dict[str, Lock], tmp_path: Path, python312: Path) -> None:
    install_wheels(locks["darwin"], prefix=tmp_path / "tree", python=python312)
    assert (tmp_path / "tree" / SITE_PACKAGES / "tiny_metal/tag.txt").read_text() == "macosx_14_0_arm64"


def test_the_digest_decides_not_the_best_tag(
    locks: dict[str, Lock], wheelhouse: Path, tmp_path: Path, python312: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index may gain a better wheel of a locked version later."""
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.setenv("UV_DEFAULT_INDEX", write_index(wheelhouse, tmp_path / "index"))
    file = "tiny_kernels-2.0-cp312-cp312-manylinux_2_17_x86_64.whl"
    sha256 = hashlib.sha256((wheelhouse / file).read_bytes()).hexdigest()
    kernels, *others = locks["linux"].packages
    lock = replace(locks["linux"], packages=(replace(kernels, file=file, sha256=sha256), *others))
    install_wheels(lock, prefix=tmp_path / "tree", python=python312)
    assert (tmp_path / "tree" / SITE_PACKAGES / "tiny_kernels/tag.txt").read_text() == "manylinux_2_17_x86_64"


def test_wrong_sha256_stops(locks: dict[str, Lock], tmp_path: Path, python312: Path) -> None:
    kernels, server, words = locks["linux"].packages
    lock = replace(locks["linux"], packages=(kernels, replace(server, sha256="00" * 32), words))
    with pytest.raises(IntegrityError, match=r"`tiny-server==1\.5` differs from its sha256 in the lock") as caught:
        install_wheels(lock, prefix=tmp_path / "tree", python=python312)
    assert caught.value.exit_code == 6
    assert not list((tmp_path / "tree").rglob("*.dist-info"))


def test_a_file_replaced_on_the_index_stops(
    locks: dict[str, Lock], wheelhouse: Path, tmp_path: Path, python312: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(wheelhouse, other)
    write_wheel(other, "tiny-words", "3", files={"tiny_words/evil.py": ""})
    monkeypatch.setenv("UV_FIND_LINKS", str(other))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh"))
    with pytest.raises(IntegrityError, match="tiny-words==3"):
        install_wheels(locks["linux"], prefix=tmp_path / "tree", python=python312)


def test_a_version_no_index_serves_any_more(locks: dict[str, Lock], tmp_path: Path, python312: Path) -> None:
    *others, words = locks["linux"].packages
    lock = replace(locks["linux"], packages=(*others, replace(words, version="4")))
    with pytest.raises(InvalidInputError, match=r"tiny-words==4"):
        install_wheels(lock, prefix=tmp_path / "tree", python=python312)


def test_no_network_and_no_cache(
    locks: dict[str, Lock], tmp_path: Path, python312: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_FIND_LINKS", "UV_NO_INDEX"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(UnavailableError) as caught:
        install_wheels(locks["linux"], prefix=tmp_path / "tree", python=python312)
    assert caught.value.retryable


def test_edits_of_a_tree_never_reach_the_cache(
    locks: dict[str, Lock], tmp_path: Path, python312: Path, wheels_only: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    install_wheels(locks["linux"], prefix=first, python=python312)
    cached, wanted = digests(wheels_only), digests(first / SITE_PACKAGES)
    assert cached
    for path in first.rglob("*"):
        if path.is_file():
            assert path.stat().st_nlink == 1
            path.write_text("edited in place")
    install_wheels(locks["linux"], prefix=second, python=python312)
    assert digests(second / SITE_PACKAGES) == wanted
    assert {name: cached[name] for name in cached if name.endswith(".py")} == {
        name: digest for name, digest in digests(wheels_only).items() if name.endswith(".py")
    }


def test_leftovers_are_found(locks: dict[str, Lock], tmp_path: Path, python312: Path) -> None:
    stray = tmp_path / "tree" / SITE_PACKAGES / "stray-9.dist-info"
    stray.mkdir(parents=True)
    (stray / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 9\n")
    with pytest.raises(BuildError, match="`stray` 9 is not in the lock"):
        install_wheels(locks["linux"], prefix=tmp_path / "tree", python=python312)


def test_cancel(locks: dict[str, Lock], tmp_path: Path, python312: Path) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        install_wheels(locks["linux"], prefix=tmp_path / "tree", python=python312, cancel=cancel)
