"""Two owners, a missing file, slimming: what parts make together, and who is told what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.audit.facts import FileFacts
from mr_bundler.audit.finding import Finding
from mr_bundler.environment.compose import compose
from mr_bundler.environment.examine_parts import Examination, finish_wheels, is_note
from mr_bundler.environment.leaks import Leak, Needle
from mr_bundler.environment.parts import INTERPRETER, Part, part_key, sorted_entries
from mr_bundler.environment.slim import SlimSaving
from mr_bundler.environment.tree import list_tree
from mr_bundler.environment.wheel_record import dump_record, parse_record, read_rows
from mr_bundler.papers.metadata import DistributionMetadata
from mr_bundler.recipe.recipe import SlimRules
from mr_bundler.wheels.uv import install_wheels
from mr_core.errors import BuildError
from mr_core.events import Cancel, discard
from mr_core.file_manifest import FileEntry, LinkEntry
from support.building import SERVER, Builder
from support.wheels import Wheel

SITE = "lib/python3.12/site-packages"
KEEP_ALL = SlimRules()


def file(path: str, content: str = "", mode: int = 0o644) -> FileEntry:
    return FileEntry(path=path, mode=mode, size=len(content), sha256=hashlib.sha256(content.encode()).hexdigest())


def part(name: str, **files: str) -> Part:
    entries = [file(f"{SITE}/{path.replace('__', '/')}", content) for path, content in files.items()]
    return Part(owner=name, place=f"{SITE}/{name}-1.dist-info", entries=sorted_entries(entries))


def make_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(place))


def test_same_bytes_belong_to_the_first() -> None:
    parts = {"b": part("b", shared="x"), "a": part("a", shared="x", own="y")}
    made = compose(parts, KEEP_ALL)
    assert list(made.owned) == ["a", "b"]
    assert [entry.path for entry in made.owned["a"]] == [
        f"{SITE}/a-1.dist-info/RECORD",
        f"{SITE}/own",
        f"{SITE}/shared",
    ]
    assert [entry.path for entry in made.owned["b"]] == [f"{SITE}/b-1.dist-info/RECORD"]
    assert made.findings == ()
    assert b"\nshared,sha256=" in b"\n" + made.records[f"{SITE}/b-1.dist-info/RECORD"], "both say that they have it"
    assert compose(dict(reversed(parts.items())), KEEP_ALL) == made


def test_the_mode_of_a_shared_file_is_nobodys_choice() -> None:
    for mode in (0o644, 0o755):
        one = replace(part("a"), entries=(file("bin/x", "x", mode), file(f"{SITE}/y", "y", mode)))
        made = compose({"a": one, "b": replace(part("b"), entries=one.entries)}, KEEP_ALL).entries
        modes = [entry.mode for path in ("bin/x", f"{SITE}/y") if isinstance(entry := made[path], FileEntry)]
        assert modes == [0o755, 0o644]


def test_other_bytes_are_a_finding_that_names_both() -> None:
    made = compose({"a": part("a", shared="x"), "b": part("b", shared="y")}, KEEP_ALL)
    assert made.findings == (Finding(kind="conflicting-files", path=f"{SITE}/shared", detail="a and b"),)
    assert made.entries[f"{SITE}/shared"] == file(f"{SITE}/shared", "x")
    settled = compose({"a": part("a", shared="x"), "b": part("b", shared="y")}, SlimRules(remove=("shared",)))
    assert settled.findings == ()


def test_interpreter_files_are_not_overwritten() -> None:
    base = Part(owner=INTERPRETER, entries=(file(f"{SITE}/x", "theirs"),))
    made = compose({"a": part("a", x="ours"), INTERPRETER: base}, KEEP_ALL)
    assert made.findings == (Finding(kind="conflicting-files", path=f"{SITE}/x", detail=f"{INTERPRETER} and a"),)
    assert list(made.owned) == [INTERPRETER, "a"]
    assert made.entries[f"{SITE}/x"] == base.entries[0]


def test_records_that_are_not_so() -> None:
    odd = replace(part("a", there="x"), missing=(f"{SITE}/gone",), mismatched=(f"{SITE}/there",))
    assert set(compose({"a": odd}, KEEP_ALL).findings) == {
        Finding(kind="missing-record-file", path=f"{SITE}/gone", detail="a"),
        Finding(kind="record-mismatch", path=f"{SITE}/there", detail="a"),
    }
    assert compose({"a": odd}, SlimRules(remove=("there",))).findings == (
        Finding(kind="missing-record-file", path=f"{SITE}/gone", detail="a"),
    )


def test_what_goes_takes_what_is_known_of_it_along() -> None:
    one = replace(
        part("a", **{"x.pth": "x", "y.py": "y", "tests__z.py": "zzz"}),
        unchanged=frozenset({f"{SITE}/y.py", f"{SITE}/tests/z.py"}),
        leaks=(Leak(path=f"{SITE}/tests/z.py", what="home directory"),),
        facts={f"{SITE}/x.pth": FileFacts(startup=("import z",))},
        import_roots={f"{SITE}/x.pth": (f"{SITE}/elsewhere",)},
    )
    whole = compose({"a": one}, KEEP_ALL)
    assert (len(whole.leaks), len(whole.facts), whole.import_roots) == (1, 1, (f"{SITE}/elsewhere",))
    slim = compose({"a": one}, SlimRules(remove=("tests", "*.pth", "nothing")))
    assert (slim.leaks, slim.facts, slim.import_roots) == ((), {}, ())
    assert slim.unchanged == {f"{SITE}/y.py"}
    assert [row for row in slim.records[one.record].decode().splitlines() if not row.startswith("a-1.dist")] == [
        f"y.py,sha256={dump_record('x', [file(f'{SITE}/y.py', 'y')]).decode().split('sha256=')[1].splitlines()[0]}"
    ]


def test_savings_of_rules() -> None:
    parts = {"a": part("a", tests__a="12345", tests__keep="1", b="12"), "b": part("b", tests__c="123")}
    rules = SlimRules(remove=("**/tests", "tests", "b", "never"), keep=("tests/keep",))
    plan = compose(parts, rules).slim
    assert plan.savings == (SlimSaving(rule="**/tests", files=2, bytes=8), SlimSaving(rule="b", files=1, bytes=2))
    assert plan.unused == ("never",), "a rule that only repeats another is not stale"
    assert plan.removed == {f"{SITE}/tests/a", f"{SITE}/tests/c", f"{SITE}/b"}


def test_a_whole_distribution_can_go() -> None:
    made = compose({"a": part("a", x="x", **{"a-1.dist-info__METADATA": ""})}, SlimRules(remove=("a-1.dist-info", "x")))
    assert made.owned == {"a": ()}
    assert made.records == {}


def test_parts_are_read_back() -> None:
    whole = Part(
        owner="ä",
        place=f"{SITE}/a-1.dist-info",
        entries=sorted_entries([file("bin/ü", "x", 0o755), file("b"), LinkEntry(path="c", link="b")]),
        unchanged=frozenset({"b"}),
        missing=("m",),
        mismatched=("n",),
        leaks=(Leak(path="b", what="uv cache"),),
        facts={"b": FileFacts(shebang="/bin/sh", startup=("import x",))},
        metadata=DistributionMetadata(name="ä", version="1", links=(("vcs", "x"),), requires=("b>1",)),
        import_roots={"x.pth": ("y",)},
    )
    for item in (whole, Part(owner=INTERPRETER, entries=())):
        assert Part.from_json(json.loads(json.dumps(item.to_json()))) == item
    with pytest.raises((KeyError, TypeError, ValueError)):
        Part.from_json({**whole.to_json(), "files": [["a", 1]]})


def test_keys_follow_what_decides_a_part() -> None:
    needle = Needle(what="cache directory", text=b"/a/b")
    keys = {
        part_key(["wheel", "a.whl", "0"], tool="t", needles=[needle]),
        part_key(["wheel", "a.whl", "1"], tool="t", needles=[needle]),
        part_key(["wheel", "a.whl", "0"], tool="u", needles=[needle]),
        part_key(["wheel", "a.whl", "0"], tool="t", needles=[]),
        part_key(["wheel", "a.whl", "0"], tool="t", needles=[replace(needle, anywhere=False)]),
    }
    assert len(keys) == 5


def test_notes() -> None:
    notes = ("REQUESTED", "direct_url.json", "uv_cache.json", "RECORD.jws")
    assert all(is_note(f"{SITE}/a-1.dist-info/{note}") for note in notes)
    assert is_note(f"{SITE}/__pycache__/x.cpython-312.pyc")
    assert not any(map(is_note, (f"{SITE}/direct_url.json", f"{SITE}/x.pyc", f"{SITE}/a-1.dist-info/METADATA")))


def test_paths_of_a_record_are_those_of_the_tree() -> None:
    text = 'a/b.py,sha256=x,1\r\n../../../bin/a,sha256=y,2\n"with, comma",,\n./a//c.py,,\n\n'
    assert parse_record(text, "x") == {
        f"{SITE}/a/b.py": "sha256=x",
        "bin/a": "sha256=y",
        f"{SITE}/with, comma": "",
        f"{SITE}/a/c.py": "",
    }


@pytest.mark.parametrize("path", ["../../../../etc/x", "/etc/x", "../../../.."])
def test_records_do_not_leave_the_tree(path: str) -> None:
    with pytest.raises(BuildError, match="outside the environment"):
        parse_record(f"{path},,\n", "x")


def test_rows_of_a_record_anywhere() -> None:
    text = "a.py,sha256=x,1\n../../out,,\n/etc/x,,\n,,\n"
    assert read_rows(text, "deep/site-packages") == {"deep/site-packages/a.py": "sha256=x", "out": "", "/etc/x": ""}
    assert read_rows("../a\n", "") == {"../a": ""}


@pytest.mark.parametrize("make", [os.mkfifo, make_socket])
def test_what_is_neither_a_file_nor_a_link(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/link").symlink_to("nowhere")
    assert list(list_tree(tmp_path)) == ["lib/link"]
    make(tmp_path / "lib/odd")
    with pytest.raises(BuildError, match="`lib/odd` is neither a file, a directory nor a link"):
        list_tree(tmp_path)


def test_written_records_are_read_back() -> None:
    files = [
        FileEntry(path="bin/ä", mode=0o755, size=1, sha256="ab" * 32),
        FileEntry(path=f"{SITE}/x, y.py", mode=0o644, size=2, sha256="cd" * 32),
    ]
    raw = dump_record(f"{SITE}/a-1.dist-info", files)
    assert raw == dump_record(f"{SITE}/a-1.dist-info", files[::-1])
    assert raw.decode() == (
        "../../../bin/ä,sha256=q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s,1\n"
        '"x, y.py",sha256=zc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc0,2\n'
        "a-1.dist-info/RECORD,,\n"
    )
    assert list(parse_record(raw.decode(), "x")) == ["bin/ä", f"{SITE}/x, y.py", f"{SITE}/a-1.dist-info/RECORD"]


def test_real_wheels_that_clash(builder: Builder) -> None:
    one = Wheel(name="one", files={"shared/__init__.py": "who = 1\n"})
    two = Wheel(name="two", files={"shared/__init__.py": "who = 2\n"})
    with pytest.raises(BuildError, match=rf"conflicting-files in `{SITE}/shared/__init__\.py` \(one and two\)"):
        builder.build(one, two)
    agreeing = Wheel(name="two", files=one.files)
    listing = builder.open(builder.build(one, agreeing)).listing()
    assert "one" in listing[f"{SITE}/shared/__init__.py"]


ALLOW = '[[audit.allow]]\nfinding = "conflicting-files"\npaths = ["shared/**"]\nreason = "either will do"\n'


def test_an_allowed_clash_ends_the_same_way_every_time(builder: Builder, tmp_path: Path) -> None:
    one = Wheel(name="one", files={"shared/__init__.py": "who = 1\n", "one.py": ""})
    two = Wheel(name="two", files={"shared/__init__.py": "who = 2\n", "two.py": ""})
    results = [
        builder.build(one, two, extra=ALLOW, use_cache=False),
        builder.build(two, one, extra=ALLOW, jobs=1),
        builder.build(one, two, extra=ALLOW, layout=tmp_path / "again"),
    ]
    assert len({result.digest for result in results}) == 1
    (allowed,) = results[0].audit.allowed
    assert (allowed.kind, allowed.detail, allowed.reason) == ("conflicting-files", "one and two", "either will do")
    prefix = builder.open(results[0]).unpack(tmp_path / "tree")
    assert (prefix / SITE / "shared/__init__.py").read_text() == "who = 1\n"
    rows = [(prefix / SITE / f"{name}-1.0.dist-info/RECORD").read_text().splitlines() for name in ("one", "two")]
    shared = [row for record in rows for row in record if row.startswith("shared/")]
    assert len(shared) == 2
    assert len(set(shared)) == 1, "both say what is there"


def test_real_wheels_that_share_a_script_name(builder: Builder) -> None:
    one = Wheel(name="one", files={"one.py": ""}, scripts={"run-it": "one:main"})
    two = Wheel(name="two", files={"two.py": ""}, scripts={"run-it": "two:main"})
    with pytest.raises(BuildError, match=r"conflicting-files in `bin/run-it` \(one and two\)"):
        builder.build(one, two)


def test_uv_repairs_records(builder: Builder, tmp_path: Path) -> None:
    odd = Wheel(
        name="odd", files={"odd.py": "", "odd/stray.txt": "x"}, ghosts=("ghost.py",), unlisted=("odd/stray.txt",)
    )
    prefix = builder.open(builder.build(odd)).unpack(tmp_path / "tree")
    record = (prefix / SITE / "odd-1.0.dist-info/RECORD").read_text()
    assert "odd/stray.txt,sha256=" in record
    assert "ghost" not in record


def test_what_is_not_as_its_record_says(builder: Builder, tmp_path: Path) -> None:
    odd = Wheel(name="odd", files={"odd/a.py": "a", "odd/b.py": "b", "odd/c.py": "c"})
    lock = builder.lock(builder.recipe(), [SERVER, odd])
    install_wheels(lock, prefix=tmp_path / "tree", python=builder.python / "bin/python3.12")
    site = tmp_path / "tree" / SITE
    (site / "odd/a.py").write_text("A")
    (site / "odd/b.py").unlink()
    (site / "odd/__pycache__").mkdir()
    (site / "odd/__pycache__/c.cpython-312.pyc").write_text("left by somebody")
    examination = Examination(needles=(), jobs=1, report=discard, cancel=Cancel())
    parts = finish_wheels(tmp_path / "tree", examination)
    assert set(parts) == {"odd", "tiny-server"}
    assert parts["odd"].mismatched == (f"{SITE}/odd/a.py",)
    assert parts["odd"].missing == (f"{SITE}/odd/b.py",)
    assert {path for path in parts["odd"].unchanged if "/odd/" in path} == {f"{SITE}/odd/c.py"}
    assert not (site / "odd/__pycache__/c.cpython-312.pyc").exists()
    (site / "odd/stranger.py").write_text("who am I")
    with pytest.raises(BuildError, match=rf"`{SITE}/odd/stranger\.py`: no distribution's RECORD names it") as caught:
        finish_wheels(tmp_path / "tree", examination)
    assert caught.value.hint
