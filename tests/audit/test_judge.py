"""Every kind of finding, on trees that exist only as values; and what allowances cover."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.audit.facts import FileFacts
from mr_bundler.audit.finding import FINDINGS, Allowance, Finding
from mr_bundler.audit.judge import AuditedTree, AuditReport, judge, refuse_findings
from mr_bundler.binaries.binary import Binary, Slice
from mr_bundler.binaries.manylinux import libstdcxx_of
from mr_bundler.environment.leaks import Leak
from mr_core.bundle_config import HostRequirements
from mr_core.decode import dump_json
from mr_core.errors import BuildError
from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from mr_core.platform import Target

SITE = "lib/python3.12/site-packages"
LINUX = Target.parse("linux/amd64+cpu")
CUDA = Target.parse("linux/amd64+cuda13")
MAC = Target.parse("darwin/arm64+metal")


def elf(**values: Any) -> Binary:
    return Binary(format="elf", slices=(Slice(**{"system": "linux", "architecture": "amd64", **values}),))


def macho(**values: Any) -> Binary:
    defaults = {"system": "darwin", "architecture": "arm64", "signature": "valid"}
    return Binary(format="macho", slices=(Slice(**{**defaults, **values}),))


def entries(*paths: str, mode: int = 0o644, **links: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {path: FileEntry(path=path, mode=mode, size=1, sha256="ab" * 32) for path in paths}
    return found | {path: LinkEntry(path=path, link=target) for path, target in links.items()}


def audit(
    tree: Mapping[str, Binary | FileFacts | None],
    target: Target = LINUX,
    *,
    links: Mapping[str, str] | None = None,
    **requires: str,
) -> AuditReport:
    facts = {path: FileFacts(binary=item) if isinstance(item, Binary) else item for path, item in tree.items() if item}
    listed = entries(*tree, mode=0o755, **(links or {}))
    return judge(AuditedTree(entries=listed, facts=facts), target=target, requires=HostRequirements(**requires))


def found(report: AuditReport) -> list[tuple[str, str, str]]:
    return [(finding.kind, finding.path, finding.detail) for finding in report.findings]


@pytest.mark.parametrize(
    ("place", "entry", "kept"),
    [
        (f"{SITE}/x/a.so", "$ORIGIN", True),
        (f"{SITE}/x/a.so", "${ORIGIN}/../y/lib", True),
        (f"{SITE}/x/a.so", "$ORIGIN/../../../..", True),
        (f"{SITE}/x/a.so", "$ORIGIN/../../../../..", False),
        ("lib/a.so", "$ORIGIN/../..", False),
        ("a.so", "$ORIGIN", True),
        ("a.so", "$ORIGIN/..", False),
        (f"{SITE}/a.so", "$ORIGIN//x", True),
        (f"{SITE}/a.so", "/usr/lib", False),
        (f"{SITE}/a.so", "lib", False),
        (f"{SITE}/a.so", ".", False),
        (f"{SITE}/a.so", "$ORIGINAL", False),
        (f"{SITE}/a.so", "$ORIGIN/$LIB", False),
        (f"{SITE}/a.so", "@loader_path", False),
    ],
)
def test_elf_search_paths(place: str, entry: str, kept: bool) -> None:
    assert found(audit({place: elf(rpaths=(entry,))})) == ([] if kept else [("rpath", place, entry)])


def test_empty_entries_and_objects() -> None:
    assert found(audit({"a.so": elf(rpaths=("",))})) == [("rpath", "a.so", "(empty)")]
    assert found(audit({"a.o": elf(kind="object", rpaths=("/x",), needed=("y",), architecture="arm")})) == []


@pytest.mark.parametrize(
    ("place", "entry", "kept"),
    [
        (f"{SITE}/x/a.so", "@loader_path/.dylibs", True),
        (f"{SITE}/x/a.so", "@loader_path/../../../../../..", False),
        (f"{SITE}/x/a.so", "@executable_path/../lib", True),
        (f"{SITE}/x/a.so", "@executable_path/../..", False),
        (f"{SITE}/x/a.so", "/usr/lib/swift", True),
        (f"{SITE}/x/a.so", "/usr/lib/../local", False),
        (f"{SITE}/x/a.so", "/opt/homebrew/lib", False),
        (f"{SITE}/x/a.so", "@rpath/x", False),
        (f"{SITE}/x/a.so", "$ORIGIN", False),
    ],
)
def test_macho_search_paths(place: str, entry: str, kept: bool) -> None:
    assert found(audit({place: macho(rpaths=(entry,))}, MAC)) == ([] if kept else [("rpath", place, entry)])


def test_elf_libraries_are_found_by_name() -> None:
    tree = {
        f"{SITE}/p/libown-1234.so.2": elf(name="libown.so.2"),
        f"{SITE}/p/a.so": elf(needed=("libown.so.2", "libown-1234.so.2", "liblink.so", "libc.so.6", "libstdc++.so.6")),
        f"{SITE}/p/libforeign.so": elf(architecture="arm64", name="libforeign.so"),
        f"{SITE}/p/data.so": None,
    }
    assert found(audit(tree, links={"lib/liblink.so": "x"})) == [
        ("foreign-binary", f"{SITE}/p/libforeign.so", "linux/arm64")
    ]
    for name in (
        "libz.so.1",
        "libforeign.so",
        "data.so",
        "/usr/lib/libc.so.6",
        "lib/libown.so.2",
        "libc.musl-x86_64.so.1",
    ):
        tree[f"{SITE}/p/a.so"] = elf(needed=(name,))
        assert ("missing-library", f"{SITE}/p/a.so", name) in found(audit(tree))
    tree[f"{SITE}/p/a.so"] = elf(needed=("$ORIGIN/libown-1234.so.2", "$ORIGIN/../p/libown-1234.so.2"))
    assert len(found(audit(tree))) == 1
    tree[f"{SITE}/p/a.so"] = elf(needed=("$ORIGIN/../libown-1234.so.2",))
    assert len(found(audit(tree))) == 2


def test_the_loader_of_an_executable() -> None:
    assert found(audit({"bin/x": elf(kind="executable", needed=("/lib64/ld-linux-x86-64.so.2",))})) == []
    nix = "/nix/store/x-glibc/lib/ld-linux-x86-64.so.2"
    assert found(audit({"bin/x": elf(kind="executable", needed=(nix,))})) == [("missing-library", "bin/x", nix)]


def test_the_drivers_libraries_belong_to_cuda_targets_only() -> None:
    tree = {"a.so": elf(needed=("libcuda.so.1", "libnvidia-ml.so.1", "libnvcuvid.so.1"))}
    assert found(audit(tree, CUDA)) == []
    assert len(found(audit(tree))) == 3
    assert len(found(audit({"a.so": elf(needed=("libcudart.so.13",))}, CUDA))) == 1


def test_macho_libraries() -> None:
    kept = (
        "/usr/lib/libSystem.B.dylib",
        "/System/Library/Frameworks/Metal.framework/Versions/A/Metal",
        "@rpath/libmlx.dylib",
        "@loader_path/lib/libmlx.dylib",
        "@executable_path/../lib/libpython3.12.dylib",
        "libmlx.dylib",
    )
    missing = (
        "/usr/local/lib/libomp.dylib",
        "/usr/lib/../local/libomp.dylib",
        "/opt/homebrew/lib/libomp.dylib",
        "@rpath/libomp.dylib",
        "@loader_path/libmlx.dylib",
        "@executable_path/libpython3.12.dylib",
        "libomp.dylib",
    )
    tree = {
        f"{SITE}/mlx/core.so": macho(needed=kept + missing, optional=("/opt/x.dylib",)),
        f"{SITE}/mlx/lib/libmlx.dylib": macho(name="@rpath/libmlx.dylib"),
        "lib/libpython3.12.dylib": macho(name="/install/lib/libpython3.12.dylib"),
    }
    assert {detail for _, _, detail in found(audit(tree, MAC))} == set(missing)


def test_floors() -> None:
    tree = {"a.so": elf(floor="2.34"), "b.so": elf(floor="2.4"), "c.so": elf()}
    assert found(audit(tree, glibc="2.34")) == []
    assert found(audit(tree, glibc="2.17")) == [("glibc-floor", "a.so", "2.34")]
    report = audit(tree)
    assert (found(report), report.glibc, report.macos, report.binaries) == ([], "2.34", "", 3)
    mac = {"a.so": macho(floor="14.0"), "b.so": macho(floor="13.3.1")}
    assert found(audit(mac, MAC, macos="14")) == []
    assert found(audit(mac, MAC, macos="13.3")) == [("macos-floor", "a.so", "14.0"), ("macos-floor", "b.so", "13.3.1")]
    assert audit(mac, MAC).macos == "14.0"


def test_libstdcxx_of_the_promised_glibc() -> None:
    tree = {
        "a.so": elf(cxx=("CXXABI_1.3.13", "GLIBCXX_3.4.29")),
        "b.so": elf(cxx=("CXXABI_1.3.9", "GLIBCXX_3.4.9")),
        "c.so": elf(cxx=("GLIBCXX_3.5",)),
    }
    newest = ("libstdcxx-floor", "c.so", "GLIBCXX_3.5")
    assert found(audit(tree, glibc="2.34")) == [newest]
    assert found(audit(tree, glibc="2.33")) == [
        ("libstdcxx-floor", "a.so", "CXXABI_1.3.13"),
        ("libstdcxx-floor", "a.so", "GLIBCXX_3.4.29"),
        newest,
    ]
    report = audit(tree)
    assert (found(report), report.libstdcxx) == ([], "GLIBCXX_3.5"), "nothing was promised"
    brought = {**tree, "lib/libstdc++.so.6": elf(name="libstdc++.so.6")}
    assert found(audit(brought, glibc="2.17")) == [], "the bundle brings its own"
    allowed = judge(
        AuditedTree(entries=entries("c.so"), facts={"c.so": FileFacts(binary=tree["c.so"])}),
        target=LINUX,
        requires=HostRequirements(glibc="2.34"),
        allow=[allowance("libstdcxx-floor", "/c.so")],
    )
    assert (len(allowed.findings), len(allowed.allowed)) == (0, 1)


@pytest.mark.parametrize(
    ("glibc", "glibcxx", "cxxabi"),
    [("2.5", 8, 1), ("2.17", 19, 7), ("2.26", 22, 10), ("2.28", 24, 11), ("2.35", 30, 13), ("2.99", 33, 15)],
)
def test_policies_of_manylinux(glibc: str, glibcxx: int, cxxabi: int) -> None:
    number = tuple(int(part) for part in glibc.split("."))
    assert libstdcxx_of(number) == {"GLIBCXX": (3, 4, glibcxx), "CXXABI": (1, 3, cxxabi)}
    assert libstdcxx_of((2, 4)) == {}


def test_binaries_of_elsewhere() -> None:
    both = Binary(format="macho", slices=(macho(architecture="amd64", signature="unsigned").slices + macho().slices))
    assert found(audit({"a.so": both}, MAC)) == []
    assert found(audit({"a.so": both}, Target.parse("darwin/amd64+cpu"))) == []
    assert found(audit({"a.so": both})) == [("foreign-binary", "a.so", "darwin/amd64, darwin/arm64")]
    assert found(audit({"a.so": macho(system="ios")}, MAC)) == [("foreign-binary", "a.so", "ios/arm64")]
    assert found(audit({"a.so": Binary(format="elf", problem="it is cut")})) == [
        ("malformed-binary", "a.so", "it is cut")
    ]


def test_signatures() -> None:
    assert found(audit({"a": macho(signature="unsigned")}, MAC)) == [("broken-signature", "a", "unsigned")]
    assert found(audit({"a": macho(signature="the page at 0x0 differs")}, MAC)) == [
        ("broken-signature", "a", "the page at 0x0 differs")
    ]
    intel = Target.parse("darwin/amd64+cpu")
    assert found(audit({"a": macho(architecture="amd64", signature="unsigned")}, intel)) == []
    assert len(found(audit({"a": macho(architecture="amd64", signature="it is malformed")}, intel))) == 1


@pytest.mark.parametrize(
    ("path", "shebang", "outcome"),
    [
        ("bin/x", "/bin/sh", "fine"),
        ("bin/x", "/bin/sh -e", "fine"),
        ("bin/x", "/usr/bin/env python3", "fails"),
        ("bin/x", "/opt/build/bin/python3.12", "fails"),
        ("bin/x", "python", "fails"),
        (f"{SITE}/a/x", "/usr/bin/env python3", "listed"),
        (f"{SITE}/a/x", "/usr/local/bin/python", "listed"),
        (f"{SITE}/a/x", "<<PYTHON>>", "listed"),
        (f"{SITE}/a/x", "/home/me/venv/bin/python", "fails"),
        (f"{SITE}/a/x", "/bin/sh", "fine"),
    ],
)
def test_shebangs(path: str, shebang: str, outcome: str) -> None:
    report = audit({path: FileFacts(shebang=shebang)})
    expected = Finding(kind="shebang", path=path, detail=shebang)
    assert report.findings == ((expected,) if outcome == "fails" else ())
    assert report.listed == ((expected,) if outcome == "listed" else ())


def test_sources_that_nobody_starts_are_not_even_listed() -> None:
    facts = {"a.py": FileFacts(shebang="/usr/bin/env python"), "b.py": FileFacts(shebang="/home/me/bin/python")}
    report = judge(AuditedTree(entries=entries(*facts), facts=facts), target=LINUX, requires=HostRequirements())
    assert (found(report), report.listed) == ([("shebang", "b.py", "/home/me/bin/python")], ())


def test_code_that_runs_at_every_start() -> None:
    tree = {
        f"{SITE}/x.pth": FileFacts(startup=("import os", "import sys")),
        f"{SITE}/sitecustomize.py": None,
        f"{SITE}/usercustomize/__init__.py": None,
        f"{SITE}/sitecustomize.cpython-312-x86_64-linux-gnu.so": None,
        "lib/python3.12/sitecustomize.py": None,
        f"{SITE}/pkg/sitecustomize.py": None,
        f"{SITE}/sitecustomizer.py": None,
        "lib/python3.12/__pycache__/sitecustomize.cpython-312.pyc": None,
    }
    kinds = {(path, detail) for kind, path, detail in found(audit(tree)) if kind == "startup-code"}
    assert kinds == {
        (f"{SITE}/x.pth", "import os"),
        (f"{SITE}/x.pth", "import sys"),
        *((path, "imported at every start") for path in list(tree)[1:5]),
    }


def test_leaks_traces_licences_and_what_others_found() -> None:
    extra = Finding(kind="record-mismatch", path="a", detail="x")
    tree = AuditedTree(
        entries=entries("a"),
        facts={"a": FileFacts(traces=("a `file:` address",))},
        leaks=[Leak(path="a", what="cache")],
        licences={"good": "MIT", "odd": ""},
        extra=[extra, extra],
    )
    expected = [("leaked-path", "a", "a `file:` address"), ("leaked-path", "a", "cache"), ("record-mismatch", "a", "x")]
    report = judge(tree, target=LINUX, requires=HostRequirements())
    assert (found(report), report.listed) == (expected, (Finding(kind="unknown-licence", path="odd"),))
    strict = judge(tree, target=LINUX, requires=HostRequirements(), strict=True)
    assert (found(strict), strict.listed) == ([*expected, ("unknown-licence", "odd", "")], ())


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a\nb", "control character"),
        ("a\\b", "backslash"),
        ("a\udcff", "UTF-8"),
        ("x" * 256, "longer than 255"),
        ("/".join(["y" * 200] * 6), "longer than 1024"),
        ("/".join(["y"] * 70), "too deep"),
        ("e\u0301", "normal form"),
        ("a/.wh.b", "whiteout"),
        ("a/C:/b", "drive"),
    ],
)
def test_paths_that_some_host_cannot_extract(path: str, problem: str) -> None:
    (finding,) = audit({path: None}).findings
    assert finding.kind == "unsafe-path"
    assert problem in finding.detail
    odd = AuditedTree(entries=entries(path), facts={path: FileFacts(startup=("import \udcff",), shebang="/x")})
    report = judge(odd, target=LINUX, requires=HostRequirements())
    assert len(report.findings) == 3
    dump_json(report.to_json())  # whatever the name was, a report can be written


@pytest.mark.parametrize(
    ("link", "target", "problem"),
    [
        ("a/l", "/etc/passwd", "absolute"),
        ("a/l", "../../x", "outside the tree"),
        ("a/l", "../b/up/../../x", "outside the tree"),
        ("a/l", "", "empty"),
        ("a/l", "x//y", "empty component"),
        ("a/l", "./x", "empty component"),
        ("a/l", "x\ny", "control"),
        ("a/l", "file/x", "no directory"),
        ("a/l", "l", "does not end"),
    ],
)
def test_links_that_lead_elsewhere(link: str, target: str, problem: str) -> None:
    tree = entries("a/file", "b/c/file", **{link: target, "b/up": "../b/c/../.."})
    tree["b/up"] = LinkEntry(path="b/up", link="c/../..")
    report = judge(AuditedTree(entries=tree), target=LINUX, requires=HostRequirements())
    details = [finding.detail for finding in report.findings if finding.path == link]
    assert len(details) == 1
    assert problem in details[0]


def test_links_that_stay() -> None:
    tree = entries(
        "bin/python3.12", "b/c/f", **{"bin/python3": "python3.12", "b/up": "c/..", "l": "b/up/c/f", "gone": "b/no"}
    )
    assert found(judge(AuditedTree(entries=tree), target=LINUX, requires=HostRequirements())) == []


def test_a_path_that_is_a_file_and_a_directory() -> None:
    tree = entries("x", "x/y", "a/b/c", **{"lib64": "a", "lib64/z": "b"})
    tree["lib64/z"] = FileEntry(path="lib64/z", mode=0o644, size=1, sha256="ab" * 32)
    tree["a/b"] = LinkEntry(path="a/b", link="../x")
    assert found(judge(AuditedTree(entries=tree), target=LINUX, requires=HostRequirements())) == [
        ("unsafe-path", "a/b", "is a link and a directory"),
        ("unsafe-path", "lib64", "is a link and a directory"),
        ("unsafe-path", "x", "is a file and a directory"),
    ]


@pytest.mark.parametrize("kind", ["unsafe-path", "unsafe-mode", "case-collision"])
def test_what_no_host_can_extract_is_never_allowed(kind: str) -> None:
    tree = {"a\\b": None, "c/Readme": None, "c/README": None, "d": None}
    listed = {**entries(*tree), "d": FileEntry(path="d", mode=0o4755, size=1, sha256="ab" * 32)}
    everything = [allowance(kind, "/**")]
    report = judge(AuditedTree(entries=listed), target=LINUX, requires=HostRequirements(), allow=everything)
    assert {finding.kind for finding in report.findings} == {"unsafe-path", "unsafe-mode", "case-collision"}
    assert (report.allowed, list(report.unused)) == ((), everything)
    with pytest.raises(BuildError) as caught:
        refuse_findings(report, "x")
    assert "no host could install it, whatever a recipe allows" in caught.value.hint


def test_names_that_are_one_on_some_filesystems() -> None:
    tree = {"a/Readme": None, "a/README": None, "a/B/x": None, "a/b/y": None, "straße": None, "STRASSE": None}
    assert found(audit(tree)) == [
        ("case-collision", "a/Readme", "a/README"),
        ("case-collision", "a/b", "a/B"),
        ("case-collision", "straße", "STRASSE"),
    ]


@pytest.mark.parametrize(
    ("mode", "detail"), [(0o4755, "setuid"), (0o2755, "setgid"), (0o1644, "sticky"), (0o666, "world-writable")]
)
def test_modes(mode: int, detail: str) -> None:
    tree = AuditedTree(entries=entries("a", mode=mode))
    assert found(judge(tree, target=LINUX, requires=HostRequirements())) == [("unsafe-mode", "a", detail)]
    assert found(judge(AuditedTree(entries=entries("a", mode=0o664)), target=LINUX, requires=HostRequirements())) == []


def allowance(finding: str = "rpath", *paths: str, **values: Any) -> Allowance:
    return Allowance(finding=finding, paths=paths or ("p/*.so",), reason="looked at", **values)


TREE = AuditedTree(
    entries=entries(f"{SITE}/p/a.so", "lib/b.so"),
    facts={
        f"{SITE}/p/a.so": FileFacts(binary=elf(rpaths=("/opt", "/srv"))),
        "lib/b.so": FileFacts(binary=elf(needed=("libx.so.1",))),
    },
    licences={"Odd_One": ""},
)


@pytest.mark.parametrize(
    ("allow", "left", "stale"),
    [
        ([], 3, 0),
        ([allowance()], 1, 0),
        ([allowance("rpath", "**/*.so")], 1, 0),
        ([allowance("rpath", "p")], 1, 0),
        ([allowance(details=("/opt",))], 2, 0),
        ([allowance(details=("/opt", "/srv"))], 1, 0),
        ([allowance(details=("/op",))], 3, 1),
        ([allowance("rpath", "a.so")], 3, 1),
        ([allowance("missing-library")], 3, 1),
        ([allowance("missing-library", "/lib/b.so")], 2, 0),
        ([allowance(targets=("linux/amd64+cpu",))], 1, 0),
        ([allowance(targets=("linux/arm64+cpu",))], 3, 0),
        ([allowance(), allowance("rpath", "p/**")], 1, 0),
        ([allowance("unknown-licence", "odd-one")], 3, 0),
    ],
)
def test_allowances(allow: list[Allowance], left: int, stale: int) -> None:
    report = judge(TREE, target=LINUX, requires=HostRequirements(), allow=allow)
    assert (len(report.findings), len(report.allowed), len(report.unused)) == (left, 3 - left, stale)
    assert all(item.reason == "looked at" for _, item in report.allowed)


def test_allowed_licences_are_named() -> None:
    allow = [allowance("unknown-licence", "odd-one"), allowance("unknown-licence", "other")]
    report = judge(TREE, target=LINUX, requires=HostRequirements(), allow=allow, strict=True)
    assert len(report.findings) == 3
    assert [finding.path for finding, _ in report.allowed] == ["Odd_One"]
    assert report.unused == (allow[1],)


def test_the_refusal_names_kind_path_and_detail() -> None:
    refuse_findings(AuditReport(), "x")
    report = judge(TREE, target=LINUX, requires=HostRequirements(), allow=[allowance(details=("/opt",))])
    with pytest.raises(
        BuildError, match=r"accept the tree: rpath in `.*/p/a.so` \(/srv\); missing-library in"
    ) as caught:
        refuse_findings(report, "the tree")
    assert caught.value.exit_code == 10
    assert "audit.allow" in caught.value.hint
    assert [item["kind"] for item in caught.value.fields["findings"]] == ["rpath", "missing-library"]  # type: ignore[attr-defined]
    assert caught.value.fields["allowed"][0]["reason"] == "looked at"  # type: ignore[index]
    many = AuditReport(findings=tuple(Finding(kind="rpath", path=str(number)) for number in range(9)))
    with pytest.raises(BuildError, match="and 4 more"):
        refuse_findings(many, "x")


def test_every_kind_of_finding_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    elsewhere = {"missing-record-file", "conflicting-files"}  # found by comparing with RECORDs
    assert all(f'"{kind}"' in text for kind in FINDINGS.keys() - elsewhere)
