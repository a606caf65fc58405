"""Decoding reports every problem with its place, in one error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_core.bundle_config import BundleConfig, Contents, HostRequirements, parse_bundle_config
from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.digest import Digest
from mr_core.errors import BundleError, InvalidInputError, UnsupportedError
from mr_core.file_manifest import Entry, FileEntry, LinkEntry, dump_entries, parse_entries
from mr_core.manifest import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER_ZSTD,
    MEDIA_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    make_index,
    make_manifest,
    parse_document,
)
from mr_core.platform import Platform, Target
from mr_shim.spec import LaunchSpec, ProbeSpec

CONFIG = BundleConfig(
    backend="mlx-lm",
    version="0.32.2",
    target=Target.parse("linux/amd64+cpu"),
    requires=HostRequirements(glibc="2.35", cpu_features=("avx2",)),
    contents=Contents(digest=Digest.of(b"x"), size=1, count=2, directories=3, bytes=4),
    probe=ProbeSpec(imports=("mlx.core",)),
    launch=LaunchSpec(module="mlx_lm", arguments=("server",), options={"model": "--model"}),
    distributions={"mlx": "1"},
)


def test_every_problem_is_named_with_its_path() -> None:
    read = Decoder({"a": 1, "list": [{"b": None}, 3], "odd": 1}, "thing")
    read.text("a")
    read.integer("missing")
    for child in read.tables("list"):
        child.text("b")
    read.refuse_unknown()
    with pytest.raises(InvalidInputError) as caught:
        read.finish()
    assert caught.value.fields["problems"] == [
        "a: expected a string, found a number",
        "missing: required integer is missing",
        "list[1]: expected a table, found a number",
        "list[0].b: required string is missing",
        "odd: unknown field; known here: a, list, missing",
    ]


@pytest.mark.parametrize("text", [b'{"a":1,"a":2}', b"{", b"\xff", b'{"a":NaN}', b"[" * 100_000, b""])
def test_strict_json(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match="Cannot read it"):
        parse_json(text, "it")


def test_json_has_a_limit() -> None:
    with pytest.raises(InvalidInputError, match="more than the 4"):
        parse_json(b'"long"', "it", limit=4)


def test_a_bundle_config_survives_the_way_through_bytes() -> None:
    assert parse_bundle_config(CONFIG.dump()) == CONFIG
    assert parse_bundle_config(CONFIG.dump()).dump() == CONFIG.dump()


def test_a_newer_writer_may_add_fields_but_not_raise_the_format() -> None:
    value = CONFIG.to_json()
    assert parse_bundle_config(dump_json({**value, "new": {"x": 1}})) == CONFIG
    with pytest.raises(UnsupportedError, match="format 2"):
        parse_bundle_config(dump_json({**value, "format": 2}))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"backend": "../x"}, "backend"),
        ({"target": "solaris/sparc+cpu"}, "target"),
        ({"contents": {}}, "contents.digest"),
        ({"probe": {"imports": []}}, "probe: imports"),
        ({"probe": {"imports": ["os; evil"]}}, "probe: imports[0]"),
        ({"launch": {"module": "a", "script": "b", "options": {"model": "-m"}}}, "launch: module"),
        ({"launch": {"module": "a"}}, "launch: options.model"),
        ({"requires": {"glibc": "new"}}, "requires.glibc"),
        ({"distributions": {"a": 1}}, "distributions.a"),
        ({"format": 0}, "format"),
    ],
)
def test_problems_of_a_bundle_config(change: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_bundle_config(dump_json({**CONFIG.to_json(), **change}))
    assert any(str(problem).startswith(path) for problem in caught.value.fields["problems"])  # type: ignore[attr-defined]


PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30)
ENTRIES = st.dictionaries(
    PATHS,
    st.one_of(
        st.tuples(st.sampled_from([0o644, 0o755]), st.integers(0, 2**60), st.binary(max_size=5)),
        st.text(st.characters(codec="utf-8"), max_size=20),
    ),
    max_size=12,
)


@given(ENTRIES)
def test_a_file_manifest_survives_the_way_through_bytes(drawn: dict[str, object]) -> None:
    entries: dict[str, Entry] = {}
    for path, value in drawn.items():
        match value:
            case (int(mode), int(size), bytes(content)):
                entries[path] = FileEntry(path=path, mode=mode, size=size, sha256=Digest.of(content).hex)
            case link:
                entries[path] = LinkEntry(path=path, link=str(link))
    raw = dump_entries(entries.values())
    assert parse_entries(raw) == entries
    assert dump_entries(parse_entries(raw).values()) == raw


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"path":"a","mode":"777","size":1,"sha256":"' + b"0" * 64 + b'"}\n', "mode"),
        (b'{"path":"","link":"x"}\n', "path"),
        (b'{"path":"a","mode":"644","size":-1,"sha256":"' + b"0" * 64 + b'"}\n', "size"),
        (b'{"path":"a","mode":"644","size":1,"sha256":"0"}\n', "sha256"),
        (b'{"path":"a","link":"b","more":1}\n', "more"),
        (b"not json\n", "line 1"),
        (b'{"path":"a","link":"b"}', "cut"),
        (b'{"path":"a","link":"b"}\n{"path":"a","link":"c"}\n', "twice"),
    ],
)
def test_bad_lines_of_a_file_manifest(line: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        parse_entries(line)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_manifest_or_an_error_of_ours(raw: bytes) -> None:
    try:
        parse_entries(raw)
    except BundleError as error:
        assert error.exit_code == 3


def descriptor(media_type: str, **more: object) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(media_type.encode()), size=5, **more)


def test_manifests_and_indexes_survive_the_way_through_bytes() -> None:
    manifest = make_manifest(descriptor(MEDIA_CONFIG), (descriptor(MEDIA_LAYER_ZSTD),), {"a": "b"})
    assert parse_document(manifest.raw, MEDIA_MANIFEST) == manifest
    entry = descriptor(MEDIA_MANIFEST, platform=Platform("linux", "amd64"), annotations={"x": "y"})
    index = make_index((entry,), {})
    assert parse_document(index.raw, MEDIA_INDEX) == index


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"schemaVersion": 1}, "schemaVersion"),
        ({"mediaType": "text/plain"}, "mediaType"),
        ({"config": None}, "config"),
        ({"layers": [{"mediaType": "x", "digest": "sha256:0", "size": 1}]}, "layers[0].digest"),
        ({"layers": [{"mediaType": "x", "digest": f"sha256:{'0' * 64}", "size": -1}]}, "layers[0].size"),
        ({"layers": "x"}, "layers"),
        ({"layers": [{}] * 128}, "layers"),
        ({"manifests": []}, "holds both"),
    ],
)
def test_problems_of_a_manifest(change: dict[str, object], path: str) -> None:
    good = make_manifest(descriptor(MEDIA_CONFIG), (descriptor(MEDIA_LAYER_ZSTD),), {})
    raw = dump_json({**parse_json(good.raw, "it"), **change})
    with pytest.raises(InvalidInputError) as caught:
        parse_document(raw)
    assert any(str(problem).startswith(path) for problem in caught.value.fields["problems"])  # type: ignore[attr-defined]


def test_an_announced_media_type_must_agree() -> None:
    good = make_manifest(descriptor(MEDIA_CONFIG), (), {})
    with pytest.raises(InvalidInputError, match="announced as"):
        parse_document(good.raw, MEDIA_INDEX)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_document_or_an_error_of_ours(raw: bytes) -> None:
    try:
        found = parse_document(raw)
    except BundleError as error:
        assert error.exit_code == 3
    else:
        assert isinstance(found, Manifest | Index)


@pytest.mark.parametrize(
    "data", [b'"\\ud800"', b'{"\\udfff": 1}', '"\\ud800"', '"\ud800"', '{"a": "\udc80"}', '{"a":1,"a":2}']
)
def test_json_holds_only_text_that_can_be_written_again(data: bytes | str) -> None:
    with pytest.raises(InvalidInputError, match=r"Cannot read it: (a surrogate stands alone|duplicate key)"):
        parse_json(data, "it")


def test_json_may_come_as_text() -> None:
    assert parse_json('{"a": "ä\\ud83d\\ude00\\\\ud800"}', "it") == {"a": "ä😀\\ud800"}
    with pytest.raises(InvalidInputError, match="5 bytes, more than the 4"):
        parse_json('"äx"', "it", limit=4)


def test_thousands_of_problems_are_counted_and_not_kept() -> None:
    key = "k" * 5000
    read = Decoder({f"{key}{i}": i for i in range(10_000)}, "thing")
    read.text("first")
    read.refuse_unknown()
    with pytest.raises(InvalidInputError) as caught:
        read.finish()
    problems = caught.value.fields["problems"]
    assert isinstance(problems, list)
    assert len(problems) == 51
    assert problems[-1] == "and 9951 more"
    assert caught.value.message.endswith("\n  and 9951 more")
    assert len(caught.value.message) < 20_000


@pytest.mark.parametrize(
    "line",
    [b"[" * 50_000, b"[" * 200_000, b'{"path":"a\\ud800","link":"b"}', b'{"path":"a","link":"\\udc00"}',
     '{"path":"a","link":"b"}'.encode("utf-16-le"), b'{"path":"' + b"a" * 70_000 + b'","link":"b"}'],
)  # fmt: skip
def test_a_hostile_line_of_a_file_manifest_is_an_error_of_ours(line: bytes) -> None:
    with pytest.raises(InvalidInputError, match="file manifest"):
        parse_entries(line.replace(b"\n", b" ") + b"\n")


def test_a_name_with_control_characters_survives() -> None:
    entries: dict[str, Entry] = {"a\x01b": LinkEntry(path="a\x01b", link="c\x02")}
    assert parse_entries(dump_entries(entries.values())) == entries
