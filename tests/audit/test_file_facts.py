"""What is notable about files: scripts, path files, notes of installers; and nothing about almost every file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_bundler.audit.facts import HEAD_BYTES, FileFacts, read_facts
from mr_bundler.binaries.binary import Binary, Slice
from mr_core.decode import dump_json, parse_json
from mr_core.errors import HostError, InvalidInputError
from support.macho import MachO

SITE = "lib/python3.12/site-packages"


def facts(tmp_path: Path, path: str, content: bytes) -> FileFacts | None:
    place = tmp_path / "file"
    place.write_bytes(content)
    return read_facts(place, path, content[:HEAD_BYTES])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"#!/bin/sh\nexit\n", "/bin/sh"),
        (b"#! /usr/bin/env  python3 -u \r\n", "/usr/bin/env  python3 -u"),
        (b"#!/opt/x/bin/python", "/opt/x/bin/python"),
        (b"#!python\n", "python"),
        (b"#!/bin/\xff\x1b[2J\n", r"/bin/\xff\x1b[2J"),
        (
            b"#!/bin/sh\n'''exec' \"/opt/a long place/bin/python\" \"$0\" \"$@\"\n' '''\n",
            "/opt/a long place/bin/python",
        ),
        (b"#!/bin/sh\n'''exec' /opt/x/python \"$0\" \"$@\"\n' '''\n", "/opt/x/python"),
        (b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$0")"/\'python3\' "$0" "$@"\n', "/bin/sh"),
    ],
)
def test_shebangs(tmp_path: Path, content: bytes, expected: str) -> None:
    found = facts(tmp_path, "bin/x", content)
    assert found == FileFacts(shebang=expected)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (f"{SITE}/x.py", b"import os\n"),
        (f"{SITE}/x.rs", b"#![no_std]\n"),
        (f"{SITE}/x.pth", b"# import os\nx\n\n"),
        (f"{SITE}/pkg/x.pth", b"import os\n"),
        (f"{SITE}/x.pth.txt", b"import os\n"),
        (f"{SITE}/empty", b""),
        (f"{SITE}/x-1.dist-info/direct_url.json", b'{"url": "https://example.org/x.whl"}'),
        (f"{SITE}/x/direct_url.json", b'{"url": "file:///home/me/x"}'),
        (f"{SITE}/x.cubin", b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xbe\x00" + bytes(44)),
        (f"{SITE}/x.exe", b"MZ" + bytes(100)),
    ],
)
def test_nothing_to_say(tmp_path: Path, path: str, content: bytes) -> None:
    assert facts(tmp_path, path, content) is None


def test_path_files(tmp_path: Path) -> None:
    found = facts(
        tmp_path,
        f"{SITE}/x.pth",
        b"\xef\xbb\xbfimport os; os.system('x')\nsub\n/home/me/src\nimport\tsys\n important\n",
    )
    assert found == FileFacts(
        startup=("import os; os.system('x')", r"import\tsys"), traces=("an absolute entry of sys.path",)
    )
    late = facts(tmp_path, f"{SITE}/x.pth", b"x\n" * HEAD_BYTES + b"import os\n")
    assert late == FileFacts(startup=("import os",)), "far behind the first bytes"
    odd = facts(tmp_path, f"{SITE}/x.pth", b"# a comment\x0cimport os\n")
    assert odd == FileFacts(startup=("import os",)), "newer Pythons split lines at a form feed"


@pytest.mark.parametrize(
    ("path", "content", "trace"),
    [
        (f"{SITE}/x-1.dist-info/direct_url.json", b'{"url": "file:///home/me/x"}', "a `file:` address"),
        (f"{SITE}/x-1.dist-info/uv_cache.json", b"{}", "a note of uv's cache"),
        ("pyvenv.cfg", b"home = /usr/bin\n", "the Python of a virtual environment"),
        (f"{SITE}/__editable___x_finder.py", b"MAPPING = {}\n", "an editable installation"),
        (f"{SITE}/__editable__.x-1.pth", b"\n", "an editable installation"),
    ],
)
def test_traces_of_an_installation(tmp_path: Path, path: str, content: bytes, trace: str) -> None:
    assert facts(tmp_path, path, content) == FileFacts(traces=(trace,))


def test_binaries_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    found = facts(tmp_path, f"{SITE}/x.so", MachO().dump())
    assert found is not None
    assert found.binary is not None
    assert found.binary.slices[0].signature == "valid"
    broken = facts(tmp_path, f"{SITE}/x.so", b"\x7fELF" + bytes(100))
    assert broken is not None
    assert broken.binary is not None
    assert broken.binary.problem
    with pytest.raises(HostError, match="gone"):
        read_facts(tmp_path / "gone", "x.so", b"\x7fELF" + bytes(100))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
SLICES = st.builds(
    Slice, system=TEXT, architecture=TEXT, kind=st.sampled_from(["executable", "library", "object"]), name=TEXT,
    needed=TEXTS, optional=TEXTS, rpaths=TEXTS, floor=TEXT, signature=TEXT,
)  # fmt: skip
BINARIES = st.builds(
    Binary, format=st.sampled_from(["elf", "macho"]), slices=st.lists(SLICES, max_size=3).map(tuple), problem=TEXT
)


@given(st.builds(FileFacts, binary=st.none() | BINARIES, shebang=TEXT, startup=TEXTS, traces=TEXTS))
def test_facts_come_back_from_json(made: FileFacts) -> None:
    assert FileFacts.from_json(parse_json(dump_json(made.to_json()), "facts")) == made


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"shebang": 1},
        {"binary": {"format": "pe"}},
        {"binary": {"format": "elf", "slices": [{"system": "linux", "architecture": "amd64", "kind": "dll"}]}},
        {"binary": []},
    ],
)
def test_other_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="facts of a file"):
        FileFacts.from_json(value)
