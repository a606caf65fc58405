"""Wheels as careless publishers make them, built for real: each is caught with a named finding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.audit.standalone import AuditOptions, audit_bundle
from mr_bundler.build import BuildOptions, build_bundle
from mr_bundler.recipe.recipe import parse_recipe
from mr_core.errors import BuildError
from mr_core.layout import LayoutStore
from mr_core.platform import Target
from support.binaries import asks_for_glibc, edited, with_newer_glibc
from support.building import HERE, SERVER, Builder
from support.macho import EXECUTE, MachO
from support.python_archive import write_archive
from support.wheels import Wheel

SITE = "lib/python3.12/site-packages"
MAC = Target.parse("darwin/arm64+metal")
STARTUP = "import sys; sys.stderr.write('here I am')"
ALLOW = b"""
[[audit.allow]]
finding = "rpath"
paths = ["escaping/*.so"]
reason = "it is a test"

[[audit.allow]]
finding = "startup-code"
paths = ["*.pth"]
reason = "it says hello"

[[audit.allow]]
finding = "glibc-floor"
paths = ["modern"]
reason = "stale"
"""


def careless_wheels(builder: Builder, libraries: list[Path], directory: Path) -> tuple[Wheel, ...]:
    escaping = edited(libraries[0], directory / "e.so", "--set-rpath", "$ORIGIN/../../../../../../opt/lib")
    lonely = edited(libraries[0], directory / "l.so", "--set-rpath", "$ORIGIN", "--add-needed", "libnowhere.so.7")
    modern = edited(asks_for_glibc(libraries), directory / "m.so", "--set-rpath", "$ORIGIN")
    return (
        Wheel(name="hard-coded", files={"hard_coded.py": f"PREFIX = '{builder.cache}/env'\n"}),
        Wheel(name="scripted", files={"scripted/run": (b"#!/opt/build/env/bin/python3\n", 0o755)}),
        Wheel(name="escaping", files={"escaping/e.so": escaping.read_bytes()}),
        Wheel(name="lonely", files={"lonely/l.so": lonely.read_bytes()}),
        Wheel(name="modern", files={"modern/m.so": with_newer_glibc(modern)}),
        Wheel(name="colliding", files={"colliding/Read.py": "x = 1\n", "colliding/read.py": "x = 2\n"}),
        Wheel(name="starting", files={"starting.pth": f"{STARTUP}\n", "starting.py": "\n"}),
        Wheel(name="fighter-a", files={"shared/__init__.py": "who = 'a'\n"}),
        Wheel(name="fighter-b", files={"shared/__init__.py": "who = 'b'\n"}),
    )


def test_each_is_caught_with_a_named_finding(builder: Builder, libraries: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        builder.build(*careless_wheels(builder, libraries, tmp_path))
    found = caught.value.fields["findings"]
    assert isinstance(found, list)
    seen = {(item["kind"], item["path"].removeprefix(f"{SITE}/"), item["detail"]) for item in found}
    (clash,) = (item for item in seen if item[0] == "conflicting-files")
    assert clash[1] == "shared/__init__.py"
    assert {"fighter-a", "fighter-b"} <= set(clash[2].replace(",", " ").replace("`", " ").split())
    assert seen - {clash} == {
        ("leaked-path", "hard_coded.py", "cache directory"),
        ("shebang", "scripted/run", "/opt/build/env/bin/python3"),
        ("rpath", "escaping/e.so", "$ORIGIN/../../../../../../opt/lib"),
        ("missing-library", "lonely/l.so", "libnowhere.so.7"),
        ("glibc-floor", "modern/m.so", "2.99"),
        ("case-collision", "colliding/read.py", f"{SITE}/colliding/Read.py"),
        ("startup-code", "starting.pth", STARTUP),
    }
    assert not builder.layout.exists(), "nothing is published"


def test_what_the_recipe_allows_is_built_and_audited_again(
    builder: Builder, libraries: list[Path], tmp_path: Path
) -> None:
    wheels = [
        wheel for wheel in careless_wheels(builder, libraries, tmp_path) if wheel.name in {"escaping", "starting"}
    ]
    recipe = builder.recipe()
    recipe = parse_recipe(recipe.raw + ALLOW, recipe.directory)
    lock = builder.lock(recipe, [SERVER, *wheels])
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_from=builder.python, jobs=2)
    result = build_bundle(recipe, HERE, lock, options=options)
    source = LayoutStore(builder.layout)
    found = audit_bundle(source, result.ref_name, AuditOptions(), where="here", scratch=tmp_path / "scratch")
    assert found.report.findings == ()
    assert {(item.kind, allowance.reason) for item, allowance in found.report.allowed} == {
        ("rpath", "it is a test"),
        ("startup-code", "it says hello"),
    }
    assert [item.finding for item in found.report.unused] == ["glibc-floor"]
    assert (found.name, found.target, found.guessed) == ("tiny-1.0", HERE, False)
    none = AuditOptions(allow=())
    without = audit_bundle(source, result.ref_name, none, where="here", scratch=tmp_path / "again")
    assert {item.kind for item in without.report.findings} == {"rpath", "startup-code"}


def test_a_flipped_byte_in_a_library_for_macos(builder: Builder, tmp_path: Path) -> None:
    builder = replace(builder, targets=(f"{MAC}",))
    place = tmp_path / "python.tar.gz"
    names = ("os.py", "site.py", "abc.py", "encodings/__init__.py")
    members: dict[str, bytes | str | None] = {
        f"python/lib/python3.12/{name}": (builder.python / "lib/python3.12" / name).read_bytes() for name in names
    }
    pin = write_archive(place, members | {"python/bin/python3.12": MachO(kind=EXECUTE).dump()})
    recipe = builder.recipe()
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_archive=place, jobs=2)
    library = bytearray(MachO(name="@rpath/libquick.dylib").dump())
    library[2000] ^= 1
    quick = Wheel(name="quick", tag="cp312-cp312-macosx_14_0_arm64", files={"quick/libquick.dylib": bytes(library)})
    with pytest.raises(BuildError, match=r"broken-signature in `.*/quick/libquick.dylib` \(the page at 0x0 differs"):
        build_bundle(recipe, MAC, builder.lock(recipe, [SERVER, quick], MAC, pin), options=options)
    library[2000] ^= 1
    quick = replace(quick, version="1.1", files={"quick/libquick.dylib": bytes(library)})
    build_bundle(recipe, MAC, builder.lock(recipe, [SERVER, quick], MAC, pin), options=options)
