from __future__ import annotations

from pathlib import Path

import pytest

from mr_bundler.recipe.recipe import PythonChoice, SlimRules, find_recipes, load_recipe
from mr_core.bundle_config import HostRequirements
from mr_core.errors import InvalidInputError, NotFoundError, UnsupportedError
from mr_core.platform import Target
from support.recipe_files import RECIPE, edit, write_recipe

LINUX = Target.parse("linux/amd64+cpu")


def test_a_right_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny"))
    assert recipe.backend == "tiny"
    assert recipe.version_from == "tiny-server"
    assert recipe.python == PythonChoice(version="3.12.14", build="20260814")
    assert recipe.exclude_newer == "2026-11-20T00:00:00Z"
    linux, darwin = recipe.targets
    assert linux.requires == HostRequirements(glibc="2.35")
    assert linux.requirements == ("tiny-kernels", "tiny-server>=1")
    assert darwin.requires == HostRequirements(macos="14.0")
    assert darwin.requirements == ("tiny-server>=1",)
    assert recipe.launch.health_path == "/health"
    assert recipe.launch.stop_grace == 5
    assert recipe.launch.options == {"model": "positional", "chat_template": "--template"}
    assert recipe.launch.unsupported == {"served_model_name": "it has one name"}
    assert recipe.launch.environment == {"TINY_HOME": "x"}
    assert recipe.api == {"health": "/health", "chat_completions": "/v1/chat/completions"}
    assert recipe.probe.timeout == 30
    assert recipe.directory == tmp_path / "tiny"
    assert recipe.target(LINUX) is linux
    assert find_recipes(tmp_path) == [tmp_path / "tiny"]


@pytest.mark.parametrize("text", ["2026-11-20T01:00:00+01:00", '"2026-11-20T00:00:00Z"', "2026-11-19T19:00:00-05:00"])
def test_time_is_one_text(tmp_path: Path, text: str) -> None:
    bad = edit(RECIPE, "2026-11-20T00:00:00Z", text)
    assert load_recipe(write_recipe(tmp_path, bad)).exclude_newer == "2026-11-20T00:00:00Z"


