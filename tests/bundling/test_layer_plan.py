"""Which files share a layer."""

from __future__ import annotations

import pytest

from mr_bundler.environment.parts import INTERPRETER
from mr_bundler.image.layers import GROUPS, LARGE_BYTES, group_of, plan_layers
from mr_core.errors import BuildError
from mr_core.file_manifest import Entry, FileEntry, LinkEntry


def files(owner: str, size: int) -> list[Entry]:
    return [FileEntry(path=f"lib/{owner}/{part}", mode=0o644, size=size // 2, sha256="0" * 64) for part in "ba"]


def test_interpreter_large_ones_groups() -> None:
    owned = {
        "zeta": files("zeta", LARGE_BYTES),
        "small": files("small", LARGE_BYTES - 2),
        "nothing": [],
        "alpha": files("alpha", 9 * LARGE_BYTES),
        INTERPRETER: [LinkEntry(path="bin/python3", link="python3.12")],
    }
    plans = plan_layers(owned)
    assert [plan.name for plan in plans] == ["interpreter", "alpha", "zeta", f"group {group_of('small')}"]
    assert [entry.path for entry in plans[1].entries] == ["lib/alpha/a", "lib/alpha/b"]


def test_a_distribution_stays_in_its_group_whatever_else_is_there() -> None:
    names = [f"dist-{number}" for number in range(100)]
    everything = plan_layers({name: files(name, 10) for name in names})
    assert len(everything) == GROUPS
    for plan in everything:
        assert list(plan.owners) == sorted(plan.owners)
        for owner in plan.owners:
            (alone,) = plan_layers({owner: files(owner, 10)})
            assert alone.name == plan.name == f"group {group_of(owner)}"
    # fixed for ever: another group would mean another layer in bundles that people have already
    assert [group_of(name) for name in ("numpy", "click", "rich", "transformers")] == [2, 20, 21, 17]


def test_what_steps_wrote_has_a_layer_of_its_own() -> None:
    owned = {"small": files("small", 2), "(prebuild kernels)": files("kernels", 2), INTERPRETER: files("python", 2)}
    plans = plan_layers(owned)
    assert [plan.name for plan in plans] == ["interpreter", "prebuild kernels", f"group {group_of('small')}"]
    assert plans[1].owners == ("(prebuild kernels)",)


def test_never_more_than_120_layers() -> None:
    owned = {f"dist-{number:03}": files(f"dist-{number:03}", LARGE_BYTES + number * 2) for number in range(300)}
    steps = {f"(prebuild {number})": files(f"step-{number}", 10) for number in range(3)}
    plans = plan_layers({INTERPRETER: files("python", 10), **owned, **steps})
    assert 100 < len(plans) + 1 <= 120
    alone = {plan.name for plan in plans if plan.name.startswith("dist")}
    assert len(alone) == 120 - 2 - GROUPS - 3
    assert "dist-299" in alone, "the largest are those that stay alone"
    assert "dist-000" not in alone
    assert sorted(owner for plan in plans for owner in plan.owners) == sorted([INTERPRETER, *owned, *steps])


def test_too_many_steps_for_any_layer_plan() -> None:
    owned = {f"dist-{number:03}": files(f"dist-{number:03}", LARGE_BYTES) for number in range(200)}
    owned[INTERPRETER] = files("python", 10)
    steps = {f"(prebuild {number})": files(f"step-{number}", 10) for number in range(120)}
    most = plan_layers(owned | dict(list(steps.items())[:94]))
    assert len(most) + 1 == 120
    with pytest.raises(BuildError, match="with 95 prebuild steps it needs 121 layers, and 120"):
        plan_layers(owned | dict(list(steps.items())[:95]))
    few = plan_layers({INTERPRETER: owned[INTERPRETER], **dict(list(steps.items())[:100])})
    assert len(few) == 101, "fewer groups leave room for more steps"
