"""METADATA from anywhere: what is read of it, and that nothing in it breaks the reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_bundler.papers.metadata import MOST_HEADER_LETTERS, DistributionMetadata, parse_metadata, read_metadata
from mr_core.decode import dump_json
from mr_core.errors import BundleError, HostError, InvalidInputError

HEADERS = """\
Metadata-Version: 2.4
Name: Tiny_Server
Version: 1.0+local.1
Summary: A server
 that is folded
Author-email: "Ann Author" <ann@example.org>, Bob <bob@example.org>
License-Expression: apache-2.0 or MIT
Project-URL: Homepage, https://example.org/tiny
Project-URL: Source Code, https://example.org/tiny.git?a=b#c
Project-URL: Funding, https://example.org/money
Project-URL: Issues, javascript:alert(1)
Requires-Dist: numpy>=2 ; python_version < "4"
Requires-Dist: mlx[cpu]
Requires-Dist: what (is=this
Classifier: License :: OSI Approved :: MIT License
"""


def test_everything_that_is_read() -> None:
    assert parse_metadata(f"{HEADERS}\nName: in the description\n") == DistributionMetadata(
        name="tiny-server",
        version="1.0+local.1",
        licence="Apache-2.0 OR MIT",
        licence_source="License-Expression",
        stated="apache-2.0 or MIT; MIT License",
        homepage="https://example.org/tiny",
        summary="A server that is folded",
        author="Ann Author , Bob",
        links=(("vcs", "https://example.org/tiny.git?a=b#c"), ("website", "https://example.org/tiny")),
        requires=('numpy>=2; python_version < "4"', "mlx[cpu]"),
    )


def test_a_folded_field_may_hold_blank_looking_lines() -> None:
    text = "Name: x\nVersion: 1\nLicense: MIT License\n        \n        Copyright\nSummary: still a header\n\nbody"
    assert parse_metadata(text).summary == "still a header"


@pytest.mark.parametrize(
    "address",
    [
        "https://user:secret@example.org/",
        "https://example.org/a b",
        "https://example.org/%zz",
        "ftp://example.org",
        "https://example.org:port/",
        "https://example.org/\x1b[31m",
        "https://exämple.org/",
        "https://example.org/a#b#c",
    ],
)
def test_addresses_that_no_paper_takes(address: str) -> None:
    found = parse_metadata(f"Name: x\nVersion: 1\nHome-page: {address}\nProject-URL: Source, {address}\n")
    assert (found.homepage, found.links) == ("", ())


@pytest.mark.parametrize(
    "text", ["", "\n\n", "Name: x\n", "Version: 1\n", "Name: ../x\nVersion: 1\n", "Name: x\nVersion: a b\n"]
)
def test_no_name_or_version(text: str) -> None:
    with pytest.raises(InvalidInputError, match="is not a name and a version"):
        parse_metadata(text)


def test_endless_headers_are_refused_and_an_endless_description_is_not_read() -> None:
    start = "Name: x\nVersion: 1\n"
    with pytest.raises(InvalidInputError, match="more than 1 MiB"):
        parse_metadata(start + "Classifier: x\n" * (MOST_HEADER_LETTERS // 10))
    assert parse_metadata(start + "\n" + "x" * (2 * MOST_HEADER_LETTERS)).name == "x"


FIELDS = (
    "Name",
    "Version",
    "License",
    "License-Expression",
    "Classifier",
    "Requires-Dist",
    "Project-URL",
    "Author-email",
)


@given(
    st.lists(st.tuples(st.sampled_from(FIELDS), st.text(max_size=60)), max_size=20),
    st.dictionaries(st.sampled_from(["LICENSE", "licenses/LICENSE", "x"]), st.text(max_size=100)),
)
def test_hostile_fields_give_clean_values_or_our_error(fields: list[tuple[str, str]], texts: dict[str, str]) -> None:
    block = "Name: x\nVersion: 1\n" + "".join(f"{name}: {value}\n" for name, value in fields)
    found = parse_metadata(block, texts)
    dump_json([found.name, found.summary, found.author, found.stated, list(found.links), list(found.requires)])
    for text in (found.summary, found.author, found.stated, found.licence):
        assert "\n" not in text
        assert len(text) <= 1000


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_hostile_text_gives_our_error_only(text: str) -> None:
    try:
        parse_metadata(text)
    except BundleError as error:
        assert isinstance(error, InvalidInputError)


def test_surrogates_do_not_reach_a_paper() -> None:
    found = parse_metadata("Name: x\nVersion: 1\nSummary: a\udcffb\nAuthor: \ud800\n")
    assert json.loads(dump_json([found.summary, found.author])) == ["a?b", "?"]


def test_a_distribution_on_disk(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        read_metadata(tmp_path)
    (tmp_path / "METADATA").write_bytes(b"Name: x\nVersion: 1\nSummary: caf\xe9\n\nrest")
    (tmp_path / "licenses").mkdir()
    (tmp_path / "licenses" / "LICENSE").write_text("nothing known")
    assert read_metadata(tmp_path).summary == "caf\ufffd"