BAD = {
    "unknown table": ("[probe]", "[extra]\nx = 1\n[probe]", "extra: unknown field; known here: api, audit, backend"),
    "unknown backend field": ('license = "MIT"', 'licence = "MIT"', "backend.licence: unknown field"),
    "missing field": ('license = "MIT"\n', "", "backend.license: required value is missing"),
    "bad licence": ('"MIT"', '"Made up"', "backend.license: `Made up` is not an SPDX"),
    "backend name": ('name = "tiny"', 'name = "Tiny!"', "backend.name: `Tiny!` does not match"),
    "homepage": ('"https://example.org/tiny"', '"example.org"', "backend.homepage: `example.org` does not match"),
    "python series": ('"3.12.14"', '"3.13.1"', "python.version: `3.13.1` does not match"),
    "unknown python": ('"20260814"', '"20200101"', "python: Cannot pin Python 3.12.14 build 20200101"),
    "python number": ('version = "3.12.14"', "version = 3.12", "python.version: expected a string, found a number"),
    "local time": ("2026-11-20T00:00:00Z", "2026-11-20T00:00:00", "lock.exclude-newer: expected a date and time with"),
    "relative time": ("2026-11-20T00:00:00Z", '"7 days"', "lock.exclude-newer: expected a date and time with offset"),
    "requirement": ('"Tiny_Server>=1"', '"tiny-server >> 1"', "lock.requirements[0]: `tiny-server >> 1` is not a"),
    "second requirement": (
        '["tiny-kernels"]',
        '["tiny-kernels", "x y"]',
        "targets[0].requirements[1]: `x y` is not a requirement",
    ),
    "requirement kind": ('["tiny-kernels"]', "[7]", "targets[0].requirements[0]: expected a string, found a number"),
    "address": (
        '"tiny-kernels"',
        '"a @ https://example.org/a-1-py3-none-any.whl"',
        "targets[0].requirements[0]: `a` has an address",
    ),
    "marker": (
        '"tiny-kernels"',
        "\"a; sys_platform == 'linux'\"",
        "targets[0].requirements[0]: `a` has a marker; list it under the targets",
    ),
    "version twice": (
        '"tiny-kernels"',
        '"tiny-server==2"',
        "targets[0].requirements: `tiny-server==2` and `tiny-server>=1` both say a version",
    ),
    "version from nothing": (
        'version-from = "tiny-server"',
        'version-from = "other"',
        "targets[1].requirements: `other`, which gives the version, is not among its requirements",
    ),
    "target": ('"linux/amd64+cpu"', '"windows/amd64+cpu"', "targets[0].target: Cannot read target"),
    "target twice": ('"darwin/arm64+metal"\nmacos = "14.0"', '"linux/amd64+cpu"\nglibc = "2.28"', "is listed twice"),
    "no glibc": ('glibc = "2.35"\n', "", "targets[0].glibc: required string is missing"),
    "old glibc": ('"2.35"', '"2.5"', "targets[0].glibc: `2.5` does not match"),
    "macos on linux": ('glibc = "2.35"', 'glibc = "2.35"\nmacos = "14.0"', "targets[0].macos: has no meaning for"),
    "cuda without cuda": ('glibc = "2.35"', 'glibc = "2.35"\ncuda-driver = "580"', "targets[0].cuda-driver: has no"),
    "cpu feature": ('glibc = "2.35"', 'glibc = "2.35"\ncpu-features = ["a b"]', "targets[0].cpu-features[0]: `a b`"),
    "snake target field": ('glibc = "2.35"', 'glibc = "2.35"\ncpu_features = []', "targets[0].cpu_features: unknown"),
    "pattern climbs": ('"**/tests"', '"../x"', "slim.remove[0]: `../x` has an empty, `.` or `..` component"),
    "pattern stars": ('"**/tests"', '"a**/b"', "slim.remove[0]: `**` in `a**/b` must be a whole component"),
    "pattern of all": ('"**/tests"', '"**"', "slim.remove[0]: `**` names nothing in particular"),
    "probe without imports": ('imports = ["tiny_server"]\n', "", "probe.imports: at least one module is needed"),
    "probe module": ('["tiny_server"]', '["tiny-server"]', "probe.imports[0]: `tiny-server` is not a module name"),
    "launch unknown": ("stop-grace = 5", "stop-gracious = 5", "launch.stop_gracious: unknown field; known here:"),
    "launch range": ("stop-grace = 5", "stop-grace = -1", "launch.stop-grace: -1 is not between 0 and 3600"),
    "launch snake": ("health-path", "health_path", "launch.health_path: unknown field; keys are written with hyphens"),
    "launch option": ('chat-template = "--template"', 'chat = "-c"', "launch.options.chat: unknown field; known here"),
    "launch option snake": ("chat-template", "chat_template", "launch.options.chat_template: unknown field; keys are"),
    "launch no model": ('model = "positional"\n', "", "launch.options.model: required string is missing"),
    "launch both": ('module = "tiny_server"', 'module = "a"\nscript = "b"', "launch.module: exactly one of `module`"),
    "no launch": ('[launch]\nmodule = "tiny_server"\nhealth-path = "/health"\nstop-grace = 5\n', "", "launch.module: "),
    "api key": ("chat-completions =", "chat =", "api.chat: unknown field; known here: chat-completions"),
    "api path": ('"/v1/chat/completions"', '"v1/chat"', "api.chat-completions: `v1/chat` does not match"),
    "api health": ('\nhealth = "/health"', '\nhealth = "/ping"', "api.health: `/ping` differs from launch.health-path"),
    "format": ("format = 1", "format = 0", "format: 0 is not between 1 and"),
    "no format": ("format = 1\n", "", "format: required integer is missing"),
    "not toml": ("[backend]", "[backend", "Expected ']'"),
}


