"""Bad locations and references, given to every command that takes one: a clear status, the place, and a hint.

The commands come from the program itself, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mr_bundler.cli.main import _COMMANDS
from mr_core.cli.session import run_command
from mr_core.layout import LayoutStore
from support.registry import RealRegistry
from support.small_image import small_image

PROJECT = Path(__file__).parents[2]
NOBODY = f"sha256:{'0' * 64}"
# How each command is called with a location in place of `{}`; the others here are in order.
CALLS = {
    "audit": ["audit {}"],
    "copy": ["copy {} oci:{tmp}/copied:x", "copy oci:{layout}:one {}"],
    "diff": ["diff {} oci:{layout}:one", "diff {lock} {}"],
    "export": ["export {} -o {tmp}/out.tar"],
    "index": ["index {} oci:{layout}:one"],
    "load": ["load {}"],
    "ls": ["ls {}"],
    "push": ["push {} oci:{tmp}/pushed:x", "push oci:{layout}:one {}"],
    "rebuild": ["rebuild --check {}", "rebuild {} --layout {tmp}/again"],
}
TAKE_NO_LOCATION = {"new", "check", "lock", "export-lock", "outdated", "build", "cache", "completion"}
WRITES = {"copy oci:{layout}:one {}", "push oci:{layout}:one {}", "index {} oci:{layout}:one"}


@dataclass(frozen=True)
class Bad:
    """A location; what a message about it must hold, and the statuses that fit. ``exists`` is for reading only."""

    text: str
    names: str
    statuses: tuple[int, ...]
    reading_only: bool = False


# Words that do not parse are the caller's (2) or bad input (3); what parses and is not there is not found (4).
BAD = (
    Bad("", "empty", (2, 3)),
    Bad("ftp://example.org/bundle:1", "ftp://example.org/bundle:1", (2, 3)),
    Bad("{tmp}/nothing-here", "nothing-here", (2, 3)),
    Bad("two\nlines", "two", (2, 3)),
    Bad("oci:", "oci:", (2, 3)),
    Bad("oci-archive::name", "oci-archive::name", (2, 3)),
    Bad("docker://", "reference", (2, 3)),
    Bad("docker://127.0.0.1:5000/UPPER:1", "upper-case", (2, 3)),
    Bad("docker://127.0.0.1:99999/a/b:1", "127.0.0.1:99999", (2, 3)),
    Bad("docker://127.0.0.1:5000/a/b:not a tag", "not a tag", (2, 3)),
    Bad("docker://127.0.0.1:5000/a/b@sha256:12", "sha256:12", (2, 3)),
    Bad("docker://someone:secret@127.0.0.1:5000/a/b:1", "docker login", (2, 3)),
    Bad("docker://127.0.0.1:5000/../b:1", "127.0.0.1:5000", (2, 3)),
    Bad("oci:{tmp}/no-layout:x", "no-layout", (4,), reading_only=True),
    Bad("oci:{layout}:absent", "absent", (4,), reading_only=True),
    Bad(f"oci:{{layout}}:{NOBODY}", "layout", (4,), reading_only=True),
    Bad("oci:{empty}:x", "empty", (3, 4), reading_only=True),
    Bad("oci:{broken}:x", "broken", (3,)),
    Bad("oci:{file}:x", "file.txt", (3, 4, 9)),
    Bad("oci-archive:{tmp}/no-archive.tar", "no-archive.tar", (2, 4)),
    Bad("oci-archive:{file}", "file.txt", (2, 3, 6)),
    Bad("oci-archive:{cut}", "cut.tar", (2, 3, 6)),
    Bad("docker://{registry}/nobody/nothing:1", "nobody/nothing", (4,), reading_only=True),
    Bad("docker://{registry}/nobody/nothing", "latest", (4,), reading_only=True),
    Bad(f"docker://{{registry}}/nobody/nothing@{NOBODY}", "nobody/nothing", (4,), reading_only=True),
)
# Arguments around a location that is right; `one` is an image, but no bundle.
ARGUMENTS = (
    ("audit oci:{layout}:one", "layout", (3, 5)),
    ("diff oci:{layout}:one oci:{layout}:one", "layout:one", (3,)),
    ("diff {lock} {lock} --target beos/x86+cpu", "--target", (2,)),
    ("diff {tmp}/none.lock.toml {lock}", "none.lock.toml", (4,)),
    ("diff {file}.lock.toml {lock}", "file.txt.lock.toml", (4,)),
    ("diff {lock}", "B", (2,)),
    ("rebuild --check oci:{layout}:one", "layout:one", (3,)),
    ("rebuild --check oci:{layout}:both", "both", (3,)),
    ("rebuild oci:{layout}:one", "--check", (2,)),
    ("rebuild --check oci:{layout}:one --target linux/amd64", "--target", (2,)),
    ("rebuild --check oci:{layout}:one --layout {file}", "--layout", (2,)),
    ("rebuild --check oci:{layout}:one --jobs 0", "--jobs", (2,)),
    ("push oci:{layout}:one", "DESTINATION", (2,)),
    ("push oci:{layout}:one oci:{tmp}/x:y --jobs none", "--jobs", (2,)),
    ("push oci:{layout}:one docker://{registry}/a/b@" + NOBODY, "0000", (2, 3, 6)),
    ("push oci:{layout} oci:{tmp}/x:y", "layout", (2, 3, 4)),
    ("push oci:{layout}:one oci:{layout}:both", "both", (8,)),
    ("push oci:{layout}:one docker://{registry}/a/b:1 --insecure-registry http://x/", "--insecure-registry", (2,)),
    ("ls oci:{layout}:one --ca {tmp}/no-certificates", "--ca", (2,)),
    ("export oci:{layout}:one -o {file}/no/place.tar", "place.tar", (2, 4, 9)),
    ("index oci:{layout}:joined oci:{layout}:absent", "absent", (3, 4)),
    ("outdated {tmp}/no-recipe", "no-recipe", (4,)),
    ("build {file}", "file.txt", (3, 4)),
    ("lock {tmp}/no-recipe", "no-recipe", (4,)),
    ("check {tmp}/no-recipe", "no-recipe", (4,)),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A layout with two images that are no bundles, a broken one, an empty directory, a text, a cut archive, a lock."""
    root = tmp_path_factory.mktemp("places")
    layout = LayoutStore(root / "layout", create=True)
    small_image("one").write(layout, "one")
    small_image("two").write(layout, "both")
    (root / "empty").mkdir()
    broken = root / "broken"
    (broken / "blobs" / "sha256").mkdir(parents=True)
    (broken / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (broken / "index.json").write_text("{")
    (root / "file.txt").write_text("no bundle at all\n")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(root / "layout", ".")
    (root / "cut.tar").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 3])
    lock = PROJECT / "recipes" / "mlx-lm" / "linux-amd64+cpu.lock.toml"
    with RealRegistry(root=root / "registry") as registry:
        yield {
            "layout": str(root / "layout"),
            "empty": str(root / "empty"),
            "broken": str(broken),
            "file": str(root / "file.txt"),
            "cut": str(root / "cut.tar"),
            "lock": str(lock),
            "registry": registry.host,
        }


