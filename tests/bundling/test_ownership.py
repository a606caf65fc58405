"""Two owners, no owner, a missing file: each is found, and the error names who."""

from __future__ import annotations

import pytest

from mr_bundler.ownership import INTERPRETER, decide_ownership
from mr_bundler.wheel_record import InstalledDistribution, dump_record, parse_record
from mr_core.errors import BuildError
from mr_core.file_manifest import FileEntry
from support.building import Builder
from support.wheels import Wheel

SITE = "lib/python3.12/site-packages"


def distribution(name: str, **files: str) -> InstalledDistribution:
    return InstalledDistribution(
        name=name,
        version="1",
        place=f"{SITE}/{name}-1.dist-info",
        files={f"{SITE}/{path.replace('__', '/')}": digest for path, digest in files.items()},
    )


def test_same_bytes_belong_to_the_first() -> None:
    first, second = distribution("a", shared="sha256=x", own="sha256=y"), distribution("b", shared="sha256=x")
    present = ["bin/python3.12", f"{SITE}/own", f"{SITE}/shared"]
    ownership = decide_ownership(["bin/python3.12"], [first, second], present)
    assert ownership.owners == {"bin/python3.12": INTERPRETER, f"{SITE}/own": "a", f"{SITE}/shared": "a"}
    assert ownership.dropped == ()


@pytest.mark.parametrize(("one", "other"), [("sha256=x", "sha256=y"), ("sha256=x", ""), ("", "")])
def test_other_bytes_are_an_error_that_names_both(one: str, other: str) -> None:
    with pytest.raises(BuildError, match=f"`a` and `b` both own `{SITE}/shared`, with different bytes"):
        decide_ownership([], [distribution("a", shared=one), distribution("b", shared=other)], [f"{SITE}/shared"])


def test_interpreter_files_are_not_overwritten() -> None:
    with pytest.raises(BuildError, match="of `a` overwrites a file of the interpreter"):
        decide_ownership([f"{SITE}/x"], [distribution("a", x="sha256=x")], [f"{SITE}/x"])


def test_missing_and_unowned_files() -> None:
    with pytest.raises(BuildError) as caught:
        decide_ownership([], [distribution("a", gone="sha256=x")], [f"{SITE}/stranger", ".lock"])
    assert caught.value.fields["problems"] == [
        f"`{SITE}/gone` is in the RECORD of `a`, but not in the environment",
        f"`{SITE}/stranger` belongs to no distribution",
    ]


def test_installation_notes_are_dropped() -> None:
    notes = ("REQUESTED", "direct_url.json", "uv_cache.json", "RECORD.jws")
    one = distribution("a", x="sha256=x", **{f"a-1.dist-info__{note}": "sha256=x" for note in notes})
    pyc = f"{SITE}/__pycache__/x.cpython-312.pyc"
    notes_there = [f"{SITE}/a-1.dist-info/{note}" for note in notes]
    ownership = decide_ownership([], [one], [f"{SITE}/x", *notes_there, pyc, ".lock"])
    assert ownership.owners == {f"{SITE}/x": "a"}
    assert set(ownership.dropped) == {*notes_there, pyc, ".lock"}
    assert decide_ownership([], [one], [f"{SITE}/x"]).dropped == (), "a note that is not there is not missed"


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
    with pytest.raises(BuildError, match=f"`one` and `two` both own `{SITE}/shared/__init__.py`"):
        builder.build(one, two)
    agreeing = Wheel(name="two", files=one.files)
    listing = builder.open(builder.build(one, agreeing)).listing()
    assert "one" in listing[f"{SITE}/shared/__init__.py"]


def test_real_wheels_that_share_a_script_name(builder: Builder) -> None:
    one = Wheel(name="one", files={"one.py": ""}, scripts={"run-it": "one:main"})
    two = Wheel(name="two", files={"two.py": ""}, scripts={"run-it": "two:main"})
    with pytest.raises(BuildError, match="`one` and `two` both own `bin/run-it`"):
        builder.build(one, two)
