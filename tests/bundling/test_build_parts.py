"""A changed lock installs, compiles and packs what changed; what comes out is what a build from nothing gives."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.environment.parts import KIND
from mr_core.errors import BuildError, IntegrityError
from mr_core.events import Event, PhaseFinished
from support.building import Builder
from support.wheels import Wheel

pytestmark = pytest.mark.xdist_group("test_build_parts")

SITE = "lib/python3.12/site-packages"
PARTS = [
    Wheel(
        name=f"part-{number}",
        files={f"part_{number}.py": f"x = {number}\n", **({"shared/__init__.py": ""} if number < 2 else {})},
        scripts={f"run-{number}": f"part_{number}:main"},
    )
    for number in range(10)
]


@pytest.fixture
def own_cache(builder: Builder, tmp_path: Path, shared_cache: Path) -> Builder:
    """A builder whose cache holds an interpreter and nothing else."""
    builder.build()
    cache = tmp_path / "own-cache"
    shutil.copytree(shared_cache / "interpreters", cache / "interpreters")
    shutil.rmtree(builder.layout)
    return replace(builder, cache=cache)


def watch(events: list[Event]) -> Iterator[tuple[str, dict[str, object]]]:
    return ((event.phase, event.detail) for event in events if isinstance(event, PhaseFinished))


def details(events: list[Event], phase: str) -> list[dict[str, object]]:
    return [detail for name, detail in watch(events) if name == phase]


def changed(number: int, **files: str) -> list[Wheel]:
    new = replace(PARTS[number], version="2.0", files={**PARTS[number].files, **files})
    return [*PARTS[:number], new, *PARTS[number + 1 :]]


def test_only_what_changed_is_installed(own_cache: Builder) -> None:
    first: list[Event] = []
    own_cache.build(*PARTS, report=first.append)
    assert details(first, "recall") == [{"known": 0, "new": 12}]
    assert [detail["wheels"] for detail in details(first, "wheels")] == [11, 1, 1], "two share a file"
    events: list[Event] = []
    result = own_cache.build(*changed(3, **{"part_3.py": "x = 'new'\n"}), report=events.append)
    assert details(events, "recall") == [{"known": 11, "new": 1}]
    (group,) = [layer for layer in result.layers if not layer.cached and layer.name != "bundle"]
    assert "part-3" in group.distributions
    sizes = [detail["wheels"] for detail in details(events, "wheels")]
    assert sizes == ([1, len(group.distributions) - 1] if len(group.distributions) > 1 else [1])
    again = own_cache.build(*changed(3, **{"part_3.py": "x = 'new'\n"}), use_cache=False)
    assert again.digest == result.digest
    assert again.papers == result.papers


def test_recalled_parts_and_rules_that_changed(own_cache: Builder, tmp_path: Path) -> None:
    own_cache.build(*PARTS)
    events: list[Event] = []
    rules = ["part_1.py", "part-2-*.dist-info", "/bin/run-3", "/lib/python3.12/json"]
    rules[1] = "part_2-1.0.dist-info"
    slim = own_cache.build(*PARTS, remove=rules, report=events.append)
    assert details(events, "recall") == [{"known": 12, "new": 0}], "parts do not depend on rules"
    plain = own_cache.build(*PARTS, remove=rules, use_cache=False, layout=tmp_path / "plain")
    assert plain.digest == slim.digest
    paths = own_cache.open(slim).listing()
    assert not {f"{SITE}/part_1.py", f"{SITE}/part_2-1.0.dist-info/RECORD", "bin/run-3"} & set(paths)
    assert {f"{SITE}/part_3-1.0.dist-info/RECORD", "bin/run-1"} <= set(paths)
    assert not [path for path in paths if "/json/" in path and "site-packages" not in path]
    assert {saving.rule for saving in slim.slim} == set(rules)
    assert [saving.bytes for saving in slim.slim] == sorted((s.bytes for s in slim.slim), reverse=True)


def test_no_wheel_is_installed_when_all_layers_are_known(own_cache: Builder, tmp_path: Path) -> None:
    own_cache.build(*PARTS)
    events: list[Event] = []
    own_cache.build(*PARTS, layout=tmp_path / "elsewhere", report=events.append)
    assert details(events, "wheels") == []
    assert details(events, "bytecode")[0]["compiled"] == len(list(Path("runtime_shim/mr_shim").glob("*.py")))


def test_findings_are_known_of_recalled_parts(own_cache: Builder) -> None:
    leaky = Wheel(name="leaky", files={"leaky.bin": str(own_cache.cache).encode(), "leaky.pth": "import os\n"})
    for events in ([], []):
        with pytest.raises(BuildError) as caught:
            own_cache.build(leaky, report=events.append)
        found = caught.value.fields["findings"]
        assert {(item["kind"], item["path"]) for item in found} == {
            ("leaked-path", f"{SITE}/leaky.bin"),
            ("startup-code", f"{SITE}/leaky.pth"),
        }
    assert details(events, "recall") == [{"known": 3, "new": 0}]


@pytest.mark.parametrize("damage", ["record", "content", "stale"])
def test_damaged_parts_are_made_again(own_cache: Builder, damage: str, tmp_path: Path) -> None:
    first = own_cache.build(*PARTS[:2])
    for place in (own_cache.cache / KIND).iterdir():
        head, _, content = place.read_bytes().partition(b"\n")
        value = json.loads(content)
        if value["owner"] != "part-1":
            continue
        match damage:
            case "record":
                place.write_bytes(head + b"\n" + content.replace(b"part-1", b"part-2"))
            case "content":
                raw = json.dumps({key: value[key] for key in value if key != "files"}).encode()
                place.write_bytes(hashlib.sha256(raw).hexdigest().encode() + b"\n" + raw)
            case "stale":
                value["files"][0][2] = "0" * 64
                raw = json.dumps(value).encode()
                place.write_bytes(hashlib.sha256(raw).hexdigest().encode() + b"\n" + raw)
    if damage == "stale":
        # a record with a right digest and wrong content: nothing wrong may reach a layer
        with pytest.raises(IntegrityError, match="uv installs other files than it did before"):
            own_cache.build(*PARTS[:2], remove=["nothing"], layout=tmp_path / "again")
    else:
        assert own_cache.build(*PARTS[:2], layout=tmp_path / "again").digest == first.digest


def digest_tree(root: Path) -> dict[str, str]:
    found = {}
    for top, _, names in os.walk(root):
        for name in names:
            place = Path(top, name)
            content = str(place.readlink()).encode() if place.is_symlink() else place.read_bytes()
            found[str(place.relative_to(root))] = hashlib.sha256(content).hexdigest()
    return found


def test_uvs_cache_is_the_same_before_and_after(own_cache: Builder, tmp_path: Path) -> None:
    own_cache.build(*PARTS)
    before = digest_tree(own_cache.directory / "uv")
    assert len(before) > 20
    own_cache.build(*PARTS, use_cache=False)
    own_cache.build(*PARTS, remove=["part_5.py"], layout=tmp_path / "other", work=tmp_path / "work")
    assert digest_tree(own_cache.directory / "uv") == before


def test_modes_of_shared_files_do_not_depend_on_what_was_installed_together(own_cache: Builder, tmp_path: Path) -> None:
    one = Wheel(name="one", files={"shared/tool": (b"x", 0o755), "one.py": ""})
    two = Wheel(name="two", files={"shared/tool": (b"x", 0o644), "two.py": ""})
    for number in range(3):
        cold = own_cache.build(*[one, two][:: (-1) ** number], use_cache=False)
        assert cold.digest == own_cache.build(one, two, layout=tmp_path / f"layout-{number}").digest
    alone = own_cache.build(one, remove=["nothing"])
    assert alone.digest == own_cache.build(one, remove=["nothing"], use_cache=False).digest
    prefix = own_cache.open(alone).unpack(tmp_path / "tree")
    assert (prefix / SITE / "shared/tool").stat().st_mode & 0o777 == 0o755
