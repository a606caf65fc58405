"""Directories that were not built here: RECORDs, papers, places, modes; and the command that shows what was found."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mr_bundler.audit.finding import Finding
from mr_bundler.audit.standalone import Audit, AuditOptions, audit_directory
from mr_bundler.cli.audit import show_audit
from mr_bundler.cli.main import main
from mr_core.errors import BuildError, CancelledError, HostError, InvalidInputError, UsageError
from mr_core.events import Cancel
from mr_core.layout import LayoutStore
from mr_core.platform import Platform, Target
from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.transfer import transfer
from support.binaries import edited
from support.building import Builder, Built
from support.macho import ARM64, EXECUTE, X86_64, MachO, fat
from support.recipe_files import RECIPE, write_recipe
from support.registry import RealRegistry
from support.wheels import Wheel

SITE = "lib/python3.12/site-packages"
LONG_HASH = "sha256=" + "A" * 43


def write(root: Path, **files: bytes | str) -> Path:
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def kinds(found: Audit) -> list[tuple[str, str, str]]:
    return [(item.kind, item.path, item.detail) for item in found.report.findings]


def audit(root: Path, **options: object) -> Audit:
    return audit_directory(root, replace(AuditOptions(jobs=2), **options))  # type: ignore[arg-type]


def test_real_wheels_for_apple_silicon_have_no_findings(mac_tree: Path, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(mac_tree, tmp_path / "tree"))
    shutil.rmtree(tree / SITE / "bin", ignore_errors=True)  # scripts that uv wrote for this machine
    for record in tree.glob(f"{SITE}/*.dist-info/RECORD"):
        kept = [
            line
            for line in record.read_text().splitlines()
            if not line.startswith(("bin/", "../../bin/", "../../../bin/"))
        ]
        record.write_text("\n".join(kept) + "\n")
    found = audit(tree)
    assert kinds(found) == []
    assert (str(found.target), found.guessed) == ("darwin/arm64+metal", True)
    assert found.report.binaries >= 3
    assert found.report.macos.startswith("11")
    assert {kind for kind, _, _ in kinds(audit(tree, target=Target.parse("linux/arm64+cpu")))} == {"foreign-binary"}
    library = next(tree.glob(f"{SITE}/safetensors/*.so"))
    content = bytearray(library.read_bytes())
    content[20_000] ^= 1
    library.write_bytes(content)
    assert {kind for kind, _, _ in kinds(audit(tree))} == {"broken-signature", "record-mismatch"}


def test_records(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            f"{SITE}/a/x.py": "x",
            f"{SITE}/a/y.py": "y",
            f"{SITE}/a-1.dist-info/METADATA": "Name: a\nVersion: 1\n",
            f"{SITE}/a-1.dist-info/RECORD": f"a/x.py,{LONG_HASH},1\na/y.py,sha512=x,1\na/gone.py,,\n"
            "a/__pycache__/x.cpython-312.pyc,,\n../../../bin/a,,\n../../../../out,,\na-1.dist-info/RECORD,,\n\n",
            f"{SITE}/b-1.dist-info/METADATA": "Name: b\nVersion: 1\nLicense-Expression: MIT\n",
            f"{SITE}/b-1.dist-info/RECORD": "a/x.py,sha256=other,1\na/y.py,sha512=x,1\n",
            f"{SITE}/c-1.dist-info/METADATA": "Name: c\nVersion: 1\n",
            f"{SITE}/d-1.dist-info/METADATA": "Name: d\nVersion: 1\n",
            f"{SITE}/d-1.dist-info/RECORD": b"\xff\xff",
            f"{SITE}/pkg/_vendor/e-1.dist-info/RECORD": "nothing,,\n",
        },
    )
    found = audit(tmp_path)
    assert kinds(found) == [
        ("missing-record-file", "../out", "a"),
        ("missing-record-file", "bin/a", "a"),
        ("missing-record-file", f"{SITE}/a/gone.py", "a"),
        ("missing-record-file", f"{SITE}/c-1.dist-info/RECORD", "the distribution has no readable RECORD"),
        ("missing-record-file", f"{SITE}/d-1.dist-info/RECORD", "the distribution has no readable RECORD"),
        ("record-mismatch", f"{SITE}/a/x.py", "a"),
        ("record-mismatch", f"{SITE}/a/x.py", "b"),
        ("conflicting-files", f"{SITE}/a/x.py", "a and b"),
    ]
    assert [item.path for item in found.report.listed if item.kind == "unknown-licence"] == ["a", "c", "d"]
    assert ("unknown-licence", "a", "") in kinds(audit(tmp_path, strict=True))


def test_a_tree_that_names_its_own_place(tmp_path: Path) -> None:
    root = write(tmp_path / "prefix", **{"bin/tool": "#!/bin/sh\n", "lib/x.pc": f"prefix={tmp_path}/prefix\n"})
    assert kinds(audit(root)) == [("leaked-path", "lib/x.pc", "directory itself")]
    assert kinds(audit(root, in_place=False)) == []


def test_what_is_neither_a_file_nor_a_link_and_odd_modes(tmp_path: Path) -> None:
    write(tmp_path, **{"a": "x", "d/x": "x", ".mr/receipt.json": "{}", ".mr/lease": ""})
    (tmp_path / "a").chmod(0o4755)
    (tmp_path / "d").chmod(0o1777)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "l").symlink_to("/etc/passwd")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        found = audit(tmp_path)
    assert kinds(found) == [
        ("unsafe-path", "l", "is an absolute link to /etc/passwd"),
        ("unsafe-path", "pipe", "is neither a file nor a link"),
        ("unsafe-path", "socket", "is neither a file nor a link"),
        ("unsafe-mode", "a", "setuid"),
        ("unsafe-mode", "d", "sticky, world-writable directory"),
    ]
    assert found.report.files == 3, "an installer's notes are not part of a bundle"


def test_names_that_are_not_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.so")).write_bytes(b"\x7fELF" + bytes(60))
    found = audit(tmp_path)
    assert (
        [kind for kind, _, _ in kinds(found)] == ["malformed-binary", "unsafe-path"]
        or [kind for kind, _, _ in kinds(found)] == ["unsafe-path", "malformed-binary"]
        or {kind for kind, _, _ in kinds(found)} == {"malformed-binary", "unsafe-path"}
    )
    assert r"\udcff" in show_audit(found)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": MachO().dump()}, "darwin/arm64+metal"),
        (
            {"a": fat((X86_64, MachO(cpu=X86_64).dump()), (ARM64, MachO().dump())), "b": MachO(kind=EXECUTE).dump()},
            "darwin/arm64+metal",
        ),
        ({"a": "x"}, f"{Platform.host()}+{'metal' if Platform.host().os == 'darwin' else 'cpu'}"),
    ],
)
def test_the_target_is_guessed(tmp_path: Path, files: dict[str, bytes | str], expected: str) -> None:
    found = audit(write(tmp_path, **files))
    assert (str(found.target), found.guessed) == (expected, True)


def test_cuda_is_seen_by_its_run_time(tmp_path: Path, libraries: list[Path]) -> None:
    edited(libraries[0], tmp_path / "libcudart.so.13", "--set-rpath", "$ORIGIN")
    assert str(audit(tmp_path).target).endswith("+cuda13")


def test_directories_deeper_than_a_stack(tmp_path: Path) -> None:
    place = str(tmp_path)
    descriptor = os.open(place, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    try:
        assert audit(tmp_path).report.files == 0
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # Python's own way to remove it has a stack, too


def test_missing_directories_and_a_wish_to_stop(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nowhere"):
        audit(tmp_path / "nowhere")
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        audit_directory(tmp_path, AuditOptions(), cancel=cancel)


@pytest.fixture
def bundle(tiny: Built, tmp_path: Path) -> Path:
    """A bundle's tree, as another program unpacks it."""
    return tiny.unpack(tmp_path / "unpacked")


