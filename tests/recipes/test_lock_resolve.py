from __future__ import annotations

import os
import sys
import threading
import tomllib
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.pylock import Pylock

from mr_bundler.lock.lock import check_locks, current_lock, load_lock, lock_path
from mr_bundler.lock.resolve import lock_recipe, read_pylock
from mr_bundler.recipe.recipe import Recipe, load_recipe
from mr_bundler.wheels import uv_process
from mr_core.errors import (
    AccessDeniedError,
    BundleError,
    CancelledError,
    HostError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from mr_core.events import Cancel, Event, Output, PhaseFinished
from mr_core.platform import Target
from support.need import missing
from support.recipe_files import RECIPE, edit, write_recipe

LINUX = Target.parse("linux/amd64+cpu")
DARWIN = Target.parse("darwin/arm64+metal")
TEXT = edit(RECIPE, 'macos = "14.0"', 'macos = "14.0"\nrequirements = ["tiny-metal"]')


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path / "tiny", TEXT))


@pytest.mark.usefixtures("wheels_only")
def test_lock_chooses_the_best_wheel_for_each_target(recipe: Recipe, wheelhouse: Path) -> None:
    events: list[Event] = []
    linux, darwin = lock_recipe(recipe, report=events.append)
    assert [item.file for item in linux.lock.packages] == [
        "tiny_kernels-2.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "tiny_server-1.5-py3-none-any.whl",
        "tiny_words-3-py3-none-any.whl",
    ]
    assert [item.file for item in darwin.lock.packages] == [
        "tiny_metal-2.0-cp312-cp312-macosx_14_0_arm64.whl",
        "tiny_server-1.5-py3-none-any.whl",
        "tiny_words-3-py3-none-any.whl",
    ]
    assert linux.lock.version == "1.5"
    assert linux.written
    assert linux.added == linux.lock.packages
    assert check_locks(recipe) == {LINUX: linux.lock, DARWIN: darwin.lock}
    text = linux.path.read_text()
    assert str(wheelhouse) not in text
    assert "file:" not in text
    assert isinstance(events[-1], PhaseFinished)
    assert events[-1].detail == {"written": 2}
    assert any(isinstance(event, Output) and "Resolved" in event.line for event in events)


@pytest.mark.usefixtures("wheels_only")
def test_locking_again_changes_nothing(recipe: Recipe) -> None:
    lock_recipe(recipe)
    path = lock_path(recipe, LINUX)
    before = path.stat()
    again = lock_recipe(recipe)
    assert [change.written for change in again] == [False, False]
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert after.st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.usefixtures("wheels_only")
def test_a_change_is_told(recipe: Recipe) -> None:
    lock_recipe(recipe)
    changed = load_recipe(
        write_recipe(recipe.directory, edit(edit(TEXT, "Tiny_Server>=1", "tiny-server<1.5"), '"tiny-kernels"', ""))
    )
    (linux,) = lock_recipe(changed, targets=[LINUX], dry_run=True)
    assert [item.name for item in linux.removed] == ["tiny-kernels"]
    assert [(old.version, new.version) for old, new in linux.changed] == [("1.5", "1.4")]
    assert linux.added == ()
    assert linux.written
    with pytest.raises(InvalidInputError, match="stale"):
        current_lock(changed, LINUX)
    lock_recipe(changed, targets=[LINUX])
    assert current_lock(changed, LINUX).version == "1.4"


@pytest.mark.usefixtures("wheels_only")
def test_a_damaged_lock_is_written_anew_and_sizes_are_kept(recipe: Recipe) -> None:
    path = lock_path(recipe, LINUX)
    path.write_text("damaged")
    (change,) = lock_recipe(recipe, targets=[LINUX])
    assert change.written
    *others, words = change.lock.packages
    assert words.name == "tiny-words"
    path.write_bytes(replace(change.lock, packages=(*others, replace(words, size=7))).dump())
    (change,) = lock_recipe(recipe, targets=[LINUX])
    assert not change.written
    assert [item.size for item in load_lock(path).packages] == [None, None, 7]


