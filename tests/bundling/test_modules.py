"""What a recipe starts and imports must be in the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mr_bundler.build import build_bundle
from mr_bundler.environment.modules import check_modules, path_roots
from mr_bundler.recipe.recipe import load_recipe
from mr_bundler.result import BuildOptions
from mr_core.errors import BuildError
from mr_shim.spec import LaunchSpec, ProbeSpec
from support.building import HERE, SERVER, Builder
from support.recipe_files import edit, write_recipe

LIB = "lib/python3.12"
SITE = f"{LIB}/site-packages"
PATHS = [
    f"{LIB}/json/__init__.py",
    f"{LIB}/http/server.py",
    f"{LIB}/lib-dynload/_bz2.cpython-312-x86_64-linux-gnu.so",
    f"{SITE}/app/__init__.py",
    f"{SITE}/app/__main__.py",
    f"{SITE}/app/deep/serve.py",
    f"{SITE}/app/deep/native.abi3.so",
    f"{SITE}/single.py",
    f"{SITE}/fast.abi3.so",
    f"{SITE}/spaced/name/x.py",
    f"{SITE}/app-1.0.dist-info/METADATA",
    f"{SITE}/extra.pth",
    f"{SITE}/hidden/path/behind.py",
    "bin/app",
]


def launch(**fields: str) -> LaunchSpec:
    return LaunchSpec.from_json({**fields, "options": {"model": "--model"}})


def probe(*names: str) -> ProbeSpec:
    return ProbeSpec.from_json({"imports": list(names)})


@pytest.mark.parametrize("module", ["app", "app.deep.serve", "single", "http.server"])
def test_what_runs(module: str) -> None:
    check_modules(PATHS, launch(module=module), probe("app"))


@pytest.mark.parametrize("module", ["no_such_module", "app.deep", "app.serve", "json", "fast", "app.deep.native"])
def test_what_does_not_run(module: str) -> None:
    with pytest.raises(BuildError, match=f"it does not hold `{module}`, which `launch.module` runs") as caught:
        check_modules(PATHS, launch(module=module), probe("app"))
    assert caught.value.hint


def test_scripts() -> None:
    check_modules(PATHS, launch(script="app"), probe("app"))
    with pytest.raises(BuildError, match=r"does not hold `bin/ap`, which `launch\.script` names"):
        check_modules(PATHS, launch(script="ap"), probe("app"))


def test_imports() -> None:
    spec = probe("app.deep.x", "single", "fast", "spaced.name", "json", "_bz2", "sys")
    check_modules(PATHS, launch(module="app"), spec)
    with pytest.raises(BuildError) as caught:
        check_modules(PATHS, launch(module="nothing"), probe("app", "extra", "absent.part", "behind"))
    assert caught.value.message == (
        "Cannot use the environment: it does not hold `nothing`, which `launch.module` runs; "
        "nor `extra`, which `probe.imports` names; nor `absent.part`, which `probe.imports` names; "
        "nor `behind`, which `probe.imports` names"
    )


def test_pth_files_add_roots() -> None:
    roots = list(path_roots("# words\n\nimport os; os.x\nhidden/path\n../elsewhere\n/absolute\n"))
    assert roots == [f"{SITE}/hidden/path", f"{LIB}/elsewhere"]
    check_modules(PATHS, launch(module="behind"), probe("behind"), roots=roots)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('module = "tiny_server"', 'module = "no_such_module"', "`no_such_module`, which `launch.module` runs"),
        ('module = "tiny_server"', 'script = "no-script"', "`bin/no-script`, which `launch.script` names"),
        ('imports = ["tiny_server"]', 'imports = ["tiny_server", "nope.x"]', "`nope.x`, which `probe.imports` names"),
        ("remove = []", 'remove = ["tiny_server/__main__.py"]', "`tiny_server`, which `launch.module` runs"),
    ],
)
def test_a_build_refuses(builder: Builder, old: str, new: str, reason: str) -> None:
    recipe = builder.recipe()
    lock = builder.lock(recipe, [SERVER])
    path = Path(recipe.directory) / "recipe.toml"
    recipe = load_recipe(write_recipe(recipe.directory, edit(path.read_text(), old, new)))
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_from=builder.python, jobs=2)
    with pytest.raises(BuildError) as caught:
        build_bundle(recipe, HERE, lock, options=options)
    assert reason in caught.value.message
    assert not builder.layout.exists()
