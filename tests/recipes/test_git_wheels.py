"""Git commits built to wheels, from real repositories on this disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mr_bundler.lock.lock import VcsPin, check_locks, load_lock, lock_path
from mr_bundler.lock.resolve import lock_recipe
from mr_bundler.recipe.recipe import SITE_PACKAGES, load_recipe
from mr_bundler.wheels.git import Commit, build_commit
from mr_bundler.wheels.provide import provide_wheels
from mr_bundler.wheels.uv import install_wheels
from mr_core.errors import (
    BuildError,
    BundleError,
    CancelledError,
    HostError,
    IntegrityError,
    InternalError,
    NotFoundError,
    UnavailableError,
)
from mr_core.events import Cancel, Notice
from mr_core.platform import Target
from support.need import missing, need
from support.recipe_files import RECIPE, edit, write_recipe

LINUX = Target.parse("linux/amd64+cpu")
TIME = 1_700_000_000
NEWER = "2026-11-20T00:00:00Z"
FILE = "tiny_made-3.1-py3-none-any.whl"
BACKEND = '''
"""A build backend without requirements; it says what it sees."""
import os, time, zipfile
INFO = "tiny_made-3.1.dist-info"
def build_wheel(directory, config_settings=None, metadata_directory=None):
    files = {
        "tiny_made/__init__.py": open("made.py").read(),
        "tiny_made/umask.txt": oct(os.umask(0o22)),
        "tiny_made/version.txt": os.environ["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_TINY_MADE"],
        "tiny_made/variables.txt": "\\n".join(sorted(name for name in os.environ if "TELLTALE" in name)),
        f"{INFO}/METADATA": "Metadata-Version: 2.1\\nName: tiny-made\\nVersion: 3.1\\nRequires-Dist: tiny-words\\n",
        f"{INFO}/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    record = "".join(f"{name},,\\n" for name in (*files, f"{INFO}/RECORD"))
    moment = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
    with zipfile.ZipFile(os.path.join(directory, "tiny_made-3.1-py3-none-any.whl"), "w") as wheel:
        for name, text in {**files, f"{INFO}/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(name, moment), text)
    return "tiny_made-3.1-py3-none-any.whl"
'''
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def git(directory: Path, *words: str) -> str:
    environ = {
        **os.environ,
        "GIT_AUTHOR_DATE": f"{TIME} +0000",
        "GIT_COMMITTER_DATE": f"{TIME} +0000",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    command = [need("git"), *settings, *words]
    return subprocess.run(
        command, cwd=directory, env=environ, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(place: Path, files: dict[str, str]) -> str:
    """Make a repository and return its only commit."""
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    git(place, "init", "-q")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "x")
    return git(place, "rev-parse", "HEAD")


@pytest.fixture
def made(tmp_path: Path) -> Commit:
    files = {"made.py": "made = 1\n", "backend.py": BACKEND, "pyproject.toml": PROJECT}
    files[".gitattributes"] = "*.py filter=mark\n"
    place = tmp_path / "repository"
    place.mkdir()
    commit = repository(place, files)
    (place / "made.py").write_text("made = 2\n")
    git(place, "commit", "-q", "-a", "-m", "later")
    return Commit(url=place.as_uri(), commit=commit, subdirectory="", name="tiny-made", version="3.1", file=FILE)


def built(commit: Commit, directory: Path, **options: Any) -> bytes:
    directory.mkdir(parents=True)
    return build_commit(commit, directory, exclude_newer=NEWER, **options).read_bytes()


def test_two_builds_give_equal_bytes(made: Commit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(made, tmp_path / "one")
    old = os.umask(0o077)
    for name in ("PYTHONPATH", "GIT_DIR", "UV_TELLTALE", "PYTHONTELLTALE"):
        monkeypatch.setenv(name, str(tmp_path))
    try:
        second = built(made, tmp_path / "another/directory with a longer name")
    finally:
        os.umask(old)
    assert first == second
    with zipfile.ZipFile(tmp_path / "one/out" / FILE) as wheel:
        assert wheel.read("tiny_made/__init__.py") == b"made = 1\n", "the commit, not the branch"
        assert wheel.read("tiny_made/umask.txt") == b"0o22"
        assert wheel.read("tiny_made/version.txt") == b"3.1"
        assert wheel.read("tiny_made/variables.txt") == b""
        assert wheel.getinfo("tiny_made/__init__.py").date_time == (2023, 11, 14, 22, 13, 20)


def test_only_one_commit_is_fetched(made: Commit, tmp_path: Path) -> None:
    built(made, tmp_path / "one")
    assert git(tmp_path / "one/source", "rev-list", "--all", "HEAD") == made.commit


def test_a_subdirectory(tmp_path: Path) -> None:
    (place := tmp_path / "repository").mkdir()
    files = {f"python/made/{name}": text for name, text in {"made.py": "", "backend.py": BACKEND}.items()}
    commit = repository(place, {**files, "python/made/pyproject.toml": PROJECT})
    item = Commit(
        url=place.as_uri(), commit=commit, subdirectory="python/made", name="tiny-made", version="3.1", file=FILE
    )
    assert built(item, tmp_path / "one")
    with pytest.raises(NotFoundError, match="has no directory `python/other`"):
        built(replace(item, subdirectory="python/other"), tmp_path / "two")


def test_a_subdirectory_that_is_a_link_out_of_it(tmp_path: Path) -> None:
    (place := tmp_path / "repository").mkdir()
    (place / "out").symlink_to(tmp_path)
    commit = repository(place, {"x": ""})
    item = Commit(url=place.as_uri(), commit=commit, subdirectory="out", name="tiny-made", version="3.1", file=FILE)
    with pytest.raises(NotFoundError, match="has no directory `out`"):
        built(item, tmp_path / "one")


def test_nothing_of_the_repository_or_the_user_runs(
    made: Commit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hook, no filter of the user, no submodule, no line endings of this machine."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    expected = built(made, tmp_path / "one")
    configuration = tmp_path / "gitconfig"
    configuration.write_text(
        f"[core]\nhooksPath = {hooks}\nautocrlf = true\nfsmonitor = {hooks}/post-checkout\n"
        f"[init]\ntemplateDir = {hooks}\n"
        f'[filter "mark"]\nrequired = true\nsmudge = touch {tmp_path}/ran; sed s/1/2/\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    assert built(made, tmp_path / "two") == expected
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"commit": "0" * 40}, NotFoundError, "not our ref"),
        ({"url": "file:///nothing/is/here"}, NotFoundError, "does not"),
        ({"url": "https://127.0.0.1:9/x.git"}, UnavailableError, "Cannot fetch"),
        ({"url": "ext::sh -c touch% ran"}, UnavailableError, "not allowed"),
        ({"url": "--upload-pack=touch ran"}, BundleError, "Cannot fetch"),
        (
            {"file": "tiny_made-3.2-py3-none-any.whl"},
            BuildError,
            "expected `tiny_made-3.2-py3-none-any.whl`, found `tiny_m",
        ),
    ],
)
def test_what_cannot_be_built(
    made: Commit, tmp_path: Path, change: dict[str, str], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        built(replace(made, **change), tmp_path / "one")
    assert "Traceback" not in str(caught.value)
    assert not list(tmp_path.rglob("ran"))


def test_a_project_that_does_not_build(tmp_path: Path) -> None:
    (place := tmp_path / "repository").mkdir()
    commit = repository(
        place, {"backend.py": "def build_wheel(*_): raise ValueError('on purpose')", "pyproject.toml": PROJECT}
    )
    item = Commit(url=place.as_uri(), commit=commit, subdirectory="", name="tiny-made", version="3.1", file=FILE)
    with pytest.raises(BuildError, match=r"Cannot build `tiny-made` from [0-9a-f]{40}: .*on purpose") as caught:
        built(item, tmp_path / "one")
    assert caught.value.exit_code == 10


def test_no_git_and_cancel(made: Commit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        built(made, tmp_path / "one", cancel=cancel)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="Cannot find git: it is not installed"):
        built(made, tmp_path / "two")


def test_cancelling_a_build_does_not_wait_for_what_it_started(tmp_path: Path) -> None:
    """The backend is a grandchild of uv's caller, and what it starts a step further away."""
    (place := tmp_path / "repository").mkdir()
    number = tmp_path / "number"
    code = (
        f"import os, subprocess\nchild = subprocess.Popen(['sleep', '60'])\nopen({str(number)!r}, 'w')"
        ".write(str(child.pid))\nprint('backend waits', flush=True)\n"
        "def build_wheel(*_): child.wait()\n"
    )
    commit = repository(place, {"backend.py": code, "pyproject.toml": PROJECT})
    item = Commit(url=place.as_uri(), commit=commit, subdirectory="", name="tiny-made", version="3.1", file=FILE)
    cancel = Cancel()
    watch = threading.Thread(target=_set_when, args=(number, cancel))
    watch.start()
    begin = time.monotonic()
    with pytest.raises(CancelledError):
        built(item, tmp_path / "one", cancel=cancel)
    watch.join()
    assert time.monotonic() - begin < 40
    assert not psutil.pid_exists(int(number.read_text())) or (
        psutil.Process(int(number.read_text())).status() == psutil.STATUS_ZOMBIE
    )


