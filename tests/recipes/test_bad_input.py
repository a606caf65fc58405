"""Bad recipes and locks through the real command line: status 3 or 4, the place in the text, and a hint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr_bundler.lock.lock import Lock, LockedWheel, VcsPin, inputs_digest, lock_path, parse_lock, platform_floor
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.recipe.recipe import MOST_BYTES, Recipe, load_recipe, parse_recipe
from mr_core.errors import BundleError, InvalidInputError
from mr_core.platform import Target
from support.recipe_files import FULL, edit, write_recipe

LINUX = Target.parse("linux/amd64+cpu")
WHEEL = 'url = "https://example.org/v{extra}/tiny_extra-{extra}%2Bcpu-py3-none-any.whl"'
SHA = f'sha256 = "{"ab" * 32}"'
GIT = 'url = "https://example.org/tiny-made.git"'
COMMIT = f'commit = "{"c0" * 20}"'
ADDRESS = "lock.wheels[0].url: the address must begin with `https://` and a host name"


def url(text: str) -> str:
    return f'url = "{text}"'


BAD_RECIPES = {
    # [versions]
    "version is a number": ('server = "1.5"', "server = 1.5", "versions.server: expected a string, found a number"),
    "version is a table": ('server = "1.5"', "server = {}", "versions.server: expected a string, found a table"),
    "version has a space": ('server = "1.5"', 'server = "1 5"', "versions.server: `1 5` does not match"),
    "name of a version": ('server = "1.5"', 'Server = "1.5"', "versions.Server: a name consists of lower-case"),
    "unused version": ('server = "1.5"', 'server = "1.5"\nold = "1"', "versions.old: nothing uses it; write `{old}`"),
    "unknown version": ("=={server}", "=={sever}", "lock.requirements[0]: `{sever}` is not in [versions], which holds"),
    "no name": ("=={server}", "=={}", "lock.requirements[0]: `{}` is not in [versions]"),
    "single brace": ("=={server}", "=={server", "lock.requirements[0]: a single `{` means nothing"),
    "closing brace": ("=={server}", "=={server}}", "lock.requirements[0]: "),
    "placeholder in metadata": ('"tiny-words>=1"', '"tiny-words>={x}"', "lock.metadata[0].requires-dist[0]: `{x}`"),
    "bad version put in": ('server = "1.5"', 'server = "1.5-x_!"', "lock.requirements[0]: `tiny-server==1.5-x_!`"),
    # requirements, constraints, overrides
    "marker in requirements": ("=={server}", "=={server}; os_name == 'x'", "lock.requirements[0]: `tiny-server` has a"),
    "address in requirements": (
        "tiny-server=={server}",
        "tiny-server @ https://example.org/{server}.whl",
        "lock.requirements[0]: `tiny-server` has an address; give it in [[lock.wheels]]",
    ),
    "constraints are no list": (
        'constraints = ["tiny-words<={extra}"]',
        'constraints = "x"',
        "lock.constraints: expected",
    ),
    "constraint without version": ("tiny-words<={extra}", "tiny-words", "lock.constraints[0]: `tiny-words` says no"),
    "constraint with extra": (
        "tiny-words<={extra}",
        "tiny-words[a]<{extra}",
        "lock.constraints[0]: `tiny-words` has an",
    ),
    "constraint twice": (
        '"tiny-kernels<3"',
        '"tiny-words<3"',
        "targets[0].constraints: `tiny-words<3` and `tiny-words<=2.0`",
    ),
    "override is no requirement": ("tiny-other>=2", ">=2", "targets[1].overrides[0]: `>=2` is not a requirement"),
    "override with address": ("tiny-other>=2", "o @ file:///o", "targets[1].overrides[0]: `o` has an address"),
    "override of a wheel": ('"tiny-other>=2"', '"tiny-made>=2"', "targets[1]: `tiny-made>=2` overrides a distribution"),
    "deep marker": (
        "tiny-unwanted; python_version < '3'",
        f"tiny-unwanted; {'(' * 9000}python_version < '3'{')' * 9000}",
        "lock.overrides[0]: ",
    ),
    # index pins
    "pin is an address": (
        '"private"',
        '"https://example.org/simple"',
        "lock.index.tiny-words: no address of an index may",
    ),
    "pin is a list": ('"private"', '["private"]', "lock.index.tiny-words: expected a string"),
    "pin of no name": ('tiny-words = "private"', '"a b" = "private"', "lock.index: `a b` is not the name of a dist"),
    "pin with a space": ('"private"', '"my index"', "lock.index.tiny-words: `my index` is not the name of an index"),
    "pin twice": (
        'tiny-words = "private"',
        'tiny-words = "private"\nTiny_Words = "other"',
        "lock.index.tiny-words: `tiny-words` is pinned twice",
    ),
    "pin of a wheel": (
        'tiny-words = "private"',
        'tiny-made = "private"',
        "targets[0].index: `tiny-made` is given as a",
    ),
    "index is a list": ("[lock.index]", "[[lock.index]]", "lock.index: expected a table, found a list"),
    # wheels by address
    "http": (WHEEL, url("http://example.org/tiny_extra-{extra}-py3-none-any.whl"), ADDRESS),
    "ftp": (WHEEL, url("ftp://example.org/tiny_extra-{extra}-py3-none-any.whl"), ADDRESS),
    "no scheme": (WHEEL, url("example.org/tiny_extra-{extra}-py3-none-any.whl"), ADDRESS),
    "no host": (WHEEL, url("https:///tiny_extra-{extra}-py3-none-any.whl"), ADDRESS),
    "file on a host": (WHEEL, url("file://host/tiny_extra-{extra}-py3-none-any.whl"), ADDRESS),
    "password": (
        WHEEL,
        url("https://me:geheim@example.org/tiny_extra-{extra}-py3-none-any.whl"),
        "lock.wheels[0].url: no user name or password may stand in an address",
    ),
    "query": (
        WHEEL,
        url("https://example.org/tiny_extra-{extra}-py3-none-any.whl?token=geheim"),
        "lock.wheels[0].url: an address has no query and no fragment here",
    ),
    "fragment": (WHEEL, url("https://example.org/tiny_extra-{extra}-py3-none-any.whl#x"), "lock.wheels[0].url: an add"),
    "space": (
        WHEEL,
        url("https://example.org/a b/x-{extra}-py3-none-any.whl"),
        "lock.wheels[0].url: an address is 1 to",
    ),
    "bad port": (
        WHEEL,
        url("https://example.org:99999/x-{extra}-py3-none-any.whl"),
        "lock.wheels[0].url: that is not an",
    ),
    "bad IPv6": (WHEEL, url("https://[::/x-{extra}-py3-none-any.whl"), "lock.wheels[0].url: that is not an address"),
    "empty address": (WHEEL, url(""), "lock.wheels[0].url: the address is empty"),
    "no file": (WHEEL, url("https://example.org/"), "lock.wheels[0].url: the address names no file"),
    "sdist": (
        WHEEL,
        url("https://example.org/tiny-extra-{extra}.tar.gz"),
        "lock.wheels[0].url: `tiny-extra-2.0.tar.gz`",
    ),
    "not a wheel's name": (WHEEL, url("https://example.org/{extra}.whl"), "lock.wheels[0].url: Invalid wheel filename"),
    "escape in the file": (
        WHEEL,
        url("https://e.org/..%2F{extra}-1-py3-none-any.whl"),
        "lock.wheels[0].url: `../2.0-1-",
    ),
    "short sha256": (SHA, 'sha256 = "abc"', "lock.wheels[0].sha256: `abc` is neither 64 lower-case hexadecimal digits"),
    "upper-case sha256": (SHA, SHA.replace("ab", "AB"), "lock.wheels[0].sha256: `ABAB"),
    "sha256 is a table": (SHA, "sha256 = {}", "lock.wheels[0].sha256: expected a string, found a table"),
    "no sha256": (SHA, "", "lock.wheels[0].sha256: required string is missing"),
    "unknown wheel field": (SHA, f"{SHA}\nsize = 3", "lock.wheels[0].size: unknown field; known here: sha256, targets"),
    "architecture": (
        WHEEL,
        url("https://example.org/tiny_extra-{extra}-cp312-cp312-macosx_14_0_arm64.whl"),
        "lock.wheels[0].url: `tiny_extra-2.0-cp312-cp312-macosx_14_0_arm64.whl` does not install on `linux/amd64+cpu`",
    ),
    "floor": (
        WHEEL,
        url("https://example.org/tiny_extra-{extra}-cp312-cp312-manylinux_2_39_x86_64.whl"),
        "does not install on `linux/amd64+cpu` with glibc 2.35; limit it with `targets`, or move the floor",
    ),
    "wheel for every target": (
        f'{WHEEL}\n{SHA}\ntargets = ["linux/amd64+cpu"]',
        url("https://e.org/x-{extra}-cp312-cp312-manylinux_2_28_x86_64.whl") + f"\n{SHA}",
        "does not install on `darwin/arm64+metal` with macOS 14.0",
    ),
    "wheel's target": (
        f'{SHA}\ntargets = ["linux/amd64+cpu"]',
        f'{SHA}\ntargets = ["linux/arm64+cpu"]',
        "lock.wheels[0].targets[0]: `linux/arm64+cpu` is not a target of this recipe",
    ),
    "wheel's target is none": (
        f'{SHA}\ntargets = ["linux/amd64+cpu"]',
        f'{SHA}\ntargets = ["linux"]',
        "lock.wheels[0].targets[0]: Cannot read target: 'linux' is not a target",
    ),
    "wheel and requirement": (
        '"tiny-server=={server}"',
        '"tiny-server=={server}", "tiny-extra<2"',
        "`tiny-extra<2` does",
    ),
    "wheel and constraint": ("tiny-kernels<3", "tiny-extra<2", "targets[0]: `tiny-extra<2` does not allow the wheel"),
    "two wheels": (
        "[[lock.git]]",
        f"[[lock.wheels]]\n{WHEEL}\n{SHA}\n[[lock.git]]",
        "targets[0]: `tiny-extra` is given twice in [[lock.wheels]] and [[lock.git]]",
    ),
    "wheel and commit": (
        WHEEL,
        url("https://e.org/tiny_made-{extra}-py3-none-any.whl"),
        "targets[0]: `tiny-made` is given",
    ),
    "wheels are a table": ("[[lock.wheels]]", "[lock.wheels]", "lock.wheels: expected a list, found a table"),
    # git commits
    "short commit": (COMMIT, 'commit = "c0c0c0"', "lock.git[0].commit: `c0c0c0` does not match"),
    "branch": (COMMIT, 'commit = "main"', "lock.git[0].commit: `main` does not match"),
    "ssh": (GIT, url("ssh://git@example.org/x"), "lock.git[0].url: no user name or password"),
    "scp": (GIT, url("git@example.org:x/y.git"), "lock.git[0].url: the address must begin with"),
    "option for git": (GIT, url("--upload-pack=touch"), "lock.git[0].url: the address must begin with"),
    "transport helper": (GIT, url("ext::sh -c id"), "lock.git[0].url: an address is 1 to 2048 printable"),
    "subdirectory climbs": (
        '"python/made"',
        '"python/../.."',
        "lock.git[0].subdirectory: `python/../..` does not match",
    ),
    "absolute subdirectory": ('"python/made"', '"/etc"', "lock.git[0].subdirectory: `/etc` does not match"),
    "commit's version": (
        'version = "3.1"\nsub',
        'version = "three"\nsub',
        "lock.git[0].version: `three` is not a version",
    ),
    "commit's file": (
        COMMIT,
        f'{COMMIT}\nfile = "x-1-py3-none-any.whl"',
        "lock.git[0].file: `x-1-py3-none-any.whl` is",
    ),
    "commit's native file": (
        COMMIT,
        f'{COMMIT}\nfile = "tiny_made-3.1-cp312-cp312-win_amd64.whl"',
        "lock.git[0].file: `tiny_made-3.1-cp312-cp312-win_amd64.whl` does not install on",
    ),
    # static metadata
    "metadata of another version": ('version = "3.1"\nrequires', 'version = "3.2"\nrequires', "and a wheel of 3.1"),
    "metadata without list": ("requires-dist = [", "requires = [", "lock.metadata[0].requires-dist: required list is"),
    "metadata with address": (
        '"tiny-words>=1"',
        '"a @ https://e.org/a.whl"',
        "lock.metadata[0].requires-dist[0]: `a` has",
    ),
    # prebuild and audit
    "prebuild climbs": ('"tiny_server/table.bin"', '"../x"', "prebuild[0].writes[0]: `../x` has an empty, `.` or `..`"),
    "prebuild of all": ('"tiny_server/table.bin"', '"**"', "prebuild[0].writes[0]: `**` names nothing in particular"),
    "prebuild writes nothing": (
        '["tiny_server/table.bin"]',
        "[]",
        "prebuild[0].writes: at least one pattern is needed",
    ),
    "prebuild without program": ('["{python}", "-c", "print({})"]', "[]", "prebuild[0].command: names no program"),
    "prebuild in a shell": ('["{python}", "-c", "print({})"]', '"make"', "prebuild[0].command: expected a list, found"),
    "NUL": ('"print({})"', '"\\u0000"', "prebuild[0].command[2]: too long, or holds a NUL character"),
    "prebuild's name": ('name = "make-table"', 'name = "Make it"', "prebuild[0].name: `Make it` does not match"),
    "finding": (
        '"missing-library"',
        '"missing-libary"',
        "audit.allow[0].finding: `missing-libary` is not a finding; did you",
    ),
    "no such finding": (
        '"missing-library"',
        '"qqq"',
        "audit.allow[0].finding: `qqq` is not a finding; known here: leaked",
    ),
    "no reason": ('reason = "the driver brings it"', "", "audit.allow[0].reason: required string is missing"),
    "empty reason": ('"the driver brings it"', '" "', "audit.allow[0].reason: ` ` does not match"),
    "absolute paths": ('"**/libtiny.so"', '"//etc"', "audit.allow[0].paths[0]: `//etc` has an empty"),
    "backslash": (
        '"**/libtiny.so"',
        '"a\\\\b"',
        "audit.allow[0].paths[0]: `a\\b` has an empty, `.` or `..` component, or",
    ),
    "allow everything": ('["**/libtiny.so"]', "[]", "audit.allow[0].paths: at least one pattern is needed"),
    "unknown audit field": ("[[audit.allow]]", "[[audit.allows]]", "audit.allows: unknown field; known here: allow"),
    "nested": ("[versions]", f"x = {'[' * 5000}\n[versions]", "it is nested too deeply"),
    "duplicate key": ('server = "1.5"', 'server = "1.5"\nserver = "1.6"', "it is not TOML: "),
}
"""What to replace in `FULL`, by what, and part of the error."""

BAD_BYTES = {
    "not UTF-8": (b"\xff" + FULL.encode(), "it is not UTF-8 text (at line 1)"),
    "UTF-16": (FULL.encode("utf-16"), "it is not UTF-8 text (at line 1)"),
    "mark": (b"\xef\xbb\xbf" + FULL.encode(), "it begins with a byte order mark"),
    "NUL": (FULL.encode() + b"\0", "it is not TOML: "),
    "huge": (FULL.encode() + b"#" * MOST_BYTES, f"it is larger than {MOST_BYTES} bytes"),
    "empty": (b"", "format: required integer is missing"),
    "many problems": (b"x = 1\n" + b"".join(b"k%d = 1\n" % number for number in range(200)), "and 1"),
}


def refused(ran: Any, path: Path, expected: str) -> None:
    assert ran.status in {3, 4}, ran
    assert expected in ran.err, ran.err
    assert str(path) in ran.err
    assert ran.err.startswith("error: Cannot read ")
    assert "\nhint: " in ran.err
    assert "Traceback" not in ran.err
    assert "geheim" not in ran.err
    assert len(ran.err) < 12_000
    assert ran.out == ""


@pytest.mark.parametrize(("old", "new", "expected"), BAD_RECIPES.values(), ids=BAD_RECIPES.keys())
def test_a_bad_recipe(mr_bundle: Callable[..., Any], tmp_path: Path, old: str, new: str, expected: str) -> None:
    directory = write_recipe(tmp_path / "tiny", edit(FULL, old, new))
    refused(mr_bundle("check", directory), directory / "recipe.toml", expected)


@pytest.mark.parametrize(("data", "expected"), BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_bytes_that_are_no_recipe(mr_bundle: Callable[..., Any], tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "recipe.toml").write_bytes(data)
    refused(mr_bundle("lock", tmp_path), tmp_path / "recipe.toml", expected)


@pytest.mark.parametrize("words", [["check"], ["lock"], ["export-lock", "--target", str(LINUX)]])
def test_no_recipe(mr_bundle: Callable[..., Any], tmp_path: Path, words: list[str]) -> None:
    ran = mr_bundle(*words, tmp_path / "absent")
    assert ran.status == 4
    refused(ran, tmp_path / "absent", "there is no such file")


@pytest.mark.parametrize("words", [["lock"], ["export-lock"], ["build"]])
@pytest.mark.parametrize("text", ["", "linux", "linux/amd64", "windows/amd64+cpu", "linux/amd64+CPU", "x" * 3000])
def test_a_malformed_target_is_wrong_usage(
    mr_bundle: Callable[..., Any], tmp_path: Path, words: list[str], text: str
) -> None:
    ran = mr_bundle(*words, write_recipe(tmp_path / "tiny", FULL), "--target", text)
    assert ran.status == 2, ran
    assert "--target" in ran.err
    assert "hint: " in ran.err
    assert len(ran.err) < 1000


def test_a_target_the_recipe_does_not_have(mr_bundle: Callable[..., Any], tmp_path: Path) -> None:
    ran = mr_bundle("lock", write_recipe(tmp_path / "tiny", FULL), "--target", "linux/arm64+cpu")
    assert ran.status == 4
    assert "it has `linux/amd64+cpu`, `darwin/arm64+metal`" in ran.err


def locked(recipe: Recipe) -> Lock:
    """Return a lock of the full recipe's first target."""
    target = recipe.target(LINUX)
    return Lock(
        backend=recipe.backend,
        version="1.5",
        target=LINUX,
        requires=platform_floor(target.requires),
        exclude_newer=recipe.exclude_newer,
        python=pin_for("3.12.14", "20260814", LINUX.platform),
        packages=(
            LockedWheel(
                name="tiny-extra",
                version="2.0+cpu",
                file="tiny_extra-2.0+cpu-py3-none-any.whl",
                sha256="ab" * 32,
                url=target.wheels[0].url,
            ),
            LockedWheel(
                name="tiny-made",
                version="3.1",
                file="tiny_made-3.1-py3-none-any.whl",
                sha256="",
                vcs=VcsPin(url="https://example.org/tiny-made.git", commit="c0" * 20, subdirectory="python/made"),
                pending=True,
            ),
            LockedWheel(name="tiny-server", version="1.5", file="tiny_server-1.5-py3-none-any.whl", sha256="cd" * 32),
            LockedWheel(
                name="tiny-words", version="1", file="tiny_words-1-py3-none-any.whl", sha256="ef" * 32, index="private"
            ),
        ),
        inputs=inputs_digest(recipe, target),
    )