@pytest.mark.parametrize(("old", "new", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_recipe_names_the_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_recipe(write_recipe(tmp_path, edit(RECIPE, old, new)))
    assert expected in caught.value.message
    assert caught.value.message.startswith("Cannot read recipe `")
    assert not caught.value.message.endswith(".")


def test_every_problem_is_in_one_error(tmp_path: Path) -> None:
    text = edit(RECIPE, '"MIT"', "7")
    text = edit(text, '"2.35"', '"x"')
    text = edit(text, "stop-grace = 5", "stop-grace = -1")
    with pytest.raises(InvalidInputError) as caught:
        load_recipe(write_recipe(tmp_path, text))
    problems = caught.value.fields["problems"]
    assert isinstance(problems, list)
    assert [problem.partition(":")[0] for problem in problems] == [
        "targets[0].glibc",
        "backend.license",
        "launch.stop-grace",
    ]


def test_missing_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_recipe(write_recipe(tmp_path, "format = 1\n"))
    for key in ("backend", "python", "lock", "targets", "probe", "launch"):
        assert f"{key}: required " in caught.value.message


def test_no_targets(tmp_path: Path) -> None:
    head, _, _ = RECIPE.partition("[backend]")
    with pytest.raises(InvalidInputError, match="targets: at least one target is needed"):
        load_recipe(write_recipe(tmp_path, head + "targets = []\n"))


def test_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Cannot read recipe"):
        load_recipe(tmp_path / "absent")


NOT_TEXT = {
    "latin 1": (b"\n\nname = '\xe9'", "it is not UTF-8 text (at line 3)"),
    "NUL": (b"name = '\0'", "it is not TOML: "),
    "no TOML": (b"name", "it is not TOML: "),
    "deep": (b"x = " + b"[" * 100_000, "it is nested too deeply"),
    "empty": (b"", "format: required integer is missing"),
}


@pytest.mark.parametrize(("data", "reason"), NOT_TEXT.values(), ids=NOT_TEXT.keys())
def test_every_problem_comes_with_advice(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "recipe.toml").write_bytes(data)
    with pytest.raises(InvalidInputError) as caught:
        load_recipe(tmp_path)
    assert caught.value.message.startswith(f"Cannot read recipe `{tmp_path}/recipe.toml`: {reason}")
    assert "codec" not in caught.value.message
    assert "recipes/README.md" in caught.value.hint


def test_a_path_that_is_none() -> None:
    with pytest.raises(InvalidInputError, match="that is not a path") as caught:
        load_recipe(Path("a\0b"))
    assert caught.value.hint


def test_newer_format(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="format 2 is newer than 1"):
        load_recipe(write_recipe(tmp_path, edit(RECIPE, "format = 1", "format = 2")))


def test_unknown_target(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    with pytest.raises(NotFoundError, match=r"it has `linux/amd64\+cpu`, `darwin/arm64\+metal`"):
        recipe.target(Target.parse("linux/arm64+cpu"))


SITE = "lib/python3.12/site-packages"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("numpy/**/tests", f"{SITE}/numpy/tests/a.py", True),
        ("numpy/**/tests", f"{SITE}/numpy/lib/tests/deep/a.py", True),
        ("numpy/**/tests", f"{SITE}/numpy/testing/a.py", False),
        ("numpy/**/tests", f"{SITE}/other/tests/a.py", False),
        ("numpy/**/tests", "numpy/tests/a.py", False),
        ("*/tests", f"{SITE}/a/tests/x", True),
        ("*/tests", f"{SITE}/a/b/tests/x", False),
        ("**/*.a", f"{SITE}/a/b/c.a", True),
        ("**/*.a", f"{SITE}/c.a", True),
        ("**/*.a", f"{SITE}/c.ab", False),
        ("a/**", f"{SITE}/a/b/c", True),
        ("a/**", f"{SITE}/a", False),
        ("a?c", f"{SITE}/abc", True),
        ("a?c", f"{SITE}/a/c", False),
        ("/lib/python3.12/config-*", "lib/python3.12/config-x/y", True),
        ("/lib/python3.12/config-*", f"{SITE}/lib/python3.12/config-x", False),
        ("a+b", f"{SITE}/aab", False),
    ],
)
def test_slim_patterns(pattern: str, path: str, expected: bool) -> None:
    assert SlimRules(remove=(pattern,)).removes(path) is expected


def test_slim_keep_wins_and_unused_rules_show() -> None:
    rules = SlimRules(remove=("a/**", "b"), keep=("a/keep",))
    assert rules.removes(f"{SITE}/a/x")
    assert not rules.removes(f"{SITE}/a/keep/y")
    assert rules.unused([f"{SITE}/a/x"]) == ("b",)
    assert not SlimRules().removes(f"{SITE}/a")
