"""Every rule of the strict reader has hostile archives that break it; a rule without one fails the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from mr_core.errors import IntegrityError
from mr_installer.extract import LayerResult, Limits, Rule, finish_tree
from support import tars
from support.tars import BLOCK, END, archive, directory, file, header, link, octal, pax, record

TOO_DEEP = "/".join(["backend", *("d" * 65)])
TOO_LONG = "/".join(["backend", *(letter * 250 for letter in "abcde")])


def raw(name: bytes | str, **fields: bytes) -> bytes:
    """An archive with one member of odd fields."""
    return archive(header(name, **fields))


def with_parents(path: str) -> bytes:
    """An archive with a file and all its directories, as deep as it needs."""
    names = path.split("/")
    return archive(*(directory("/".join(names[:count])) for count in range(2, len(names))), file(path))


def extended(records: bytes, member: bytes | None = None) -> bytes:
    """An archive with a PAX header and a file after it."""
    return archive(pax(records), file("backend/a") if member is None else member)


def spliced(data: bytes, at: int, new: bytes) -> bytes:
    """Bytes with some of them replaced."""
    return data[:at] + new + data[at + len(new) :]


GOOD = header("backend/a")
SIZED = archive(file("backend/a", b"12345"))

LAYERS: list[tuple[Rule, str, bytes]] = [
    (Rule.CHECKSUM, "off by one", raw("backend/a", checksum=b"%06o\0 " % (sum(GOOD) + 1))),
    (Rule.CHECKSUM, "second header", archive(file("backend/a"), header("backend/b", checksum=b"000001\0 "))),
    (Rule.CHECKSUM, "signed sum", raw("backend/ü", checksum=b"%06o\0 " % 3)),
    (Rule.NUMBER, "checksum is text", raw("backend/a", checksum=b"zzzzzz\0 ")),
    (Rule.NUMBER, "size is text", raw("backend/a", size=b"0000000001x\0")),
    (Rule.NUMBER, "size is negative", raw("backend/a", size=b"-0000000001\0")),
    (Rule.NUMBER, "size is empty", raw("backend/a", size=bytes(12))),
    (Rule.NUMBER, "size has no end", raw("backend/a", size=b"000000000001")),
    (Rule.NUMBER, "size with leading spaces", raw("backend/a", size=b"     000001\0")),
    (Rule.NUMBER, "mode has digits after its end", raw("backend/a", mode=b"644\0" + b"1234")),
    (Rule.NUMBER, "time", raw("backend/a", mtime=b"yesterday\0")),
    (Rule.BASE_256, "size", raw("backend/a", size=b"\x80" + bytes(10) + b"\x01")),
    (Rule.BASE_256, "negative size", raw("backend/a", size=b"\xff" * 12)),
    (Rule.BASE_256, "uid", raw("backend/a", uid=b"\x80" + bytes(7))),
    (Rule.FORMAT, "old tar", raw("backend/a", magic=b"")),
    (Rule.FORMAT, "GNU tar", raw("backend/a", magic=b"ustar  \0")),
    (Rule.FORMAT, "version", raw("backend/a", magic=b"ustar\x0001")),
    (Rule.FORMAT, "mixed formats", archive(file("backend/a"), header("backend/b", magic=b"ustar  \0"))),
    (Rule.FIELD_PADDING, "bytes after the name", raw(b"backend/a\0../../b")),
    (Rule.FIELD_PADDING, "bytes after the link name", raw("backend/a", kind=b"2", link=b"b\0c")),
    (Rule.FIELD_PADDING, "end of the block", raw("backend/a", rest=b"x")),
    (Rule.FIELD_PADDING, "device number of a file", raw("backend/a", major=b"0000001\0")),
    (Rule.FIELD_PADDING, "hidden owner", raw("backend/a", user=b"\0root")),
    (Rule.MODE, "group may write", raw("backend/a", mode=octal(0o664, 8))),
    (Rule.MODE, "private", raw("backend/a", mode=octal(0o600, 8))),
    (Rule.MODE, "none", raw("backend/a", mode=octal(0, 8))),
    (Rule.MODE, "open directory", raw("backend/a/", kind=b"5", mode=octal(0o777, 8))),
    (Rule.MODE, "link", raw("backend/a", kind=b"2", link=b"b", mode=octal(0o755, 8))),
    (Rule.SPECIAL_MODE, "setuid", raw("backend/a", mode=octal(0o4755, 8))),
    (Rule.SPECIAL_MODE, "setgid", raw("backend/a", mode=octal(0o2755, 8))),
    (Rule.SPECIAL_MODE, "sticky", raw("backend/a/", kind=b"5", mode=octal(0o1777, 8))),
    (Rule.OWNER, "uid", raw("backend/a", uid=octal(1000, 8))),
    (Rule.OWNER, "gid", raw("backend/a", gid=octal(1, 8))),
    (Rule.OWNER, "user name", raw("backend/a", user=b"root")),
    (Rule.OWNER, "group name", raw("backend/a", group=b"wheel")),
    (Rule.SIZE, "directory", raw("backend/a/", kind=b"5", size=octal(512, 12))),
    (Rule.SIZE, "link", raw("backend/a", kind=b"2", link=b"b", size=octal(1, 12))),
    (Rule.LINK_FIELD, "file", raw("backend/a", link=b"b")),
    (Rule.HARD_LINK, "", raw("backend/a", kind=b"1", link=b"backend/b")),
    (Rule.DEVICE, "character", raw("backend/a", kind=b"3")),
    (Rule.DEVICE, "block", raw("backend/a", kind=b"4")),
    (Rule.FIFO, "", raw("backend/a", kind=b"6")),
    (Rule.SPARSE, "old GNU", raw("backend/a", kind=b"S")),
    (Rule.SPARSE, "PAX", extended(record("GNU.sparse.major", "1"))),
    (Rule.LONG_NAME, "name", raw("././@LongLink", kind=b"L")),
    (Rule.LONG_NAME, "link name", raw("././@LongLink", kind=b"K")),
    (Rule.UNKNOWN_TYPE, "NUL, old for a file", raw("backend/a", kind=b"\0")),
    (Rule.UNKNOWN_TYPE, "contiguous", raw("backend/a", kind=b"7")),
    (Rule.UNKNOWN_TYPE, "dump directory", raw("backend/a", kind=b"D")),
    (Rule.UNKNOWN_TYPE, "volume header", raw("backend/a", kind=b"V")),
    (Rule.UNKNOWN_TYPE, "Solaris", raw("backend/a", kind=b"X")),
    (Rule.PAX_GLOBAL, "", archive(pax(record("path", "backend/b"), kind=b"g"), file("backend/a"))),
    (Rule.PAX_OVERSIZE, "", extended(record("path", "backend/" + "a" * 5000))),
    (Rule.PAX_RECORD, "no records", extended(b"")),
    (Rule.PAX_RECORD, "no length", extended(b"path=backend/b\n")),
    (Rule.PAX_RECORD, "length too large", extended(b"99 path=backend/b\n")),
    (Rule.PAX_RECORD, "length too small", extended(b"5 path=backend/b\n")),
    (Rule.PAX_RECORD, "length with zeros", extended(b"018 path=backend/b\n")),
    (Rule.PAX_RECORD, "length only", extended(b"3 \n")),
    (Rule.PAX_RECORD, "no newline", extended(b"17 path=backend/bx")),
    (Rule.PAX_RECORD, "no equals sign", extended(b"7 path\n")),
    (Rule.PAX_RECORD, "empty value", extended(record("path", ""))),
    (Rule.PAX_RECORD, "NUL in the path", extended(record("path", "backend/b\0c"))),
    (Rule.PAX_RECORD, "size is negative", extended(record("size", "-1"))),
    (Rule.PAX_RECORD, "size is huge", extended(record("size", "9" * 30))),
    (Rule.PAX_RECORD, "size is hexadecimal", extended(record("size", "0x10"))),
    (Rule.PAX_KEY, "time", extended(record("mtime", "1.5"))),
    (Rule.PAX_KEY, "owner", extended(record("uname", "root"))),
    (Rule.PAX_KEY, "character set", extended(record("hdrcharset", "BINARY"))),
    (Rule.PAX_KEY, "not UTF-8", extended(record(b"\xff", "a"))),
    (Rule.EXTENDED_ATTRIBUTE, "schily", extended(record("SCHILY.xattr.user.a", "b"))),
    (Rule.EXTENDED_ATTRIBUTE, "libarchive", extended(record("LIBARCHIVE.xattr.user.a", "Yg"))),
    (Rule.EXTENDED_ATTRIBUTE, "access list", extended(record("SCHILY.acl.access", "user::rwx"))),
    (Rule.PAX_DUPLICATE, "", extended(record("path", "backend/b") + record("path", "backend/c"))),
    (Rule.PAX_ORDER, "twice", extended(record("path", "backend/b"), pax(record("path", "backend/c")) + GOOD)),
    (Rule.PAX_ORDER, "before the end", archive(pax(record("path", "backend/b")))),
    (Rule.PAX_CONFLICT, "size of a link", extended(record("size", "5"), link("backend/a", "b"))),
    (Rule.PAX_CONFLICT, "two sizes", extended(record("size", "6"), file("backend/a", b"12345"))),
    (Rule.PAX_CONFLICT, "target of a file", extended(record("linkpath", "b"))),
    (Rule.PATH_ENCODING, "name", raw(b"backend/\xff\xfe")),
    (Rule.PATH_ENCODING, "overlong slash", raw(b"backend/..\xc0\xaf")),
    (Rule.PATH_ENCODING, "surrogate", raw(b"backend/\xed\xa0\x80")),
    (Rule.PATH_ENCODING, "target", raw("backend/a", kind=b"2", link=b"\xff")),
    (Rule.PATH_ENCODING, "PAX", extended(record(b"path", b"backend/\xff"))),
    (Rule.PATH_CHARACTER, "newline", raw("backend/a\nb")),
    (Rule.PATH_CHARACTER, "escape", raw("backend/\x1b[2J")),
    (Rule.PATH_CHARACTER, "delete", raw("backend/a\x7f")),
    (Rule.PATH_CHARACTER, "C1", raw("backend/a\x9b")),
    (Rule.PATH_CHARACTER, "backslash", raw("backend\\..\\a")),
    (Rule.PATH_ABSOLUTE, "", raw("/etc/passwd")),
    (Rule.PATH_ABSOLUTE, "PAX", extended(record("path", "/etc/passwd"))),
    (Rule.PATH_ABSOLUTE, "prefix", raw("passwd", prefix=b"/etc")),
    (Rule.PATH_DRIVE, "first", raw("C:/a")),
    (Rule.PATH_DRIVE, "later", raw("backend/c:a")),
    (Rule.PATH_PARENT, "first", raw("../a")),
    (Rule.PATH_PARENT, "later", raw("backend/../../a")),
    (Rule.PATH_PARENT, "last", raw("backend/..", kind=b"5")),
    (Rule.PATH_PARENT, "PAX", extended(record("path", "backend/../../a"))),
    (Rule.PATH_PARENT, "prefix", raw("a", prefix=b"backend/..")),
    (Rule.PATH_COMPONENT, "empty path", raw("")),
    (Rule.PATH_COMPONENT, "two slashes", raw("backend//a")),
    (Rule.PATH_COMPONENT, "two slashes at the end", raw("backend/a//", kind=b"5")),
    (Rule.PATH_COMPONENT, "dot", raw("backend/./a")),
    (Rule.PATH_COMPONENT, "leading dot", raw("./backend/a")),
    (Rule.PATH_COMPONENT, "only a slash", raw("/", kind=b"5")),
    (Rule.PATH_SLASH, "file", raw("backend/a/")),
    (Rule.PATH_SLASH, "link", raw("backend/a/", kind=b"2", link=b"b")),
    (Rule.PATH_NORMAL_FORM, "", raw("backend/u\u0308")),
    (Rule.PATH_LENGTH, "", with_parents(TOO_LONG)),
    (Rule.NAME_LENGTH, "", extended(record("path", "backend/" + "a" * 256))),
    (Rule.NAME_LENGTH, "in bytes", extended(record("path", "backend/" + "ü" * 128))),
    (Rule.DEPTH, "", with_parents(TOO_DEEP)),
    (Rule.WHITEOUT, "file", raw("backend/.wh.a")),
    (Rule.WHITEOUT, "opaque", archive(directory("backend/a"), file("backend/a/.wh..wh..opq"))),
    (Rule.WHITEOUT, "directory", archive(directory("backend/.wh.a"))),
    (Rule.OUTSIDE_ROOT, "other directory", archive(directory("other"))),
    (Rule.OUTSIDE_ROOT, "longer name", archive(directory("backend2"))),
    (Rule.OUTSIDE_ROOT, "first", directory("other") + END),
    (Rule.NO_PARENT, "", archive(file("backend/a/b"))),
    (Rule.NO_PARENT, "parent comes later", archive(file("backend/a/b"), directory("backend/a"))),
    (Rule.NO_PARENT, "no top directory", file("backend/a") + END),
    (Rule.NOT_A_DIRECTORY, "file", archive(file("backend/a"), file("backend/a/b"))),
    (Rule.NOT_A_DIRECTORY, "link", archive(link("backend/a", "/tmp"), file("backend/a/b"))),
    (Rule.NOT_A_DIRECTORY, "top is a file", file("backend", b"a") + END),
    (Rule.NOT_A_DIRECTORY, "top is a link", link("backend", "elsewhere") + END),
    (Rule.DUPLICATE, "file", archive(file("backend/a"), file("backend/a"))),
    (Rule.DUPLICATE, "directory", archive(directory("backend/a"), directory("backend/a"))),
    (Rule.DUPLICATE, "directory over a link", archive(link("backend/a", "b"), directory("backend/a"))),
    (Rule.DUPLICATE, "file over a link", archive(link("backend/a", "/etc/passwd"), file("backend/a", b"x"))),
    (Rule.DUPLICATE, "top", archive(directory("backend"))),
    (Rule.LINK_EMPTY, "", raw("backend/a", kind=b"2")),
    (Rule.LINK_EMPTY, "too long", extended(record("linkpath", "a/" * 600 + "b"), link("backend/a", "b"))),
    (Rule.PADDING, "after content", spliced(SIZED, 2 * BLOCK + 5, b"x")),
    (Rule.PADDING, "after PAX records", archive(spliced(pax(record("path", "backend/b")), BLOCK + 511, b"x"), GOOD)),
    (Rule.END_BLOCKS, "none", archive(GOOD, end=b"")),
    (Rule.END_BLOCKS, "one", archive(GOOD, end=bytes(BLOCK))),
    (Rule.END_BLOCKS, "one before a member", archive(GOOD, end=bytes(BLOCK) + file("backend/b") + END)),
    (Rule.END_BLOCKS, "nothing at all", b""),
    (Rule.TRUNCATED, "in a header", SIZED[: BLOCK + 100]),
    (Rule.TRUNCATED, "in content", SIZED[: 2 * BLOCK + 3]),
    (Rule.TRUNCATED, "before content", SIZED[: 2 * BLOCK]),
    (Rule.TRUNCATED, "in padding", SIZED[: 2 * BLOCK + 100]),
    (Rule.TRUNCATED, "in the end blocks", archive(GOOD)[:-1]),
    (Rule.BYTES_AFTER_END, "one byte", archive(GOOD) + b"x"),
    (Rule.BYTES_AFTER_END, "second archive", archive(GOOD) + archive(header("backend/b"))),
    (Rule.BYTES_AFTER_END, "part of a block", archive(GOOD) + b"\0"),
    (Rule.BYTES_AFTER_END, "after a record", archive(GOOD) + bytes(10240) + b"x" + bytes(511)),
    (Rule.BYTES_AFTER_END, "too many zeros", archive(GOOD) + bytes(1 << 20)),
]


def refused(error: pytest.ExceptionInfo[IntegrityError]) -> str:
    """The rule, after checking what every refusal must carry."""
    fields = error.value.fields
    assert {"rule", "member", "offset"} <= fields.keys()
    assert str(error.value).isprintable(), "hostile names must not reach a terminal as they are"
    return str(fields["rule"])


@pytest.mark.parametrize(
    ("rule", "tar"),
    [pytest.param(rule, tar, id=f"{rule}: {name}" if name else str(rule)) for rule, name, tar in LAYERS],
)
def test_layer_is_refused(rule: Rule, tar: bytes, tmp_path: Path) -> None:
    layer = tars.job(tmp_path, tar)
    with pytest.raises(IntegrityError) as caught:
        tars.extract(layer, tmp_path / "stage")
    assert refused(caught) == rule
    assert caught.value.fields["layer"] == str(layer.digest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer.blob", "stage"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*")), "links are created last"


def test_offset_and_member_are_named(tmp_path: Path) -> None:
    tar = archive(file("backend/first", b"x" * 600), header("backend/second", mode=octal(0o4755, 8)))
    with pytest.raises(IntegrityError) as caught:
        tars.extract(tars.job(tmp_path, tar), tmp_path / "stage")
    assert caught.value.fields["member"] == "backend/second"
    assert caught.value.fields["offset"] == 4 * BLOCK
    assert "(rule `special-mode` at byte 2048)" in str(caught.value)


def test_hostile_name_is_printable_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        tars.extract(tars.job(tmp_path, raw("backend/\x1b]0;owned\x07\u202e")), tmp_path / "stage")
    assert str(caught.value).isprintable()


LIMITED: list[tuple[Rule, Limits, bytes, str]] = [
    (Rule.LIMIT_ENTRIES, Limits(entries=2), archive(file("backend/a"), file("backend/b")), "none"),
    (Rule.LIMIT_BYTES, Limits(bytes=9), archive(file("backend/a", b"12345"), file("backend/b", b"12345")), "none"),
    (Rule.LIMIT_BYTES, Limits(), archive(pax(record("size", str(2 << 40))), GOOD), "none"),
    (Rule.RATIO, Limits(), archive(file("backend/zeros", bytes(65 << 20))), "zstd"),
    (Rule.RATIO, Limits(ratio=100), archive(file("backend/zeros", bytes(65 << 20))), "gzip"),
]


@pytest.mark.parametrize(("rule", "limits", "tar", "kind"), LIMITED, ids=[f"{case[0]} {case[3]}" for case in LIMITED])
def test_limits(rule: Rule, limits: Limits, tar: bytes, kind: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        tars.extract(tars.job(tmp_path, tar, kind, limits=limits), tmp_path / "stage")
    assert refused(caught) == rule


def test_limits_are_inclusive(tmp_path: Path) -> None:
    tar = archive(file("backend/a", b"12345"), file("backend/b", b"12345"))
    result = tars.extract(tars.job(tmp_path, tar, limits=Limits(entries=3, bytes=10)), tmp_path / "stage")
    assert result.bytes == 10


# Trees of several layers, each a list of members below the top directory.
TREES: list[tuple[Rule, str, list[list[bytes]]]] = [
    (Rule.COLLISION, "case", [[file("backend/Readme"), file("backend/README")]]),
    (Rule.COLLISION, "directories", [[directory("backend/Lib")], [directory("backend/lib")]]),
    (Rule.COLLISION, "file and directory", [[file("backend/LIB"), directory("backend/lib")]]),
    (Rule.COLLISION, "link", [[link("backend/A", "b"), file("backend/a"), file("backend/b")]]),
    (Rule.COLLISION, "sharp s", [[file("backend/straße"), file("backend/strasse")]]),
    (Rule.COLLISION, "Kelvin sign", [[file("backend/Å"), file("backend/å")]]),
    (Rule.DUPLICATE, "links", [[link("backend/a", "b")], [link("backend/a", "c")]]),
    (Rule.DUPLICATE, "equal links", [[link("backend/a", "b")], [link("backend/a", "b")]]),
    (Rule.DUPLICATE, "link and file", [[link("backend/a", "b")], [file("backend/a")]]),
    (Rule.NOT_A_DIRECTORY, "link and directory", [[link("backend/a", "b")], [directory("backend/a")]]),
    (Rule.LIMIT_ENTRIES, "", [[file(f"backend/{n}") for n in range(6)], [file(f"backend/x{n}") for n in range(6)]]),
    (Rule.LIMIT_BYTES, "", [[file("backend/a", bytes(600))], [file("backend/b", bytes(600))]]),
    (Rule.LINK_CHARACTER, "backslash", [[link("backend/a", "..\\b")]]),
    (Rule.LINK_CHARACTER, "newline", [[link("backend/a", "b\nc")]]),
    (Rule.LINK_COMPONENT, "two slashes", [[directory("backend/b"), link("backend/a", "b//c")]]),
    (Rule.LINK_COMPONENT, "slash at the end", [[directory("backend/b"), link("backend/a", "b/")]]),
    (Rule.LINK_COMPONENT, "dot", [[link("backend/a", "./b")]]),
    (Rule.LINK_ABSOLUTE, "", [[link("backend/a", "/etc/passwd")]]),
    (Rule.LINK_ABSOLUTE, "drive", [[link("backend/a", "c:/windows")]]),
    (Rule.LINK_ESCAPE, "at the top", [[link("backend/a", "..")]]),
    (Rule.LINK_ESCAPE, "below", [[directory("backend/d"), link("backend/d/a", "../../b")]]),
    (Rule.LINK_ESCAPE, "and back", [[link("backend/a", "../backend/b"), file("backend/b")]]),
    (Rule.LINK_ESCAPE, "through a link", [
        [directory("backend/d"), directory("backend/d/e"), link("backend/d/e/up", "..")],
        [link("backend/a", "d/e/up/../../b")],
    ]),
    (Rule.LINK_ESCAPE, "through links of two layers", [
        [directory("backend/d"), link("backend/d/up", "..")], [link("backend/a", "d/up/../b")],
    ]),
    (Rule.LINK_AMBIGUOUS, "through a file", [[file("backend/f"), link("backend/a", "f/../b")]]),
    (Rule.LINK_AMBIGUOUS, "through nothing", [[link("backend/a", "missing/../b")]]),
    (Rule.LINK_AMBIGUOUS, "into a file", [[file("backend/f"), link("backend/a", "f/b")]]),
    (Rule.LINK_AMBIGUOUS, "through a link to a file", [
        [file("backend/f"), link("backend/g", "f"), link("backend/a", "g/..")],
    ]),
    (Rule.LINK_LOOP, "itself", [[link("backend/a", "a")]]),
    (Rule.LINK_LOOP, "two", [[link("backend/a", "b"), link("backend/b", "a")]]),
    (Rule.LINK_LOOP, "through itself", [[link("backend/a", "a/b")]]),
    (Rule.LINK_LOOP, "across layers", [[link("backend/a", "b")], [link("backend/b", "a")]]),
    (Rule.LINK_LOOP, "many steps", [
        [link(f"backend/l{n:03}", f"l{n + 1:03}") for n in range(300)], [file("backend/l300")],
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "layers"), [pytest.param(rule, layers, id=f"{rule}: {name}") for rule, name, layers in TREES]
)
def test_tree_is_refused(rule: Rule, layers: list[list[bytes]], tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    results = extract_all(layers, stage)
    before = tars.tree(stage)
    with pytest.raises(IntegrityError) as caught:
        finish_tree(stage, results, limits=Limits(entries=10, bytes=1000) if "limit" in rule else Limits())
    assert refused(caught) == rule
    assert tars.tree(stage) == before, "nothing is created before everything is checked"


def extract_all(layers: list[list[bytes]], stage: Path) -> list[LayerResult]:
    return [
        tars.extract(tars.job(stage.parent, archive(*members), name=f"layer{number}"), stage)
        for number, members in enumerate(layers)
    ]


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        (file("backend/a", b"1"), file("backend/a", b"1"), Rule.DUPLICATE),
        (directory("backend/a"), file("backend/a"), Rule.DUPLICATE),
        (file("backend/a"), directory("backend/a"), Rule.NOT_A_DIRECTORY),
    ],
    ids=["file twice", "file over directory", "directory over file"],
)
def test_second_layer_cannot_write_over_the_first(first: bytes, second: bytes, rule: Rule, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        extract_all([[first], [second]], tmp_path / "stage")
    assert refused(caught) == rule


def test_long_chain_within_budget_is_accepted(tmp_path: Path) -> None:
    members = [link(f"backend/l{n:03}", f"l{n + 1:03}") for n in range(255)] + [file("backend/l255", b"end")]
    finish_tree(tmp_path / "stage", extract_all([members], tmp_path / "stage"))
    assert (tmp_path / "stage/l230").read_bytes() == b"end"


def test_safe_links_are_created_as_they_are(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    layers = [
        [directory("backend/bin"), link("backend/bin/python", "python3"), link("backend/bin/python3", "../lib/real")],
        [
            directory("backend/lib"), file("backend/lib/real", b"x"),
            link("backend/lib/up", ".."), link("backend/lib/gone", "no"),
        ],
        [link("backend/libexec", "lib/up/lib"), link("backend/lib64", "lib")],
    ]  # fmt: skip
    entries = finish_tree(stage, extract_all(layers, stage))
    found = tars.tree(stage)
    assert found["bin/python"] == ("link", 0o777, "python3")
    assert (stage / "bin/python").read_bytes() == b"x"
    assert (stage / "libexec/real").read_bytes() == b"x"
    assert entries.keys() == {path for path, entry in found.items() if entry[0] != "directory"}


STREAM_RULES = {Rule.BLOB_SIZE, Rule.DIGEST, Rule.DIFF_ID}  # in test_layer_bytes.py


def test_every_rule_has_a_case() -> None:
    covered = {case[0] for case in (*LAYERS, *LIMITED, *TREES)} | STREAM_RULES
    assert covered == set(Rule)
