"""What the cache holds, and removing what nobody uses, never under the hands of a build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mr_bundler.cache import BuildCache
from mr_bundler.cache_usage import KINDS, prune_cache, read_cache, sum_usage
from mr_bundler.cli.main import main
from mr_bundler.environment.tree import build_directory
from mr_core.errors import HostError
from mr_core.events import Event, PhaseStarted
from support.building import SERVER, Builder

pytestmark = pytest.mark.xdist_group("test_cache_command")

DAY = 86_400


@pytest.fixture
def filled(builder: Builder, tmp_path: Path, shared_cache: Path) -> Builder:
    """A builder with a cache of its own, after one build."""
    builder.build()
    shutil.copytree(shared_cache / "interpreters", tmp_path / "cache/interpreters", symlinks=True)
    filled = replace(builder, cache=tmp_path / "cache")
    filled.build()
    return filled


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from mr_bundler.cli import run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "cache", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def age(directory: Path, days: float) -> None:
    then = time.time() - days * DAY
    for top, _, names in os.walk(directory):
        for place in (top, *(f"{top}/{name}" for name in names)):
            if not os.path.islink(place):
                os.utime(place, (then, then))


def test_what_it_holds(filled: Builder) -> None:
    ran = run("--cache", filled.cache, "--json")
    value = json.loads(ran.stdout.splitlines()[-1])
    kinds = {kind["kind"]: kind for kind in value["kinds"]}
    assert list(kinds) == list(KINDS)
    assert {name for name, kind in kinds.items() if kind["entries"]} == {"interpreters", "parts", "layers", "builds"}
    assert kinds["parts"]["entries"] == 2
    assert kinds["builds"]["entries"] == 1
    blobs = sum(place.stat().st_size for place in (filled.cache / "blobs/sha256").iterdir())
    assert blobs < kinds["layers"]["bytes"] < blobs + 500_000
    assert value["bytes"] == sum(kind["bytes"] for kind in kinds.values())
    text = run("--cache", filled.cache).stdout
    assert f"{filled.cache} holds" in text
    assert all(name in text for name in KINDS)
    assert run("--cache", filled.cache / "nowhere").returncode == 0


def test_only_what_is_old_goes(filled: Builder) -> None:
    age(filled.cache, 40)
    again = filled.build()
    assert again.skipped, "which touches the record of the build, the interpreter and the blobs of its layers"
    would = run("prune", "--cache", filled.cache, "--older-than", "30d", "--dry-run", "--json")
    value = json.loads(would.stdout.splitlines()[-1])
    going = {kind["kind"]: kind["entries"] for kind in value["kinds"] if kind["entries"]}
    assert going["parts"] == 2
    assert set(going) <= {"parts", "interpreters"}, "interpreters of other tests, at most"
    before = {entry.paths for entry in read_cache(filled.cache) if entry.used > time.time() - DAY}
    assert len(before) > 4
    ran = run("prune", "--cache", filled.cache, "--older-than", "30d")
    assert ran.returncode == 0
    assert "parts" in ran.stdout
    assert {entry.paths for entry in read_cache(filled.cache)} == before
    assert filled.build().skipped


def test_all_of_it(filled: Builder) -> None:
    first = filled.build()
    (filled.cache / "tmp/mr-build-left").mkdir()
    assert run("prune", "--cache", filled.cache, "--all").returncode == 0
    assert read_cache(filled.cache) == ()
    shutil.rmtree(filled.layout)
    assert filled.build().digest == first.digest


def test_a_damaged_record_is_no_obstacle(filled: Builder) -> None:
    for place in (filled.cache / "layers").iterdir():
        place.write_bytes(b"damaged")
    kinds = {kind.kind: kind for kind in sum_usage(read_cache(filled.cache))}
    assert kinds["layers"].entries == 2 * len(list((filled.cache / "layers").iterdir()))
    assert len(prune_cache(filled.cache, before=time.time() + 60)) > 3
    assert read_cache(filled.cache) == ()


def test_not_while_a_build_runs(filled: Builder) -> None:
    refused: list[str] = []

    def report(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "pack":
            with pytest.raises(HostError) as caught:
                prune_cache(filled.cache, before=float("inf"))
            refused.append(caught.value.message)

    filled.build(replace(SERVER, version="2.0"), report=report)
    assert refused == ["Cannot change the cache: another process is working on it"]
    with BuildCache(filled.cache).in_use():
        pass
    assert prune_cache(filled.cache, before=float("inf"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune",),
        ("prune", "--all", "--older-than", "3d"),
        ("prune", "--older-than", "soon"),
        ("show", "--all"),
        ("x",),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ran = run(*arguments, "--cache", tmp_path)
    assert ran.returncode == 2
    assert "Error" in ran.stderr or "hint:" in ran.stderr


def test_what_other_commands_work_in_stays(tmp_path: Path) -> None:
    """Audits and rebuilds lock their scratch directory, not the cache; whatever its age, it stays."""
    with build_directory(tmp_path / "tmp") as place:
        (place / "tree").mkdir()
        writing = tmp_path / "wheels/.ingest-now"
        writing.mkdir(parents=True)
        left = tmp_path / "wheels/.ingest-left"
        left.mkdir()
        killed = tmp_path / "tmp/mr-build-killed"
        killed.mkdir()
        (killed / ".lock").touch()
        age(left, 2)
        removed = prune_cache(tmp_path, before=float("inf"))
        assert {entry.paths[0] for entry in removed} == {left, killed}
        assert (place / "tree").is_dir()
        assert writing.is_dir()
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("command", ["audit", "build", "cache", "lock", "rebuild"])
def test_help_says_where_the_cache_is_by_default(command: str) -> None:
    shown = CliRunner().invoke(main, [command, "--help"]).output
    assert "[default: $MR_CACHE, else ~/.cache/mr-bundle]" in " ".join(shown.split())
