"""``mr-bundle outdated``: what a newer index would change, asked of a real index that knows upload times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mr_bundler.compare.outdated import parse_as_of, relax
from mr_core.errors import InvalidInputError
from support.command import Ran
from support.dated_index import DatedIndex
from support.recipe_files import RECIPE, edit, write_recipe, write_wheel

UPLOADED = {
    "tiny_server-1.4-py3-none-any.whl": "2026-11-01T00:00:00Z",
    "tiny_server-1.5-py3-none-any.whl": "2026-11-22T00:00:00Z",
    "tiny_server-2.0-py3-none-any.whl": "2026-11-23T00:00:00Z",
    "tiny_words-3-py3-none-any.whl": "2026-11-01T00:00:00Z",
    "tiny_words-4-py3-none-any.whl": "2026-11-21T00:00:00Z",
    "tiny_kernels-2.0-py3-none-any.whl": "2026-11-01T00:00:00Z",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None) -> Iterator[DatedIndex]:
    house = tmp_path / "wheelhouse"
    for file in UPLOADED:
        stem, version, _ = file.split("-", 2)
        name = stem.replace("_", "-")
        requires = ("tiny-words",) if name == "tiny-server" and version != "2.0" else ()
        write_wheel(house, name, version, requires=requires)
    with DatedIndex(house, UPLOADED) as running:
        monkeypatch.setenv("UV_DEFAULT_INDEX", running.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
        yield running


def locked_recipe(mr_bundle: Callable[..., Ran], place: Path, text: str = RECIPE) -> Path:
    recipe = write_recipe(place, text)
    ran = mr_bundle("lock", recipe)
    assert ran.status == 0, ran.errors
    return recipe


@pytest.mark.usefixtures("index")
def test_what_a_newer_index_would_change(mr_bundle: Callable[..., Ran], tmp_path: Path) -> None:
    recipe = locked_recipe(mr_bundle, tmp_path / "tiny", edit(RECIPE, "Tiny_Server>=1", "tiny-server>=1,<2"))
    before = {path.name: path.read_bytes() for path in recipe.iterdir()}
    ran = mr_bundle("outdated", recipe, "--as-of", "2026-11-24", "--json")
    assert ran.status == 0, ran.output
    found = ran.outcome
    assert found["outdated"] is True
    assert found["python"] == "not checked"
    assert [row["target"] for row in found["targets"]] == ["linux/amd64+cpu", "darwin/arm64+metal"]
    for row in found["targets"]:
        assert [(item["name"], item["old"], item["new"], item["direction"]) for item in row["changes"]] == [
            ("tiny-server", "1.4", "1.5", "newer"),
            ("tiny-words", "3", "4", "newer"),
        ]
        assert [(item["requirement"], item["locked"], item["newest"]) for item in row["held_back"]] == [
            ("tiny-server<2,>=1", "1.4", "2.0")
        ]
        assert (row["locked_as_of"], row["as_of"]) == ("2026-11-20T00:00:00Z", "2026-11-24T00:00:00Z")
    assert {path.name: path.read_bytes() for path in recipe.iterdir()} == before
    shown = mr_bundle("outdated", recipe, "--as-of", "2026-11-24", "--target", "linux/amd64+cpu")
    assert "~ tiny-words 3 -> 4" in shown.output
    assert "`tiny-server<2,>=1` holds back 2.0" in shown.output
    assert "set `exclude-newer = 2026-11-24T00:00:00Z`" in shown.output
    assert "darwin" not in shown.output


@pytest.mark.usefixtures("index")
def test_a_day_decides_and_check_gives_a_status(mr_bundle: Callable[..., Ran], tmp_path: Path) -> None:
    recipe = locked_recipe(mr_bundle, tmp_path / "tiny")
    same = mr_bundle("outdated", recipe, "--as-of", "2026-11-20T12:00:00Z", "--check")
    assert same.status == 0
    assert "up to date" in same.output
    one = mr_bundle("outdated", recipe, "--as-of", "2026-11-21T06:00:00+02:00", "--check", "--json")
    assert one.status == 3
    assert one.outcome["event"] == "result"
    assert [item["name"] for item in one.outcome["targets"][0]["changes"]] == ["tiny-words"]


@pytest.mark.usefixtures("index")
def test_a_pin_is_named_and_a_version_from_a_table_works(mr_bundle: Callable[..., Ran], tmp_path: Path) -> None:
    text = edit(RECIPE, '"Tiny_Server>=1"', '"tiny-server=={server}"')
    text = edit(text, "[lock]\n", '[versions]\nserver = "1.4"\n\n[lock]\nconstraints = ["tiny-words<4"]\n')
    recipe = locked_recipe(mr_bundle, tmp_path / "tiny", text)
    (row, _) = mr_bundle("outdated", recipe, "--as-of", "2026-11-22T12:00:00Z", "--json").outcome["targets"]
    assert row["changes"] == []
    assert {item["requirement"]: item["newest"] for item in row["held_back"]} == {
        "tiny-server==1.4": "1.5",
        "tiny-words<4": "4",
    }
    assert row["outdated"] is True


def test_an_index_that_does_not_answer(
    mr_bundle: Callable[..., Ran], index: DatedIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = locked_recipe(mr_bundle, tmp_path / "tiny")
    nobody = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    ran = mr_bundle("outdated", recipe, UV_CACHE_DIR=str(tmp_path / "empty"), **nobody)
    assert ran.status == 7, ran.errors
    assert "hint: " in ran.errors


def test_wrong_arguments(mr_bundle: Callable[..., Ran], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny")
    assert mr_bundle("outdated", recipe, "--as-of", "yesterday").status == 2
    assert mr_bundle("outdated", recipe, "--as-of", "2026-11-20T00:00:00").status == 2
    ran = mr_bundle("outdated", recipe, "--json")
    assert (ran.status, ran.outcome["code"]) == (3, "invalid-input")
    assert "is not locked" in ran.outcome["message"]
    assert json.loads(ran.output.splitlines()[-1])["hint"] == "run `mr-bundle lock`"
    assert mr_bundle("outdated", tmp_path / "none").status == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mlx-lm==0.32.2", "mlx-lm>=0.32.2"),
        ("mlx[cpu]", "mlx[cpu]"),
        ("mlx[cpu]==1.*", "mlx[cpu]>=1"),
        ("vllm==0.27.1+cpu", "vllm>=0.27.1"),
        ("apache-tvm-ffi>=0.1.9,<0.1.13", "apache-tvm-ffi>=0.1.9"),
        ("x~=1.4", "x>=1.4"),
        ("x!=2,<=3", "x!=2"),
        ("x>=2", "x>=2"),
        ("x @ https://example.org/x-1-py3-none-any.whl", "x @ https://example.org/x-1-py3-none-any.whl"),
    ],
)
def test_relax(text: str, expected: str) -> None:
    assert relax(text) == expected


def test_parse_as_of() -> None:
    assert parse_as_of("2026-11-20") == "2026-11-20T00:00:00Z"
    assert parse_as_of("2026-11-20T02:00:00+02:00") == "2026-11-20T00:00:00Z"
    for text in ("", "20 November", "2026-13-01", "2026-11-20T00:00:00", "0001-01-01T00:00:00+23:00"):
        with pytest.raises(InvalidInputError):
            parse_as_of(text)
