"""Whatever bytes come, nothing is written outside the stage, and what is accepted is what every reader would see."""

from __future__ import annotations

import dataclasses
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mr_core.digest import Digest
from mr_core.errors import IntegrityError, InvalidInputError
from mr_core.file_manifest import Entry
from mr_installer.extract import LayerJob, finish_tree
from support import tars
from support.tars import BLOCK

pytestmark = pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
quick = settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))

SAMPLE = tars.sample(count=4, size=300)
BLOCKS = len(SAMPLE) // BLOCK


@contextmanager
def fenced() -> Iterator[Path]:
    """A directory for the stage, among others that must stay as they are."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "outside").mkdir()
        (place / "outside/file").write_bytes(b"precious")
        (place / "blobs").mkdir()
        yield place
        assert sorted(os.listdir(place)) == ["blobs", "outside", "stage"]
        assert tars.tree(place / "outside").keys() == {"file"}
        assert (place / "outside/file").read_bytes() == b"precious"


def attempt(job: LayerJob, stage: Path) -> dict[str, Entry] | None:
    """The finished tree, or `None` when it was refused by one of the two errors allowed."""
    try:
        return finish_tree(stage, [tars.extract(job, stage)])
    except (IntegrityError, InvalidInputError):
        return None


with fenced() as _place:
    assert attempt(tars.job(_place / "blobs", SAMPLE), _place / "stage"), "the sample itself must be accepted"
    EXPECTED = tars.tree(_place / "stage")

edits = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, len(SAMPLE) - 1), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, len(SAMPLE) - 1), st.integers(1, 2000)),
    st.tuples(st.just("repeat"), st.integers(0, BLOCKS - 1), st.integers(1, 6)),
    st.tuples(st.just("drop"), st.integers(0, BLOCKS - 1), st.integers(1, 6)),
    st.tuples(st.just("swap"), st.integers(0, BLOCKS - 1), st.integers(0, BLOCKS - 1)),
    st.tuples(st.just("zero"), st.integers(0, BLOCKS - 1), st.integers(1, 3)),
)


def edited(data: bytes, kind: str, at: int, how: int) -> bytes:
    block, many = at * BLOCK, how * BLOCK
    match kind:
        case "flip":
            return data[:at] + bytes([data[at % len(data)] ^ how]) + data[at + 1 :] if at < len(data) else data
        case "cut":
            return data[:at] + data[at + how :]
        case "repeat":
            return data[: block + many] + data[block:]
        case "drop":
            return data[:block] + data[block + many :]
        case "swap":
            blocks = [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]
            first, second = at % len(blocks), how % len(blocks)
            blocks[first], blocks[second] = blocks[second], blocks[first]
            return b"".join(blocks)
        case _:
            return data[:block] + bytes(many) + data[block + many :]


@quick
@given(st.lists(edits, min_size=1, max_size=4), st.sampled_from(["none", "gzip", "zstd"]))
def test_changed_tar_is_refused_or_the_same(changes: list[tuple[str, int, int]], kind: str) -> None:
    tar = SAMPLE
    for change in changes:
        tar = edited(tar, *change)
    with fenced() as place:
        job = dataclasses.replace(tars.job(place / "blobs", tar, kind), diff_id=Digest.of(SAMPLE))
        if attempt(job, place / "stage") is not None:
            assert tars.tree(place / "stage") == EXPECTED


@quick
@given(st.data(), st.sampled_from(["gzip", "zstd"]))
def test_changed_blob_is_refused_or_the_same(data: st.DataObject, kind: str) -> None:
    blob = bytearray(tars.compress(SAMPLE, kind))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(blob) - 1))
        if data.draw(st.booleans()):
            blob[at] ^= data.draw(st.integers(1, 255))
        else:
            del blob[at : at + data.draw(st.integers(1, 50))]
            blob = blob or bytearray(b"x")
    with fenced() as place:
        job = tars.job(place / "blobs", SAMPLE, kind, blob=bytes(blob), verified=True)
        if attempt(job, place / "stage") is not None:
            assert tars.tree(place / "stage") == EXPECTED


# Valid layers with a few odd fields and right checksums, so that no checksum saves us; the diffID agrees with them too.
names = st.sampled_from(["a", "b", "ab", "ü", "n" * 70])
places = st.lists(names, min_size=1, max_size=3).map("/".join)
texts = st.one_of(
    places.map(lambda path: f"backend/{path}"),
    st.text(st.sampled_from("ab./\\A:\u00e9\u0308\n "), max_size=12).map(lambda text: f"backend/{text}"),
    st.sampled_from(["backend", "backend/", "/backend/a", "backend/a/", "../a", "", "a", "..", "ab/../a"]),
)
fields = st.one_of(
    st.tuples(st.just("name"), texts.map(lambda text: text.encode()[:100])),
    st.tuples(
        st.just("mode"), st.sampled_from([0o644, 0o755, 0o777, 0o4755, 0o600, 0]).map(lambda n: tars.octal(n, 8))
    ),
    st.tuples(st.just("kind"), st.sampled_from([b"0", b"2", b"5", b"1", b"x", b"g", b"L", b"\0", b"3", b"7"])),
    st.tuples(st.just("size"), st.integers(0, (1 << 33) - 1).map(lambda n: tars.octal(n, 12))),
    st.tuples(st.just("size"), st.integers(0, 600).map(lambda n: tars.octal(n, 12))),
    st.tuples(st.just("link"), texts.map(lambda text: text.encode()[:100])),
    st.tuples(st.just("mtime"), st.integers(0, 1 << 31).map(lambda n: tars.octal(n, 12))),
    st.tuples(st.just("prefix"), st.sampled_from([b"backend", b"backend/a", b"x", b"/", b"."])),
    st.tuples(st.just("magic"), st.sampled_from([b"ustar  \0", b"ustar\x0000", b""])),
    st.tuples(st.just("major"), st.sampled_from([b"0000000\0", b"0000001\0"])),
)
records = st.tuples(st.sampled_from(["path", "linkpath", "size", "mtime"]), texts | st.integers(0, 600).map(str))


@st.composite
def layers(draw: st.DrawFn) -> bytes:
    leaves = draw(st.dictionaries(places, st.binary(max_size=600) | names, max_size=5))
    parents = {"/".join(path.split("/")[:count]) for path in leaves for count in range(1, path.count("/") + 1)}
    parts: list[tuple[list[bytes], dict[str, bytes], bytes]] = []
    for path in sorted(parents | leaves.keys()):
        content = leaves.get(path)
        head: dict[str, bytes] = {"name": f"backend/{path}".encode()}
        extended: list[bytes] = []
        if len(head["name"]) > 100:
            extended.append(tars.record("path", head["name"]))
            head["name"] = b"backend/long"
        if path in parents:
            head |= {"kind": b"5", "mode": tars.octal(0o755, 8)}
        elif isinstance(content, str):
            head |= {
                "kind": b"2",
                "mode": tars.octal(0o777, 8),
                "link": content.removeprefix("backend/").encode()[:100],
            }
        else:
            head |= {"kind": b"0", "size": tars.octal(len(content or b""), 12)}
        body = content if isinstance(content, bytes) and path not in parents else b""
        parts.append((extended, head, body))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2])) if parts else 0):
        extended, head, _body = draw(st.sampled_from(parts))
        if draw(st.integers(0, 3)):
            head.update([draw(fields)])
        else:
            extended.append(tars.record(*draw(records)))
    return tars.archive(
        *(
            (tars.pax(b"".join(extended)) if extended else b"")
            + tars.header(head.pop("name"), kind=head.pop("kind"), **head)
            + tars.padded(body)
            for extended, head, body in parts
        )
    )


def test_what_is_accepted_is_what_tarfile_sees() -> None:
    accepted = refused = 0

    @settings(quick, max_examples=500)
    @given(layers())
    def compare(tar: bytes) -> None:
        nonlocal accepted, refused
        with fenced() as place:
            if attempt(tars.job(place / "blobs", tar), place / "stage") is None:
                refused += 1
                return
            accepted += 1
            with tempfile.TemporaryDirectory() as other, tarfile.open(fileobj=BytesIO(tar)) as opened:
                opened.extractall(other, filter="fully_trusted")
                assert os.listdir(other) == ["backend"]
                assert tars.tree(place / "stage") == tars.tree(Path(other, "backend"))

    compare()
    assert min(accepted, refused) > 40, (accepted, refused)


@settings(quick, max_examples=200)
@given(st.binary(max_size=3000), st.sampled_from(["none", "gzip", "zstd"]))
def test_arbitrary_bytes_are_refused(blob: bytes, kind: str) -> None:
    with fenced() as place:
        assert attempt(tars.job(place / "blobs", b"", kind, blob=blob), place / "stage") is None
        assert not tars.tree(place / "stage")


@settings(quick, max_examples=150)
@given(
    st.dictionaries(
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map("/".join),
        st.lists(st.sampled_from(["a", "b", "c", "..", "d"]), min_size=1, max_size=5).map("/".join),
        min_size=1,
        max_size=8,
    )
)
def test_no_accepted_link_leads_outside(links: dict[str, str]) -> None:
    parents = {"/".join(path.split("/")[:count]) for path in links for count in range(1, path.count("/") + 1)}
    wanted = sorted(parents | links.keys())
    chosen = [
        tars.directory(f"backend/{path}") if path in parents else tars.link(f"backend/{path}", links[path])
        for path in wanted
    ]
    with fenced() as place:
        if attempt(tars.job(place / "blobs", tars.archive(*chosen)), place / "stage") is None:
            return
        stage = os.path.realpath(place / "stage")
        for path in links.keys() - parents:
            real = os.path.realpath(f"{stage}/{path}")
            assert real == stage or real.startswith(f"{stage}/"), "the kernel's walk must agree with ours"