def test_a_bundle_that_was_changed_after_it_was_built(bundle: Path) -> None:
    assert kinds(audit(bundle)) == []
    (bundle / SITE / "words.py").write_text("x = 2\n")
    (bundle / SITE / "more.py").write_text("x = 2\n")
    (bundle / "bin/python3").unlink()
    assert set(kinds(audit(bundle))) == {
        ("record-mismatch", f"{SITE}/words.py", ".mr/files.jsonl"),
        ("record-mismatch", f"{SITE}/words.py", "words"),
        ("record-mismatch", f"{SITE}/more.py", "not in .mr/files.jsonl"),
        ("missing-record-file", "bin/python3", ".mr/files.jsonl"),
    }
    (bundle / ".mr/files.jsonl").write_text("")
    assert ("record-mismatch", ".mr/files.jsonl", ".mr/bundle.json") in kinds(audit(bundle))
    (bundle / ".mr/files.jsonl").unlink()
    assert ("missing-record-file", ".mr/files.jsonl", ".mr/bundle.json") in kinds(audit(bundle))
    (bundle / ".mr/bundle.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"\.mr/bundle\.json"):
        audit(bundle)


def run(*arguments: object) -> tuple[str, BaseException | None]:
    ran = CliRunner().invoke(main, ["audit", *map(str, arguments)], standalone_mode=False)
    return ran.stdout, ran.exception


def test_the_command_on_a_directory(tmp_path: Path) -> None:
    tree = write(
        tmp_path / "tree", **{"bin/a": "#!/usr/bin/python\n", "bin/b": "#!python\n", f"{SITE}/x.pth": "import os\n"}
    )
    out, error = run(tree, "-q")
    assert "shebang (2): a script starts an interpreter outside the bundle" in out
    assert "bin/a  (/usr/bin/python)" in out
    assert out.rstrip().endswith("3 findings")
    assert isinstance(error, BuildError)
    assert error.exit_code == 10
    assert "3 findings of 2 kinds" in error.message
    text = RECIPE + '[[audit.allow]]\nfinding = "shebang"\npaths = ["/bin/*"]\nreason = "tools"\n'
    text += '[[audit.allow]]\nfinding = "startup-code"\npaths = ["x.pth"]\nreason = "harmless"\n'
    text += '[[audit.allow]]\nfinding = "rpath"\npaths = ["gone"]\nreason = "old"\n'
    out, error = run(tree, "-q", "--recipe", write_recipe(tmp_path / "recipe", text))
    assert error is None
    assert "allowed (3, by the recipe named)" in out
    assert "shebang: tools" in out
    assert "covers nothing: rpath in gone" in out
    assert "no findings" in out
    assert len(run(tree, "-q", "--allow-nothing")[1].fields["findings"]) == 3  # type: ignore[union-attr]
    assert "exclude each other" in str(run(tree, "--allow-nothing", "--recipe", tmp_path / "recipe")[1])


def test_json_names_every_path(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", **{f"bin/a{number}": "#!python\n" for number in range(30)})
    out, error = run(tree, "--json")
    assert isinstance(error, BuildError)
    assert len(error.fields["findings"]) == 30  # type: ignore[arg-type]
    assert not [line for line in out.splitlines() if json.loads(line)["event"] == "result"], "an error line follows"
    shutil.rmtree(tree / "bin")
    write(tree, x="x")
    out, error = run(tree, "--json")
    assert error is None
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["findings"], last["files"]) == ("result", [], 1)


def test_floors_from_the_command_line(tmp_path: Path) -> None:
    write(tmp_path, a=MachO(minos="14.0").dump())
    assert "macOS 14.0; 14 is promised" in run(tmp_path, "-q", "--macos", "14")[0]
    out, error = run(tmp_path, "-q", "--macos", "13.5")
    assert "macos-floor (1)" in out
    assert isinstance(error, BuildError)
    for bad in ("x", "1.", "13,5"):
        assert "not a version" in str(run(tmp_path, "--macos", bad)[1])


def test_the_command_on_bundles(tiny: Built, tmp_path: Path) -> None:
    out, error = run(f"oci:{tiny.layout}:tiny-1.0", "-q", "--cache", tmp_path / "c")
    assert error is None, error
    assert out.startswith(f"tiny-1.0 for {tiny.config.target}\n")
    assert out.rstrip().endswith("no findings")
    assert run(tiny.layout, "-q", "--cache", tmp_path / "c")[1] is None, "a layout with one name needs none"
    assert not list((tmp_path / "c/tmp").iterdir()), "nothing stays unpacked"
    with RealRegistry() as registry:
        store = RegistryStore(Reference.parse(f"{registry.host}/tiny:1.0"), options=registry.options())
        transfer(LayoutStore(tiny.layout), "tiny-1.0", store, "1.0")
        store.close()
        out, error = run(
            f"docker://{registry.host}/tiny:1.0",
            "--json",
            "--cache",
            tmp_path / "c",
            "--insecure-registry",
            registry.host,
        )
        last = json.loads(out.splitlines()[-1])
        assert (error, last["findings"], last["name"]) == (None, [], "tiny-1.0")
    for where in (f"oci:{tiny.layout}:other", tmp_path / "nothing", "docker://"):
        assert run(where, "-q")[1] is not None


def test_a_label_that_says_something_else(tiny: Built, bundle: Path) -> None:
    assert kinds(audit(bundle, config=tiny.config)) == []
    other = replace(tiny.config, version="9.9")
    assert (
        Finding(kind="record-mismatch", path=".mr/bundle.json", detail="the image's label")
        in audit(bundle, config=other).report.findings
    )


ALLOWING = """
[licences]
words = "MIT"

[[audit.allow]]
finding = "startup-code"
paths = ["*.pth"]
reason = "nothing to see here"

[[audit.allow]]
finding = "case-collision"
paths = ["/lib/**"]
reason = "nobody has such a disk"
"""


def test_a_bundle_from_elsewhere_does_not_judge_itself(builder: Builder, tmp_path: Path) -> None:
    starting = Wheel(name="starting", files={"starting.pth": "import starting\n", "starting.py": ""})
    result = builder.build(starting, extra=ALLOWING.replace("words", "starting"))
    layout = f"oci:{builder.layout}:{result.ref_name}"
    archive = tmp_path / "bundle.tar"
    with tarfile.open(archive, "w") as file:
        file.add(builder.layout, arcname="")
    cache = ("-q", "--cache", tmp_path / "c")
    out, error = run(layout, *cache)
    assert error is None
    assert "allowed (1, by the bundle's own recipe)" in out
    out, error = run(archive, *cache)
    assert isinstance(error, BuildError)
    assert "`--trust-recipe`" in error.hint
    assert "startup-code (1)" in out
    assert "not counted (1 of the findings above): what the bundle's own recipe would allow" in out
    assert "startup-code: nothing to see here" in out
    assert (error.fields["own_allowances"], error.fields["allowed"]) == (False, [])
    (claimed,) = error.fields["claimed"]  # type: ignore[attr-defined]
    assert (claimed["kind"], claimed["reason"]) == ("startup-code", "nothing to see here")
    assert "unknown-licence" in run(archive, *cache, "--strict")[0], "nor does it name licences"
    out, error = run(archive, *cache, "--trust-recipe")
    assert (error, "allowed (1, by the bundle's own recipe)" in out) == (None, True)
    recipe = write_recipe(tmp_path / "recipe", RECIPE + ALLOWING)
    out, error = run(archive, *cache, "--recipe", recipe)
    assert (error, "allowed (1, by the recipe named)" in out) == (None, True)
    error = run(archive, *cache, "--allow-nothing")[1]
    assert isinstance(error, BuildError)
    assert error.fields["claimed"] == []
    assert "exclude each other" in str(run(archive, "--trust-recipe", "--allow-nothing")[1])


def test_strict_counts_libraries_that_no_distribution_owns(bundle: Path) -> None:
    assert kinds(audit(bundle, strict=True, licences={"tiny-server": "MIT", "words": "MIT"})) == []
    write(bundle, **{"lib/libstrange.so.7": "x", "lib/libowned.so": "x"})
    with next(bundle.glob(f"{SITE}/words-*.dist-info/RECORD")).open("a") as record:
        record.write("../../libowned.so,,\n")
    found = ("unknown-licence", "libstrange", "a library beside the interpreter")
    strict = [item for item in kinds(audit(bundle, strict=True)) if item[0] == "unknown-licence"]
    assert strict == [found, ("unknown-licence", "tiny-server", ""), ("unknown-licence", "words", "")]
    assert found[0] not in {kind for kind, *_ in kinds(audit(bundle))}


def test_options_that_have_no_meaning_here(tiny: Built, bundle: Path, tmp_path: Path) -> None:
    layout = f"oci:{tiny.layout}:tiny-1.0"
    other = write_recipe(tmp_path / "other", RECIPE.replace('name = "tiny"', 'name = "other"'))
    fitting = write_recipe(tmp_path / "fitting", RECIPE)
    system = tiny.config.target.platform.os
    strange, floor = ("--macos", "14") if system == "linux" else ("--glibc", "2.31")
    for where in (layout, bundle):
        place = (where, "-q", "--cache", tmp_path / "c")
        out, error = run(*place, "--recipe", other)
        assert isinstance(error, UsageError)
        assert (out, error.exit_code) == ("", 2)
        assert "with the recipe of `other`: it is a bundle of `tiny`" in error.message
        assert run(*place, "--recipe", fitting)[1] is None
        out, error = run(*place, strange, floor)
        assert isinstance(error, UsageError)
        assert f"`{strange} {floor}`: it is for {tiny.config.target}" in error.message
    mac = write(tmp_path / "mac", a=MachO(minos="14.0").dump())
    assert isinstance(run(mac, "-q", "--glibc", "2.31")[1], UsageError)
    assert run(mac, "-q", "--recipe", other)[1] is None, "a directory that is no bundle has no backend"