@pytest.fixture
def mr_bundle(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[object]:
    """Run the command line in this process: it is the same as the program's, and 200 times as fast to start."""
    from mr_bundler.cli.main import main  # noqa: PLC0415

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setenv("MR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nothing/listens/here.sock")

    def run(words: list[str]) -> tuple[int, str, str]:
        values = {**places, "tmp": str(tmp_path)}
        arguments = [_fill(word, values) for word in words]
        monkeypatch.setattr(sys, "argv", ["mr-bundle", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_command(main, "mr-bundle")
        captured = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)


def _fill(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def cases() -> Iterator[object]:
    for command, calls in CALLS.items():
        for call in calls:
            for number, bad in enumerate(BAD):
                if bad.reading_only and call in WRITES:
                    continue
                yield pytest.param(call, bad, id=f"{command}-{calls.index(call)}-{number}")


def refused(outcome: tuple[int, str, str], statuses: tuple[int, ...], names: str) -> None:
    status, output, errors = outcome
    assert status in statuses, (status, output, errors)
    assert "Traceback" not in errors
    lines = errors.splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    assert len(told) == 1, errors
    assert told[0].startswith("error: Cannot "), errors
    assert not errors.rstrip().endswith("."), errors
    assert names in errors, errors
    assert [line for line in lines if line.startswith("hint: ") or "; use `" in line], errors
    assert "secret" not in errors
    assert output == ""


def test_no_command_is_forgotten() -> None:
    assert set(_COMMANDS) - TAKE_NO_LOCATION <= set(CALLS)
    assert len(ARGUMENTS) + len(list(cases())) > 200


@pytest.mark.parametrize(("call", "bad"), list(cases()))
def test_bad_location(mr_bundle, call: str, bad: Bad, places: dict[str, str]) -> None:
    command = call.partition(" ")[0]
    words = [bad.text if word == "{}" else word for word in call.split(" ")]
    if "{registry}" in bad.text:
        words += ["--insecure-registry", "{registry}"]
    before = Path(places["layout"], "index.json").read_bytes()
    refused(mr_bundle(words), bad.statuses, bad.names)
    assert Path(places["layout"], "index.json").read_bytes() == before, command


@pytest.mark.parametrize(("call", "names", "statuses"), ARGUMENTS)
def test_bad_arguments(mr_bundle, call: str, names: str, statuses: tuple[int, ...], tmp_path: Path) -> None:
    refused(mr_bundle(call.split(" ")), statuses, names)
    assert not (tmp_path / "x").exists() or not (tmp_path / "x" / "index.json").read_bytes().count(b"ref.name")


def test_errors_are_json_too(mr_bundle) -> None:
    status, output, _ = mr_bundle(["diff", "oci:{layout}:absent", "oci:{layout}:one", "--json"])
    last = json.loads(output.splitlines()[-1])
    assert (status, last["event"], last["code"], last["exit_code"]) == (4, "error", "not-found", 4)
    assert last["hint"]
