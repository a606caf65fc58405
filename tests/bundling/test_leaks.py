"""What counts as a leak, and that every byte is looked at."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mr_bundler.environment.file_digests import examine_bytes, examine_files
from mr_bundler.environment.leaks import Leak, find_leaks, judge_leaks, plan_needles, refuse_leaks
from mr_core.errors import BuildError, CancelledError, HostError
from mr_core.events import Cancel


def test_needles_as_given_and_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    needles = plan_needles({"cache": [tmp_path / "link"]}, home="/home/somebody")
    assert {(needle.what, needle.text, needle.anywhere) for needle in needles} == {
        ("cache", os.fsencode(tmp_path / "link"), True),
        ("cache", os.fsencode(tmp_path / "real"), True),
        ("home directory", b"/home/somebody/", False),
    }


@pytest.mark.parametrize("home", ["/", "/root", "/home/runner", "/Users/runner"])
def test_places_that_tell_nothing(home: str) -> None:
    assert plan_needles({"cache": ["/cache", "/"]}, home=home) == ()


def test_the_home_directory_of_a_wheels_builder_is_no_leak_of_ours() -> None:
    needles = plan_needles({"cache": ["/some/cache"]}, home="/home/me")
    home, cache = (next(i for i, needle in enumerate(needles) if what in needle.what) for what in ("home", "cache"))
    found = {"wheel.so": [home], "script": [home], "other.so": [cache]}
    assert judge_leaks(found, needles, unchanged=["wheel.so", "other.so"]) == [
        Leak(path="other.so", what="cache"),
        Leak(path="script", what="home directory"),
    ]


def test_the_error_counts_and_names() -> None:
    refuse_leaks([])
    leaks = [Leak(path=f"f{number}", what="cache") for number in range(9)]
    with pytest.raises(BuildError, match=r"`f0` names the cache.*and 4 more") as caught:
        refuse_leaks(leaks)
    found = caught.value.fields["leaks"]
    assert isinstance(found, list)
    assert len(found) == 9


@pytest.mark.parametrize("offset", [0, 1, (4 << 20) - 9, (4 << 20) - 3, 4 << 20, (8 << 20) - 1, (9 << 20) - 7])
def test_found_wherever_it_lies(tmp_path: Path, offset: int) -> None:
    needle = b"/a/need"
    content = bytearray(9 << 20)
    content[offset : offset + len(needle)] = needle
    (tmp_path / "file").write_bytes(content)
    found = examine_files(
        tmp_path,
        {"file": len(content)},
        [b"/absent", needle, b"x"],
        jobs=1,
        cancel=Cancel(),
        progress=lambda _: None,
    )
    assert found["file"][:3] == (len(content), hashlib.sha256(content).hexdigest(), (1,))
    assert examine_bytes(bytes(content), [b"/absent", needle, b"x"]) == found["file"]


def test_many_files_in_threads(tmp_path: Path) -> None:
    sizes = {}
    for number in range(700):
        content = str(number).encode() * number
        (tmp_path / f"f{number}").write_bytes(content)
        sizes[f"f{number}"] = len(content)
    seen: list[int] = []
    found = examine_files(tmp_path, sizes, [], jobs=3, cancel=Cancel(), progress=seen.append)
    assert {path: facts.size for path, facts in found.items()} == sizes
    assert all(
        facts.sha256 == hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() for path, facts in found.items()
    )
    assert max(seen) == 700


def test_failures_are_ours(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="gone"):
        examine_files(tmp_path, {"gone": 1}, [], jobs=2, cancel=Cancel(), progress=lambda _: None)
    cancel = Cancel()
    cancel.set()
    (tmp_path / "there").touch()
    with pytest.raises(CancelledError):
        examine_files(tmp_path, {"there": 0}, [], jobs=2, cancel=cancel, progress=lambda _: None)


def test_documents_are_searched_in_plain_and_as_addresses() -> None:
    needles = plan_needles({"cache directory": ["/some/câche"]}, home="/home/me")
    files = {
        "recipe": b'url = "file:///home/me/wheels/a.whl"',
        "lock": b'url = "file:///some/c%C3%A2che/a.whl"',
        "paper": "see /some/câche/x".encode(),
        "honest": b"/home/melissa",
    }
    assert find_leaks(files, needles) == [
        Leak(path="lock", what="cache directory"),
        Leak(path="paper", what="cache directory"),
        Leak(path="recipe", what="home directory"),
    ]