def test_a_lock_with_every_field(tmp_path: Path) -> None:
    lock = locked(load_recipe(write_recipe(tmp_path, FULL)))
    data = lock.dump()
    assert parse_lock(data) == lock
    assert [wheel.name for wheel in lock.pending] == ["tiny-made"]
    text = data.decode()
    assert (
        'name = "tiny-made"\nversion = "3.1"\nvcs = { type = "git", url = "https://example.org/tiny-made.git", '
        f'commit-id = "{"c0" * 20}", subdirectory = "python/made" }}\n'
        'wheels = [{ name = "tiny_made-3.1-py3-none-any.whl", pending = true }]\n'
    ) in text
    assert 'name = "tiny-words"\nversion = "1"\nindex = "private"\nwheels = [{' in text
    assert f'url = "{lock.packages[0].url}", hashes = ' in text


URL = 'url = "https://example.org/v2.0/tiny_extra-2.0%2Bcpu-py3-none-any.whl"'
BAD_LOCKS = {
    "pending is false": (
        "pending = true",
        "pending = false",
        "packages[1].wheels[0].pending: is left out when it is not",
    ),
    "pending is a word": ("pending = true", 'pending = "yes"', "packages[1].wheels[0].pending: expected true or false"),
    "pending with digest": (
        "pending = true",
        f'pending = true, hashes = {{ sha256 = "{"ab" * 32}" }}',
        "packages[1].wheels[0].hashes: a pending wheel has no digest",
    ),
    "neither": (", pending = true", "", "packages[1].wheels[0].hashes: required table is missing"),
    "pending without source": (
        f'hashes = {{ sha256 = "{"cd" * 32}" }}',
        "pending = true",
        "packages[2].wheels[0].pending: only a wheel with an address or a git commit can be pending",
    ),
    "address of a commit": (
        "pending = true",
        'pending = true, url = "https://e.org/x"',
        "packages[1].wheels[0].url: a wheel built from a git commit has no address",
    ),
    "http": (URL, 'url = "http://e.org/x"', "packages[0].wheels[0].url: the address must begin with `https://`"),
    "password": (URL, 'url = "https://a:geheim@e.org/x"', "packages[0].wheels[0].url: no user name or password"),
    "address is a list": (URL, "url = []", "packages[0].wheels[0].url: expected a string, found a list"),
    "type": ('type = "git"', 'type = "hg"', "packages[1].vcs.type: `hg` does not match `git`"),
    "no type": ('type = "git", ', "", "packages[1].vcs.type: required string is missing"),
    "commit": ("c0" * 20, "main", "packages[1].vcs.commit-id: `main` does not match"),
    "vcs is a list": ("vcs = {", "vcs = [{", "it is not TOML"),
    "vcs subdirectory": ('"python/made"', '"../x"', "packages[1].vcs.subdirectory: `../x` does not match"),
    "unknown vcs field": ('type = "git"', 'type = "git", path = "x"', "packages[1].vcs.path: unknown field"),
    "index of a commit": (
        'version = "3.1"',
        'version = "3.1"\nindex = "x"',
        "packages[1].index: what no index serves is",
    ),
    "index": ('"private"', '"a b"', "packages[3].index: `a b` does not match"),
    "foreign wheel": (
        "tiny_server-1.5-py3-none-any",
        "tiny_server-1.5-cp312-cp312-win_amd64",
        "does not install on `linux",
    ),
    "not UTF-8": ("tiny_server", "tiny_\udcff", "it is not UTF-8 text (at line "),
    "mark": ("# Written", "\ufeff# Written", "it begins with a byte order mark"),
    "nested": ("[python]", f"x = {'[' * 5000}\n[python]", "it is nested too deeply"),
    "NUL": ('"private"', '"pri\\u0000vate"', "packages[3].index: too long, or holds a NUL"),
    "packages are a table": ("[[packages]]", "[packages]", "it is not TOML"),
}


