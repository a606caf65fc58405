from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mr_bundler.audit.finding import Allowance
from mr_bundler.lock.lock import inputs_digest
from mr_bundler.recipe.recipe import load_recipe, parse_recipe
from mr_bundler.recipe.sources import GitSource, StaticMetadata, WheelSource, problem_of_address
from mr_bundler.recipe.steps import PrebuildStep
from mr_core.errors import InvalidInputError
from support.recipe_files import FULL, RECIPE, edit, write_recipe

METADATA = StaticMetadata(
    name="tiny-made", version="3.1", requires_dist=("tiny-words>=1", 'tiny-extra[all]; sys_platform == "linux"')
)


def test_every_field(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, FULL))
    linux, darwin = recipe.targets
    assert linux.requirements == darwin.requirements == ("tiny-server==1.5",)
    assert linux.constraints == ("tiny-kernels<3", "tiny-words<=2.0")
    assert darwin.constraints == ("tiny-words<=2.0",)
    assert linux.overrides == ('tiny-unwanted; python_version < "3"',)
    assert darwin.overrides == ("tiny-other>=2", 'tiny-unwanted; python_version < "3"')
    assert linux.index == darwin.index == (("tiny-words", "private"),)
    assert linux.wheels == (
        WheelSource(
            name="tiny-extra",
            version="2.0+cpu",
            file="tiny_extra-2.0+cpu-py3-none-any.whl",
            url="https://example.org/v2.0/tiny_extra-2.0%2Bcpu-py3-none-any.whl",
            sha256="ab" * 32,
        ),
    )
    assert darwin.wheels == ()
    assert linux.git == darwin.git == (
        GitSource(
            name="tiny-made",
            version="3.1",
            file="tiny_made-3.1-py3-none-any.whl",
            url="https://example.org/tiny-made.git",
            commit="c0" * 20,
            subdirectory="python/made",
        ),
    )  # fmt: skip
    assert linux.metadata == darwin.metadata == (METADATA,)
    assert linux.names() == {"tiny-server", "tiny-extra", "tiny-made"}
    assert recipe.prebuild == (
        PrebuildStep(
            name="make-table",
            command=("{python}", "-c", "print({})"),
            writes=("tiny_server/table.bin",),
            targets=("linux/amd64+cpu",),
        ),
    )
    assert recipe.audit == (
        Allowance(
            finding="missing-library",
            paths=("**/libtiny.so",),
            details=("libcuda.so.1",),
            targets=("linux/amd64+cpu",),
            reason="the driver brings it",
        ),
    )
    assert recipe.raw == FULL.encode()
    assert "raw" not in repr(recipe)
    assert parse_recipe(recipe.raw, tmp_path) == recipe


def test_braces_are_written_twice(tmp_path: Path) -> None:
    text = edit(FULL, "/v{extra}/", "/{{v}}{extra}/")
    assert "/{v}2.0/" in load_recipe(write_recipe(tmp_path, text)).targets[0].wheels[0].url


def test_a_wheel_gives_the_version(tmp_path: Path) -> None:
    text = edit(FULL, 'version-from = "tiny-server"', 'version-from = "Tiny_Made"')
    assert load_recipe(write_recipe(tmp_path, text)).version_from == "tiny-made"


INPUTS = {
    "version": ('server = "1.5"', 'server = "1.6"', True),
    "constraint": ('"tiny-kernels<3"', '"tiny-kernels<4"', True),
    "override": ('"tiny-other>=2"', '"tiny-other>=3"', False),
    "index": ('"private"', '"other"', True),
    "sha256": ("ab" * 32, "pending", True),
    "commit": ("c0" * 20, "c1" * 20, True),
    "metadata": ('"tiny-words>=1"', '"tiny-words>=2"', True),
    "prebuild": ('"tiny_server/table.bin"', '"tiny_server/other.bin"', False),
    "audit": ("the driver brings it", "because", False),
    "name of a version": ('extra = "2.0"', 'extra = "2.0"\n# a comment', False),
}


@pytest.mark.parametrize(("old", "new", "changed"), INPUTS.values(), ids=INPUTS.keys())
def test_what_decides_the_lock_of_linux(tmp_path: Path, old: str, new: str, changed: bool) -> None:
    before, after = (load_recipe(write_recipe(tmp_path, text)) for text in (FULL, edit(FULL, old, new)))
    digests = [inputs_digest(recipe, recipe.targets[0]) for recipe in (before, after)]
    assert (digests[0] != digests[1]) is changed


def test_unused_fields_leave_the_digest_of_older_locks_alone(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, RECIPE))
    target = recipe.targets[0]
    assert inputs_digest(recipe, target) == "sha256:212f2df9c65e251109145dddaf4538c7851a05ab35b9529e96a09a7593ea593e"
    for name in ("constraints", "overrides"):
        assert (
            inputs_digest(recipe, dataclasses.replace(target, **{name: ("x>1",)}))
            != "sha256:212f2df9c65e251109145dddaf4538c7851a05ab35b9529e96a09a7593ea593e"
        )


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/x",
        "https://EXAMPLE.org:8443/a/b%20c",
        "https://[::1]/x",
        "file:///a/b",
        "file://localhost/a",
    ],
)
def test_an_address(text: str) -> None:
    assert problem_of_address(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 3000,
        "https://example.org/a\nb",
        "https://exämple.org/x",
        "HTTP://example.org/x",
        "file:x",
        "https://e.org/?",
    ],
)
def test_no_address(text: str) -> None:
    assert problem_of_address(text)


def test_two_wheels_of_one_distribution_for_two_targets(tmp_path: Path) -> None:
    """What is limited to different targets does not clash."""
    second = (
        '[[lock.wheels]]\nurl = "https://example.org/tiny_extra-9-cp312-cp312-macosx_14_0_arm64.whl"\n'
        f'sha256 = "{"cd" * 32}"\ntargets = ["darwin/arm64+metal"]\n'
    )
    recipe = load_recipe(write_recipe(tmp_path, edit(FULL, "[[lock.git]]", f"{second}[[lock.git]]")))
    assert [target.wheels[0].version for target in recipe.targets] == ["2.0+cpu", "9"]
    both = edit(FULL, "[[lock.git]]", f"{second.replace('targets', '# targets')}[[lock.git]]")
    with pytest.raises(InvalidInputError, match="does not install on `linux/amd64\\+cpu`"):
        load_recipe(write_recipe(tmp_path, both))


def test_licences_of_distributions_that_state_none(tmp_path: Path) -> None:
    text = RECIPE + '\n[licences]\nold-thing = "apache-2.0"\nstrange-thing = "LicenseRef-Strange"\n'
    recipe = load_recipe(write_recipe(tmp_path, text))
    assert recipe.licences == {"old-thing": "Apache-2.0", "strange-thing": "LicenseRef-Strange"}
    bad = RECIPE + '\n[licences]\nOld_Thing = "MIT"\nother = "free as in beer"\nthird = 3\n'
    with pytest.raises(InvalidInputError) as refused:
        load_recipe(write_recipe(tmp_path, bad))
    assert {problem.partition(":")[0] for problem in refused.value.fields["problems"]} == {
        "licences.Old_Thing",
        "licences.other",
        "licences.third",
    }
