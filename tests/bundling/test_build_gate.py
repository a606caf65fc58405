"""The audit of a build: what it finds fails the build, unless the recipe allows it by name and reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mr_bundler.audit_gate import audit_environment
from mr_bundler.build import BuildOptions, build_bundle
from mr_bundler.environment.compose import compose
from mr_bundler.environment.parts import INTERPRETER, Part
from mr_bundler.recipe.recipe import Recipe, SlimRules
from mr_core.bundle_config import HostRequirements
from mr_core.errors import BuildError, BundleError, UnavailableError, UsageError
from mr_core.events import Event, Level, Notice, discard
from mr_core.layout import LayoutStore
from mr_core.referrer_index import fallback_name
from mr_core.referrers import read_referrer, referrers
from support.building import HERE, SERVER, Builder
from support.papers import file_entry
from support.wheels import Wheel

SITE = "lib/python3.12/site-packages"
STARTING = Wheel(
    name="starting", files={"starting.pth": "import starting\n", "starting.py": "", "run.sh": b"#!/opt/x/sh\n"}
)


def allow(finding: str, *paths: str, reason: str = "looked at") -> str:
    return f'[[audit.allow]]\nfinding = "{finding}"\npaths = {json.dumps(paths)}\nreason = "{reason}"\n\n'


def test_allowances_by_name_and_reason(builder: Builder) -> None:
    one = allow("startup-code", "starting.pth", reason="it registers itself")
    with pytest.raises(BuildError, match=rf"shebang in `{SITE}/run\.sh`") as caught:
        builder.build(STARTING, extra=one)
    assert [item["kind"] for item in caught.value.fields["findings"]] == ["shebang"]
    assert caught.value.exit_code == 10
    events: list[Event] = []
    extra = one + allow("shebang", "run.sh") + allow("rpath", "nothing/**")
    result = builder.build(STARTING, extra=extra, report=events.append)
    found = {(item.kind, item.path, item.reason) for item in result.audit.allowed}
    assert found == {
        ("startup-code", f"{SITE}/starting.pth", "it registers itself"),
        ("shebang", f"{SITE}/run.sh", "looked at"),
    }
    assert result.audit.files == result.file_count - sum(
        path.endswith(".pyc") or path.startswith(".mr/") or path == "bin/mr-serve"
        for path in builder.open(result).listing()
        if path not in {".mr/files.jsonl", ".mr/bundle.json"}
    )
    (notice,) = [event for event in events if isinstance(event, Notice) and event.code == "allowance-unused"]
    assert "rpath in nothing/**" in notice.message
    again = builder.build(STARTING, extra=extra)
    assert again.skipped
    assert (again.audit, again.slim, again.papers) == (result.audit, result.slim, result.papers)


def test_an_allowed_leak_is_allowed_in_bytecode_too(builder: Builder) -> None:
    leaky = Wheel(name="leaky", files={"leaky.py": f"x = {str(builder.cache)!r}\n"})
    result = builder.build(leaky, extra=allow("leaked-path", "leaky.py"))
    assert [item.detail for item in result.audit.allowed] == ["cache directory"]


def test_what_no_host_can_extract_cannot_be_allowed(builder: Builder) -> None:
    twice = Wheel(name="twice", files={"twice/Read.txt": "a", "twice/read.txt": "b"})
    with pytest.raises(BuildError, match=rf"case-collision in `{SITE}/twice/read\.txt`") as caught:
        builder.build(twice, extra=allow("case-collision", "twice/**"))
    assert "no host could install it, whatever a recipe allows" in caught.value.hint


@pytest.mark.parametrize("recalled", [False, True])
def test_a_file_where_another_wheel_has_a_directory(builder: Builder, recalled: bool) -> None:
    file, directory = (Wheel(name=name, files=files) for name, files in (("f", {"x": "f"}), ("d", {"x/y.txt": "d"})))
    if recalled:  # then no disk that could hold but one of them is asked
        builder.build(file)
        builder.build(directory)
        with pytest.raises(BuildError, match=rf"unsafe-path in `{SITE}/x` \(is a file and a directory\)"):
            builder.build(file, directory)
    else:
        with pytest.raises(BundleError):
            builder.build(file, directory)


@pytest.mark.parametrize("path", [".mr", ".mr/bundle.json", ".MR/x", "bin/mr-serve/x", "bin/MR-Serve"])
def test_what_lies_where_the_bundles_own_files_will(builder: Builder, path: str) -> None:
    rogue = Wheel(name="rogue", files={f"rogue-1.0.data/data/{path}": "x"})
    with pytest.raises(BuildError, match=rf"unsafe-path in `{path}` \(lies where the bundle's own files lie\)"):
        builder.build(rogue, extra=allow("unsafe-path", f"/{path}"))


def test_strict_wants_licences(builder: Builder) -> None:
    builder.build()
    with pytest.raises(BuildError, match="unknown-licence in `tiny-server`"):
        builder.build(strict=True)
    text = "Metadata-Version: 2.4\nName: tiny-server\nVersion: 1.0\nLicense-Expression: MIT\n"
    licensed = Wheel(name=SERVER.name, files=SERVER.files, scripts=SERVER.scripts, metadata=text)
    assert builder.build(licensed, strict=True).audit.allowed == ()


def test_strict_wants_licences_of_libraries_beside_the_interpreter(builder: Builder) -> None:
    entries = tuple(
        file_entry(path) for path in ("lib/liblzma.so.5", "lib/libpython3.12.so.1.0", "lib/libstrange.so.7")
    )
    parts = {INTERPRETER: Part(owner=INTERPRETER, entries=entries)}

    def gate(recipe: Recipe, *, strict: bool, rules: SlimRules | None = None) -> list[str]:
        composition = compose(parts, rules or SlimRules())
        requires = recipe.target(HERE).requires
        found = audit_environment(
            composition, parts, recipe=recipe, target=HERE, requires=requires, strict=strict, report=discard
        )
        return [f"{item.kind} {item.path}" for item in found.listed]

    assert gate(builder.recipe(), strict=False) == ["unknown-licence libstrange"]
    with pytest.raises(BuildError, match=r"unknown-licence in `libstrange` \(a library beside the interpreter\)"):
        gate(builder.recipe(), strict=True)
    assert gate(builder.recipe(), strict=True, rules=SlimRules(remove=("/lib/libstrange.*",))) == []
    assert gate(builder.recipe(extra=allow("unknown-licence", "libstrange")), strict=True) == []


def test_a_floor_above_the_recipes_is_said(builder: Builder) -> None:
    """The Python of this machine needs a glibc newer than 2.2; the notice comes with what is up to date as well."""
    recipe = builder.recipe()
    targets = tuple(replace(item, requires=HostRequirements(glibc="2.2")) for item in recipe.targets)
    recipe = replace(recipe, targets=targets)
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_from=builder.python, jobs=2)
    for skipped in (False, True):
        events: list[Event] = []
        lock = builder.lock(recipe, [SERVER])
        result = build_bundle(recipe, HERE, lock, options=options, report=events.append)
        floor = builder.open(result).config.requires.glibc
        (notice,) = [event for event in events if isinstance(event, Notice) and event.code == "floor-raised"]
        assert (result.skipped, notice.level) == (skipped, Level.WARNING)
        assert f"needs glibc {floor}, though the recipe says 2.2:" in notice.message
        assert floor != "2.2"
    events = []
    builder.build(report=events.append)
    assert "floor-raised" not in [event.code for event in events if isinstance(event, Notice)]


def test_a_pinned_interpreter_can_be_required(builder: Builder) -> None:
    with pytest.raises(UsageError, match="a host Python was named as well"):
        builder.build(require_pinned=True)
    with pytest.raises(UnavailableError, match="Cannot fetch the base interpreter"):
        builder.build(require_pinned=True, python_from=None)


def test_papers_lie_beside_the_bundle(builder: Builder) -> None:
    result = builder.build()
    store = LayoutStore(builder.layout)
    assert [paper.kind for paper in result.papers] == ["sbom", "provenance", "licences"]
    attached = {entry.digest: entry for entry in referrers(store, result.digest)}
    assert set(attached) == {paper.digest for paper in result.papers}
    sbom = json.loads(read_referrer(store, attached[result.papers[0].digest]))
    owners = [
        item["location"]
        for component in (sbom["metadata"]["component"], *sbom["components"])
        for item in component.get("evidence", {}).get("occurrences", [])
    ]
    assert len(owners) == len(set(owners))
    assert set(owners) == set(builder.open(result).listing())
    assert [top.digest for top in store.names()] == [result.index_digest], "papers are no bundles"


def test_papers_that_went_missing_are_attached_again(builder: Builder) -> None:
    first = builder.build()
    store = LayoutStore(builder.layout)
    assert store.remove_name(fallback_name(first.digest))
    again = builder.build()
    assert not again.skipped
    assert again.papers == first.papers
    (sbom, *_) = referrers(store, first.digest)
    content = json.loads(store.read_document(sbom))["layers"][0]["digest"].partition(":")[2]
    for digest in (content, sbom.digest.hex):
        (builder.layout / "blobs/sha256" / digest).unlink()
        assert not builder.build().skipped
        assert builder.build().skipped


def test_papers_of_a_replaced_bundle_go(builder: Builder) -> None:
    first = builder.build()
    second = builder.build(Wheel(name="other", files={"other.py": ""}))
    assert second.ref_name == first.ref_name
    store = LayoutStore(builder.layout)
    assert referrers(store, first.digest) == ()
    assert len(referrers(store, second.digest)) == 3


def test_recipe_and_lock_are_in_the_last_layer(builder: Builder, tmp_path) -> None:
    result = builder.build()
    built = builder.open(result)
    paths = built.listing()
    assert paths[".mr/recipe.toml"] == paths[".mr/lock.toml"] == "(bundle)"
    prefix = built.unpack(tmp_path / "tree")
    recipe = builder.recipe()
    assert (prefix / ".mr/recipe.toml").read_bytes() == recipe.raw
    assert (prefix / ".mr/lock.toml").read_bytes() == builder.lock(recipe, [SERVER]).dump()
    listed = {json.loads(line)["path"] for line in (prefix / ".mr/files.jsonl").read_text().splitlines()}
    assert {".mr/recipe.toml", ".mr/lock.toml"} <= listed
    reworded = builder.build(extra="# a comment\n")
    assert [layer.cached for layer in reworded.layers] == [True] * (len(reworded.layers) - 1) + [False]