def _set_when(number: Path, cancel: Cancel) -> None:
    for _ in range(300):
        if number.exists() and number.read_text():
            break
        time.sleep(0.1)
    cancel.set()


SETUPTOOLS = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "tiny-made"
"""


def test_a_real_backend_is_reproducible(tmp_path: Path) -> None:
    """setuptools from the index that is configured here, as of a date: other directories, other umask, equal bytes."""
    (place := tmp_path / "repository").mkdir()
    text = f'{SETUPTOOLS}version = "3.1"\n[tool.uv]\nno-index = true\n'
    commit = repository(place, {"pyproject.toml": text, "tiny_made/__init__.py": "", "tiny_made/run.sh": "#!/bin/sh\n"})
    item = Commit(url=place.as_uri(), commit=commit, subdirectory="", name="tiny-made", version="3.1", file=FILE)
    (tmp_path / "a").mkdir()
    (tmp_path / "longer name").mkdir()
    old = os.umask(0o022)
    try:
        one = build_commit(item, tmp_path / "a", exclude_newer="2024-06-30T00:00:00Z").read_bytes()
        os.umask(0o077)
        two = build_commit(item, tmp_path / "longer name", exclude_newer="2024-06-30T00:00:00Z").read_bytes()
    except UnavailableError as error:
        missing(f"a package index ({error})")
    finally:
        os.umask(old)
    assert one == two
    with zipfile.ZipFile(tmp_path / "a/out" / FILE) as wheel:
        assert b"Generator: setuptools (70." in wheel.read("tiny_made-3.1.dist-info/WHEEL"), "setuptools of 2024"


def recipe_text(made: Commit, *, sha: str = "pending", metadata: bool = True) -> str:
    given = f'[[lock.git]]\nname = "tiny-made"\nversion = "3.1"\nurl = "{made.url}"\n'
    given += f'commit = "{made.commit}"\nsha256 = "{sha}"\n'
    if metadata:
        given += '[[lock.metadata]]\nname = "tiny-made"\nversion = "3.1"\nrequires-dist = ["tiny-words"]\n'
    return edit(RECIPE, "[slim]", f"{given}[slim]")


@pytest.mark.usefixtures("wheels_only")
@pytest.mark.parametrize("metadata", [True, False])
def test_a_commit_is_locked_built_and_installed(
    made: Commit, tmp_path: Path, python312: Path, mr_bundle: Callable[..., Any], metadata: bool
) -> None:
    directory = write_recipe(tmp_path / "tiny", recipe_text(made, metadata=metadata))
    recipe = load_recipe(directory)
    assert mr_bundle("lock", directory, "--require-complete").status == 0
    for lock in check_locks(recipe).values():
        item = next(item for item in lock.packages if item.name == "tiny-made")
        assert item.vcs == VcsPin(url=made.url, commit=made.commit)
        assert (item.url, item.pending, item.file) == ("", False, FILE)
    assert [row["stale"] for row in mr_bundle("lock", directory, "--json").result["locks"]] == [False, False]
    lock = load_lock(lock_path(recipe, LINUX))
    with pytest.raises(InternalError, match="built from a git commit"):
        install_wheels(lock, prefix=tmp_path / "none", python=python312)
    local = provide_wheels(lock, cache=tmp_path / "elsewhere")
    assert hashlib.sha256(local["tiny-made"].read_bytes()).hexdigest() == item.sha256
    (tmp_path / "repository").rename(tmp_path / "gone")
    assert provide_wheels(lock, cache=tmp_path / "elsewhere") == local, "the cache answers"
    install_wheels(lock, prefix=tmp_path / "tree", python=python312, local=local)
    assert (tmp_path / "tree" / SITE_PACKAGES / "tiny_made/__init__.py").read_text() == "made = 1\n"
    assert not list((tmp_path / "elsewhere").rglob(".ingest-*"))


@pytest.mark.usefixtures("wheels_only")
def test_a_commit_that_builds_to_other_bytes_is_refused(made: Commit, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny", recipe_text(made, sha="0" * 64)))
    (change,) = lock_recipe(recipe, targets=[LINUX])
    with pytest.raises(IntegrityError, match=f"built from {made.commit}: its digest is sha256:") as caught:
        provide_wheels(change.lock, cache=tmp_path / "c")
    assert "tools of this build" in caught.value.hint
    assert not [path for path in (tmp_path / "c").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("wheels_only")
def test_a_commit_that_cannot_be_reached_stays_pending(made: Commit, tmp_path: Path) -> None:
    text = recipe_text(replace(made, url="https://127.0.0.1:9/x.git"))
    events: list[Any] = []
    (change,) = lock_recipe(load_recipe(write_recipe(tmp_path / "tiny", text)), targets=[LINUX], report=events.append)
    assert [wheel.name for wheel in change.lock.pending] == ["tiny-made"]
    assert [event.code for event in events if isinstance(event, Notice)] == ["wheel-pending"]