@pytest.mark.usefixtures("wheels_only")
def test_no_solution_is_explained_and_nothing_is_written(recipe: Recipe) -> None:
    bad = load_recipe(write_recipe(recipe.directory, edit(TEXT, '"tiny-metal"', '"tiny-metal>2"')))
    with pytest.raises(InvalidInputError) as caught:
        lock_recipe(bad)
    assert caught.value.message.startswith("Cannot lock `darwin/arm64+metal`: No solution found when resolving")
    assert "tiny-metal" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert list(recipe.directory.glob("*.lock.toml")) == []


@pytest.mark.usefixtures("wheels_only")
def test_every_target_without_a_solution_is_named(recipe: Recipe) -> None:
    bad = load_recipe(write_recipe(recipe.directory, edit(TEXT, "Tiny_Server>=1", "tiny-server>=9")))
    with pytest.raises(InvalidInputError) as caught:
        lock_recipe(bad)
    assert "Cannot lock `linux/amd64+cpu`" in caught.value.message
    assert "Cannot lock `darwin/arm64+metal`" in caught.value.message


def test_an_index_that_does_not_answer(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://someone:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(UnavailableError) as caught:
        lock_recipe(recipe, targets=[LINUX])
    assert "secret" not in caught.value.message
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (404, InvalidInputError),
        (429, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_an_index_that_refuses(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, expected: type[BundleError]
) -> None:
    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.server_port}/simple")
        try:
            with pytest.raises(expected):
                lock_recipe(recipe, targets=[LINUX])
        finally:
            server.shutdown()
            thread.join()


def test_an_unknown_target_starts_nothing(recipe: Recipe) -> None:
    with pytest.raises(NotFoundError):
        lock_recipe(recipe, targets=[Target.parse("linux/arm64+cpu")])


@pytest.mark.usefixtures("wheels_only")
def test_the_project_around_and_the_environment_do_not_decide(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (around := tmp_path / "project").mkdir()
    (around / "pyproject.toml").write_text('[tool.uv]\nconstraint-dependencies = ["tiny-server<1.5"]\n')
    monkeypatch.chdir(around)
    for name, value in {"UV_CONSTRAINT": "x.txt", "UV_RESOLUTION": "lowest", "UV_EXCLUDE_NEWER": "2020-01-01"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "12.0")
    linux, darwin = lock_recipe(recipe)
    assert linux.lock.version == "1.5"
    assert darwin.lock.packages[0].file == "tiny_metal-2.0-cp312-cp312-macosx_14_0_arm64.whl"


@pytest.mark.usefixtures("wheels_only")
def test_a_relative_place_for_wheels_means_the_callers_directory(
    recipe: Recipe, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(wheelhouse.parent)
    monkeypatch.setenv("UV_FIND_LINKS", wheelhouse.name)
    assert lock_recipe(recipe, targets=[LINUX])[0].lock.version == "1.5"


def test_cancel(recipe: Recipe) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        lock_recipe(recipe, cancel=cancel)
    assert list(recipe.directory.glob("*.lock.toml")) == []


def test_no_uv(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    uv_process.find_uv.cache_clear()
    try:
        with pytest.raises(HostError, match="Cannot find uv: it is not installed") as caught:
            lock_recipe(recipe)
        assert 'pip install "mr-backends[build]"' in caught.value.hint
        (old := tmp_path / "uv").write_text("#!/bin/sh\necho uv 0.4.30\n")
        old.chmod(0o755)
        with pytest.raises(HostError, match=r"uv 0\.4\.30 is older than 0\.11\.15"):
            lock_recipe(recipe)
    finally:
        uv_process.find_uv.cache_clear()


PYLOCK = """\
[[packages]]
name = "Tiny_Words"
version = "3"
wheels = [
    { url = "https://example.org/a/tiny_words-3%2Bcpu-py3-none-any.whl", hashes = { sha256 = "HASH" } },
    { path = "x/tiny_words-3-cp312-cp312-win_amd64.whl", hashes = { sha256 = "HASH" } },
]
""".replace("HASH", "ab" * 32)


def test_read_pylock(recipe: Recipe) -> None:
    (wheel,) = read_pylock(PYLOCK.encode(), recipe.targets[0])
    assert (wheel.name, wheel.file, wheel.url) == ("tiny-words", "tiny_words-3+cpu-py3-none-any.whl", "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("py3-none-any", "cp313-cp313-win_amd64", r"packages\[0\]: `tiny-words` has no wheel for this target"),
        (f'{{ sha256 = "{"ab" * 32}" }} }},\n    {{ path', "{} },\n    { path", r"sha256: required string is missing"),
    ],
)
def test_read_pylock_refuses(recipe: Recipe, old: str, new: str, expected: str) -> None:
    with pytest.raises(InvalidInputError, match=expected):
        read_pylock(edit(PYLOCK, old, new).encode(), recipe.targets[0])


def test_a_real_index(tmp_path: Path) -> None:
    """One pure distribution from the index that is configured on this machine."""
    text = edit(RECIPE, "Tiny_Server>=1", "typing-extensions>=4.12")
    text = edit(edit(text, "tiny-server", "typing-extensions"), '"tiny-kernels"', "")
    recipe = load_recipe(write_recipe(tmp_path, edit(text, "2026-11-20T00:00:00Z", "2024-06-30T00:00:00Z")))
    try:
        changes = lock_recipe(recipe)
    except UnavailableError as error:
        missing(f"a package index ({error})")
    except BundleError as error:
        pytest.fail(f"{error}")
    for change in changes:
        (wheel,) = change.lock.packages
        assert (wheel.file, wheel.sha256) == (
            "typing_extensions-4.12.2-py3-none-any.whl",
            "04e5ca0351e0f3f85c6853954072df659d0d13fac324d0072316b67d7794700d",
        )
        assert wheel.upload_time.startswith("2024-06-07T")


@pytest.mark.usefixtures("wheels_only")
def test_the_command_shows_what_changed(recipe: Recipe, mr_bundle: Callable[..., Any]) -> None:
    directory = recipe.directory
    path = lock_path(recipe, LINUX)
    ran = mr_bundle("lock", directory, "--dry-run", "--target", LINUX)
    assert f"linux/amd64+cpu: 1.5, 3 distributions, would change ({path})\n  + tiny-kernels 2.0" in ran.out
    assert not path.exists()
    assert mr_bundle("lock", directory, "--check").status == 3
    assert mr_bundle("lock", directory).status == 0
    assert mr_bundle("lock", directory, "--check").status == 0
    first = load_lock(path).packages[0]
    path.write_bytes(replace(load_lock(path), packages=(replace(first, size=1_000_000),)).dump())
    row = mr_bundle("lock", directory, "--dry-run", "--json", "--target", LINUX).result["locks"][0]
    assert row["bytes"] == 1_000_000
    assert row["unknown_sizes"] == 2
    assert row["added"] == ["tiny-server 1.5", "tiny-words 3"]
    assert (row["stale"], row["written"], row["pending"], row["version"]) == (True, False, [], "1.5")
    ran = mr_bundle("lock", directory, "--target", LINUX, "--target", LINUX)
    assert ran.out.startswith("linux/amd64+cpu: 1.5, 3 distributions of 1.0 MB and 2 of unknown size, written (")
    assert ran.out.count("linux/amd64+cpu") == 1


@pytest.mark.usefixtures("wheels_only")
def test_the_command_exports_both_forms(recipe: Recipe, mr_bundle: Callable[..., Any], tmp_path: Path) -> None:
    mr_bundle("lock", recipe.directory)
    plain = mr_bundle("export-lock", recipe.directory, "--target", LINUX)
    assert plain.out.startswith("tiny-kernels==2.0 --hash=sha256:")
    ran = mr_bundle("export-lock", recipe.directory, "--target", LINUX, "--format", "pylock")
    (tmp_path / "pylock.toml").write_text(ran.out)
    document = tomllib.loads(ran.out)
    Pylock.from_dict(document).validate()
    assert [package["name"] for package in document["packages"]] == ["tiny-kernels", "tiny-server", "tiny-words"]
    assert document["packages"][0]["wheels"][0]["name"].endswith("manylinux_2_28_x86_64.whl")
    assert mr_bundle("export-lock", recipe.directory, "--target", LINUX, "--format", "x").status == 2
