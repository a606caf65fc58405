"""Digests, references, targets, locations and redaction: whoever holds one knows that it is valid."""

from __future__ import annotations

import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_core.digest import Digest
from mr_core.errors import BundleError, InvalidInputError, printable, redact
from mr_core.location import ArchiveLocation, LayoutLocation, RegistryLocation, parse_location
from mr_core.platform import Target
from mr_core.reference import Reference

HEX = "a" * 64


@pytest.mark.parametrize(
    "text", ["", "sha256:", f"sha256:{HEX[:-1]}", f"sha256:{HEX.upper()}", f"md5:{'a' * 32}", f"sha512:{HEX}", None, 7]
)
def test_what_is_no_digest(text: object) -> None:
    with pytest.raises(InvalidInputError, match="layer"):
        Digest.parse(text, "layer")


@pytest.mark.parametrize(
    ("text", "registry", "repository", "target"),
    [
        ("mlx-lm", "docker.io", "library/mlx-lm", "latest"),
        ("ns/mlx-lm:1", "docker.io", "ns/mlx-lm", "1"),
        ("index.docker.io/ns/a", "docker.io", "ns/a", "latest"),
        ("localhost/a", "localhost", "a", "latest"),
        ("127.0.0.1:5000/a/b/c:v1.2_x", "127.0.0.1:5000", "a/b/c", "v1.2_x"),
        ("[::1]:5000/a", "[::1]:5000", "a", "latest"),
        (f"r.example/a:1@sha256:{HEX}", "r.example", "a", f"sha256:{HEX}"),
        (f"r.example/a@sha256:{HEX}", "r.example", "a", f"sha256:{HEX}"),
    ],
)
def test_references(text: str, registry: str, repository: str, target: str) -> None:
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.target) == (registry, repository, target)
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    ["", ":tag", "r.example/", "r.example/A", "r.example/a:", "r.example/a:b:c", "r.example/a@sha1:00", "r.example/a b",
     "r.example/../a", "http://r.example/a", "r.example:port/a", "r.example:65536/a",
     f"r.example/{'a' * 300}", "a//b", "r.example/a:-x"],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidInputError):
        Reference.parse(text)


@given(st.text(alphabet=string.printable + "é\x00", max_size=80))
def test_any_text_is_a_reference_or_an_error_of_ours(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except BundleError:
        return
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize("text", ["linux/amd64+cpu", "darwin/arm64+metal", "linux/arm64+cuda13"])
def test_targets(text: str) -> None:
    target = Target.parse(text)
    assert str(target) == text
    assert "/" not in target.file_stem


@pytest.mark.parametrize("text", ["", "linux", "linux/amd64", "windows/amd64+cpu", "linux/mips+cpu", "linux/amd64+", 1])
def test_what_is_no_target(text: object) -> None:
    with pytest.raises(InvalidInputError, match="targets"):
        Target.parse(text, "targets[0]")


def test_locations(tmp_path: Path) -> None:
    assert isinstance(parse_location("docker://r.example/a:1"), RegistryLocation)
    assert parse_location("oci:dist/layout:mlx-lm-1") == LayoutLocation(Path("dist/layout"), "mlx-lm-1")
    assert parse_location("oci:dist/layout") == LayoutLocation(Path("dist/layout"))
    assert parse_location("oci-archive:a.tar:n") == ArchiveLocation(Path("a.tar"), "n")
    odd = tmp_path / "with:colon"
    odd.mkdir()
    assert parse_location(f"oci:{odd}") == LayoutLocation(odd)
    assert parse_location(str(odd)) == LayoutLocation(odd)
    for text in ("", "oci:", "s3://x/y", "no/such/file", "docker://A", "oci:a\nb"):
        with pytest.raises(InvalidInputError):
            parse_location(text)


def test_secrets_are_redacted() -> None:
    text = redact("GET https://user:secret@r.example/v2/?token=abc failed, see http://a.example/x")
    assert "secret" not in text
    assert "abc" not in text
    assert "r.example/v2/" in text
    assert "http://a.example/x" in text
    assert "pw" not in BundleError("Cannot read https://u:pw@h/", hint="try https://u:pw@h/?k=pw").hint


@pytest.mark.parametrize(
    "text",
    ["user:s3cret@reg.example/a:1", "user:s3cret@reg.example", "user:p@s3cret@reg.example:5000/a",
     f"user:s3cret@reg.example/a@sha256:{HEX}", "user:s3cret@", "user:s3/cret@reg.example/a"],
)  # fmt: skip
@pytest.mark.parametrize("transport", ["docker://", ""])
def test_a_reference_never_shows_what_may_be_a_password(text: str, transport: str) -> None:
    read = parse_location if not transport else Reference.parse
    with pytest.raises(InvalidInputError) as caught:
        read(text)
    shown = f"{caught.value!r} {caught.value.message} {caught.value.hint} {caught.value.fields}"
    assert "cret" not in shown
    if transport:
        assert "docker login" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["HTTPS://u:s3cret@h/", "https://u:p@s3cret@h", "https://s3cret@h:1/x", "a=http://h/x,https://u:s3cret@h/",
     "https://h/x?k=s3cret", "Https://h?s3cret#f", "git+https://u:s3cret@h/x", "https://h/a,https://h/b?t=s3cret",
     "https://u:p@x/s3cret@h/x", "https://u:p/s3cret@h/x", "https://u:p?s3cret@h", "https://u:p#s3cret@h/x",
     "https://:s3cret@h/", "https://u:123456/s3cret@h", "https://u:@/s3cret@h:1/x"],
)  # fmt: skip
def test_no_part_of_a_secret_is_left_in_a_url(url: str) -> None:
    for shown in (redact(url), f"{BundleError('Cannot read it', url=url, more=[{'urls': (url,)}]).fields}"):
        assert "s3cret" not in shown
        assert "h" in shown


@pytest.mark.parametrize(
    "text",
    ["docker://r.example:5000/a@sha256:00 user@host", "https://r.example/a@v1", "https://[::1]:80/a@b", "http://h:/a@b",
     "http://h:1/a@b", "http://h: x@y"],
)  # fmt: skip
def test_what_is_no_secret_is_left_in_a_url(text: str) -> None:
    assert redact(text) == text


def test_hostile_texts_are_redacted_quickly() -> None:
    begin = time.monotonic()
    redact("://a:b" * 20_000)
    assert time.monotonic() - begin < 5


def test_messages_hold_nothing_that_a_terminal_obeys() -> None:
    hostile = "\x1b]0;title\x07\x1b[2J\r\u202egnp.exe\x9b31m\udc80"
    error = InvalidInputError(f"Cannot read `{hostile}`: bad\n  and more", hint=hostile, name=hostile)
    assert error.message.split("\n")[1] == "  and more"
    assert all(line.isprintable() for line in [*error.message.split("\n"), error.hint, *str(error).split("\n")])
    assert "\\x1b[2J" in error.message
    assert error.fields["name"] == hostile, "the value itself is what a script needs; JSON escapes it"
    assert InvalidInputError(error.message).message == error.message
    assert printable("x" * 300) == "x" * 200 + "…"


def test_a_path_that_is_too_long_names_nothing() -> None:
    for text in ("x" * 300, f"{'x' * 300}/y", f"a/{'y' * 5000}"):
        with pytest.raises(InvalidInputError, match="no existing file"):
            parse_location(text)
    assert parse_location(f"oci:{'x' * 300}:n") == LayoutLocation(Path("x" * 300), "n")
