"""``bin/mr-serve`` itself: found and called in every way people do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mr_shim.trampoline import LAUNCHER
from support.fake_release import make_release
from support.launching import run
from support.need import need
from support.shim_place import Place


def prefix_of(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("fake ")
    return result.stdout


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_it_is_plain_posix_shell(place: Place, shell: str) -> None:
    command = [need(shell), str(place.launcher), "--version"]
    result = subprocess.run(command, env=place.environment, cwd=place.cwd, capture_output=True, text=True, check=False)
    prefix_of(result)


def test_it_runs_in_a_release_and_in_a_backend(place: Place) -> None:
    for launcher in (place.launcher, place.release / "bin/mr-serve"):
        prefix_of(run(launcher, "--version", environment=place.environment, cwd=place.cwd))


@pytest.mark.parametrize("name", ["mr-serve", "serve it ü", "other"])
def test_links_from_elsewhere_are_followed(place: Place, name: str) -> None:
    """Also beside a Python that is not ours, as in ``/usr/local/bin``."""
    bin_directory = place.cwd / "usr bin"
    bin_directory.mkdir()
    (bin_directory / "python3").symlink_to("/bin/false")
    middle = place.cwd / "middle"
    middle.symlink_to(os.path.relpath(place.launcher, place.cwd))
    (bin_directory / name).symlink_to("../middle")
    prefix_of(run(bin_directory / name, "--version", environment=place.environment, cwd=place.cwd))


def test_the_active_release_decides_not_the_one_the_script_lies_in(place: Place) -> None:
    """Between the two renames of an upgrade, ``mr-serve`` may still point to the old release."""
    newer = make_release(place.backend / "releases/1.6-0123456789ab")
    link = place.backend / "bin/python3"
    link.unlink()
    link.symlink_to(f"../releases/{newer.name}/bin/python3.12")
    arguments = ("--model", str(place.model), "--print")
    result = run(place.launcher, *arguments, environment=place.environment, cwd=place.cwd)
    assert f'"{newer}/bin/python3.12"' in result.stdout


def test_it_is_found_through_the_search_path(place: Place) -> None:
    for path, cwd in (
        (str(place.launcher.parent), place.cwd),
        (".", place.launcher.parent),
        ("", place.launcher.parent),
    ):
        environment = {**place.environment, "PATH": f"{path}:/usr/bin:/bin"}
        result = subprocess.run(
            ["/bin/sh", "-c", "mr-serve --version"],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        prefix_of(result)
    here = subprocess.run(
        ["/bin/sh", "mr-serve", "--version"],
        env=place.environment,
        cwd=place.launcher.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    prefix_of(here)


def test_a_moved_backend_still_runs(place: Place) -> None:
    moved = place.cwd / "moved -x"
    shutil.move(place.backend, moved)
    result = run(
        moved / "bin/mr-serve", "--model", str(place.model), "--print", environment=place.environment, cwd=place.cwd
    )
    assert f'"{moved}/releases/{place.release.name}/bin/python3.12"' in result.stdout


def test_a_copy_without_its_release_says_what_is_wrong(place: Place) -> None:
    copied = place.cwd / "mr-serve"
    copied.write_text(LAUNCHER)
    copied.chmod(0o755)
    result = run(copied, "--version", environment=place.environment, cwd=place.cwd)
    assert result.returncode == 4
    assert result.stderr.startswith("error: Cannot start the server: ")
    assert str(copied) in result.stderr
    assert "\nhint: " in result.stderr


def test_it_holds_no_path_of_this_machine() -> None:
    assert LAUNCHER.startswith("#!/bin/sh\n")
    assert LAUNCHER.isascii()
    assert str(Path.home()) not in LAUNCHER
