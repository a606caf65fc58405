"""Licences recognised by their text: the texts that real distributions ship, and what must not pass for them."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr_bundler.papers.licence_texts import main_licence, read_licence_files, recognise_beginning, recognise_text
from mr_bundler.papers.metadata import parse_metadata


def text_of(name: str, file: str) -> str:
    """Return a licence file of a distribution that this project's tools need, so that it is always here."""
    found = [path for path in distribution(name).files or [] if path.name == file and ".dist-info" in str(path)]
    return Path(str(found[0].locate())).read_text(encoding="utf-8")


REAL = {
    ("click", "LICENSE.txt"): "BSD-3-Clause",
    ("idna", "LICENSE.md"): "BSD-3-Clause",
    ("packaging", "LICENSE.APACHE"): "Apache-2.0",
    ("packaging", "LICENSE.BSD"): "BSD-2-Clause",
    ("pygments", "LICENSE"): "BSD-2-Clause",
    ("requests", "LICENSE"): "Apache-2.0",
    ("rich", "LICENSE"): "MIT",
    ("pluggy", "LICENSE"): "MIT",
}


@pytest.mark.parametrize(("place", "licence"), REAL.items(), ids=[f"{name}-{file}" for name, file in REAL])
def test_real_texts(place: tuple[str, str], licence: str) -> None:
    assert recognise_text(text_of(*place)) == licence


@pytest.mark.parametrize("place", REAL, ids=[f"{name}-{file}" for name, file in REAL])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_changed_licence_is_another_licence(place: tuple[str, str], seed: int) -> None:
    text = text_of(*place)
    # the body: from the grant on; what stands before it (title, who holds the copyright) may be anything of that kind
    grant = re.search(r"Permission is hereby|Redistribution and use|TERMS AND CONDITIONS FOR USE", text)
    end = re.search(r"END OF TERMS AND CONDITIONS", text)
    assert grant is not None
    words = list(re.finditer(r"[A-Za-z]{4,}", text[grant.end() : end.start() if end else len(text)]))
    word = words[seed % len(words)]
    at = grant.end() + word.start()
    changed = f"{text[:at]}not {text[at:]}"
    names = re.search(
        r"(name of (.|\n)*?nor|PROVIDED BY (.|\n)*?AS IS|SHALL (.|\n)*?BE LIABLE)", text[at - 80 : at + 80]
    )
    if names is None:  # where the text has somebody's name, any words may stand
        assert recognise_text(changed) == ""


def test_what_is_bundled_may_follow_but_does_not_name_the_whole() -> None:
    text = text_of("click", "LICENSE.txt") + "\n\nThis distribution bundles zlib:\n\n" + text_of("rich", "LICENSE")
    assert recognise_text(text) == ""
    assert recognise_beginning(text) == "BSD-3-Clause"


def test_an_exception_after_a_licence_is_part_of_it() -> None:
    text = (
        text_of("requests", "LICENSE") + "\n---- LLVM Exceptions to the Apache 2.0 License ----\n\nAs an exception, if"
    )
    assert recognise_text(text) == ""
    assert recognise_text(text_of("packaging", "LICENSE.APACHE") + "\nBundled: another licence") == ""


def test_a_preface_that_says_more_is_not_a_title() -> None:
    text = "Parts of this are licensed under the GPL.\n\n" + text_of("rich", "LICENSE")
    assert recognise_beginning(text) == ""


def test_a_licence_file_decides_what_bsd_means_and_stands_in_for_no_statement() -> None:
    headers = "Name: x\nVersion: 1\n"
    bsd = f"{headers}Classifier: License :: OSI Approved :: BSD License\n"
    text = {"licenses/LICENSE.txt": text_of("click", "LICENSE.txt")}
    assert parse_metadata(bsd).licence == ""
    assert parse_metadata(bsd).stated == "BSD License"
    found = parse_metadata(bsd, text)
    assert (found.licence, found.licence_source) == ("BSD-3-Clause", "licence file")
    assert parse_metadata(headers, text).licence == "BSD-3-Clause"
    both = text["licenses/LICENSE.txt"] + "\nBundled:\n" + text_of("rich", "LICENSE")
    assert parse_metadata(bsd, {"LICENSE": both}).licence == "BSD-3-Clause"
    assert parse_metadata(headers, {"LICENSE": both}).licence == ""
    assert parse_metadata(bsd, {"LICENSE": text_of("rich", "LICENSE")}).licence == "MIT"


def test_several_licence_files_leave_the_choice_open() -> None:
    texts = {"licenses/LICENSE": "a", "licenses/LICENSE.txt": "b"}
    assert main_licence(texts) == ""
    assert main_licence({"licenses/LICENSE": "a", "licenses/third_party/LICENSE": "b", "licenses/NOTICE": "c"}) == "a"
    assert main_licence({"licenses/LICENSE-MIT": "a", "licenses/LICENSE-APACHE": "b"}) == ""


def test_licence_files_are_read_in_either_place(tmp_path: Path) -> None:
    for path in ("licenses/deep/LICENSE", "licenses/anything", "COPYING", "METADATA", "top_level.txt"):
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"text \xff")
    found = read_licence_files(tmp_path)
    assert found == dict.fromkeys(("licenses/anything", "licenses/deep/LICENSE", "COPYING"), "text \ufffd")


@given(st.text(max_size=2000))
def test_no_text_breaks_the_recogniser(text: str) -> None:
    assert recognise_text(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "neither the name of " * 20_000,
        "redistribution and use in source and binary forms with or without modification " * 10_000,
        "permission is hereby granted free of charge " * 20_000,
        "copyright " * 200_000,
    ],
)
def test_texts_made_to_exhaust_the_recogniser(text: str) -> None:
    assert recognise_beginning(text) == ""