@pytest.mark.parametrize(("old", "new", "expected"), BAD_LOCKS.values(), ids=BAD_LOCKS.keys())
def test_a_bad_lock(mr_bundle: Callable[..., Any], tmp_path: Path, old: str, new: str, expected: str) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny", FULL))
    path = lock_path(recipe, LINUX)
    text = locked(recipe).dump().decode()
    changed = text.replace(old, new, 1) if old == "[[packages]]" else edit(text, old, new)
    path.write_bytes(changed.encode(errors="surrogateescape"))
    refused(mr_bundle("check", recipe.directory), path, expected)


def test_a_huge_lock(mr_bundle: Callable[..., Any], tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny", FULL))
    path = lock_path(recipe, LINUX)
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    refused(mr_bundle("check", recipe.directory), path, "it is larger than 16777216 bytes")


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Return ``data`` with a few places replaced, removed, doubled or swapped for pieces of itself."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        end = min(len(found), at + draw(st.integers(0, 40)))
        piece = draw(
            st.binary(max_size=12)
            | st.sampled_from(
                [b"[[lock.wheels]]", b"{", b"}", b'"', b"[", b"=", b"\n", b"{}", b"nan", b"1e999", b"\\u0000"]
            )
            | st.just(bytes(data[at : at + 60]))
        )
        found[at:end] = piece
    return bytes(found)


@settings(max_examples=200, deadline=None)
@given(mutated(FULL.encode()))
def test_only_our_errors_come_from_any_recipe(data: bytes) -> None:
    try:
        recipe = parse_recipe(data, Path())
    except BundleError as error:
        assert error.hint
    else:
        assert recipe.raw == data
        assert all(inputs_digest(recipe, target) for target in recipe.targets)


LOCK = locked(parse_recipe(FULL.encode(), Path()))


@settings(max_examples=200, deadline=None)
@given(mutated(LOCK.dump()))
def test_only_our_errors_come_from_any_lock(data: bytes) -> None:
    try:
        lock = parse_lock(data)
    except BundleError as error:
        assert error.hint
    else:
        assert lock == LOCK


def test_a_stale_lock_names_its_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, FULL))
    old = locked(recipe)
    assert replace(old).inputs == inputs_digest(recipe, recipe.target(LINUX))
    with pytest.raises(InvalidInputError):
        parse_lock(replace(old, inputs="x").dump())
