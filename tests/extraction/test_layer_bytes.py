"""A layer's bytes must match three things: their size, their digest, and the diffID of what is in them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from mr_core.digest import Digest
from mr_core.errors import CancelledError, HostError, IntegrityError
from mr_core.file_manifest import FileEntry, LinkEntry
from mr_core.store import BlobFile
from mr_installer.extract import LayerJob
from mr_installer.extract.layer import extract_layer
from mr_installer.extract.tree_writer import open_directory
from support import tars

KINDS = ("zstd", "gzip", "none")
TAR = tars.sample()


def rule_of(job: LayerJob, stage: Path) -> object:
    with pytest.raises(IntegrityError) as caught:
        tars.extract(job, stage)
    assert caught.value.fields["layer"] == str(job.digest)
    return caught.value.fields["rule"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verified", [True, False])
def test_result_lists_what_is_on_disk(kind: str, verified: bool, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    result = tars.extract(tars.job(tmp_path, TAR, kind, verified=verified), stage)
    found = tars.tree(stage)
    files = {entry.path: entry for entry in result.entries if isinstance(entry, FileEntry)}
    assert {path: ("file", entry.mode, entry.sha256) for path, entry in files.items()} == {
        path: entry for path, entry in found.items() if entry[0] == "file"
    }
    assert result.directories == {path for path, entry in found.items() if entry[0] == "directory"}
    assert all(found[path][1] == 0o755 for path in result.directories)
    links = [entry for entry in result.entries if isinstance(entry, LinkEntry)]
    assert links == [
        LinkEntry(path="bin/alias", link="tool"),
        LinkEntry(path="bin/python", link="../lib/interpreter"),
    ]
    assert result.bytes == sum(entry.size for entry in files.values())


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_digest_is_noticed_before_anything_is_parsed(kind: str, tmp_path: Path) -> None:
    job = dataclasses.replace(tars.job(tmp_path, TAR, kind), digest=Digest.of(b"other"))
    assert rule_of(job, tmp_path / "stage") == "digest"
    assert not tars.tree(tmp_path / "stage")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_wrong_diff_id_is_noticed(algorithm: str, tmp_path: Path) -> None:
    wrong = Digest(algorithm, "0" * (64 if algorithm == "sha256" else 128))
    job = dataclasses.replace(tars.job(tmp_path, TAR, "zstd", verified=True), diff_id=wrong)
    assert rule_of(job, tmp_path / "stage") == "diff-id"


def test_diff_id_covers_the_end_of_the_archive(tmp_path: Path) -> None:
    job = dataclasses.replace(tars.job(tmp_path, TAR + bytes(512), verified=True), diff_id=Digest.of(TAR))
    assert rule_of(job, tmp_path / "stage") == "diff-id"


@pytest.mark.parametrize("kind", KINDS)
def test_file_shorter_than_the_blob(kind: str, tmp_path: Path) -> None:
    job = tars.job(tmp_path, TAR, kind, verified=True)
    longer = dataclasses.replace(job, blob=dataclasses.replace(job.blob, size=job.blob.size + 1))
    assert rule_of(longer, tmp_path / "stage") == "blob-size"
    job.blob.path.write_bytes(job.blob.path.read_bytes()[:-1])
    assert rule_of(job, tmp_path / "other") == "blob-size"


@pytest.mark.parametrize(
    ("kind", "rule"), [("zstd", "stream-truncated"), ("gzip", "stream-truncated"), ("none", "truncated")]
)
def test_blob_stated_too_small(kind: str, rule: str, tmp_path: Path) -> None:
    job = tars.job(tmp_path, TAR, kind, verified=True)
    shorter = dataclasses.replace(job, blob=dataclasses.replace(job.blob, size=job.blob.size - 1))
    assert rule_of(shorter, tmp_path / "stage") == rule


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
@pytest.mark.parametrize("extra", ["nothing", "garbage", "a stream"])
def test_stream_with_more_after_it(kind: str, extra: str, tmp_path: Path) -> None:
    first = tars.compress(TAR, kind)
    more = {"nothing": tars.compress(b"", kind), "garbage": b"garbage", "a stream": first}[extra]
    job = tars.job(tmp_path, TAR, kind, blob=first + more)
    assert rule_of(job, tmp_path / "stage") == ("bytes-after-stream" if extra == "garbage" else "second-stream")


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_archive_split_over_two_streams(kind: str, tmp_path: Path) -> None:
    blob = tars.compress(TAR[:2048], kind) + tars.compress(TAR[2048:], kind)
    assert rule_of(tars.job(tmp_path, TAR, kind, blob=blob), tmp_path / "stage") == "second-stream"


def test_archive_that_ends_before_its_stream(tmp_path: Path) -> None:
    # The tar is complete, the frame is not: a reader that stops at the end blocks would be content.
    blob = tars.compress(TAR + bytes(65024), "zstd")
    job = tars.job(tmp_path, TAR + bytes(65024), "zstd", blob=blob[:-4], verified=True)
    assert rule_of(job, tmp_path / "stage") == "stream-truncated"


def test_blob_inside_a_larger_file(tmp_path: Path) -> None:
    job = tars.job(tmp_path, TAR, "zstd")
    outer = tmp_path / "outer"
    outer.write_bytes(b"x" * 777 + job.blob.path.read_bytes() + b"y" * 777)
    inside = dataclasses.replace(job, blob=BlobFile(path=outer, offset=777, size=job.blob.size))
    assert tars.extract(inside, tmp_path / "stage") == tars.extract(job, tmp_path / "other")


def test_missing_blob_is_the_hosts_problem(tmp_path: Path) -> None:
    job = tars.job(tmp_path, TAR)
    job.blob.path.unlink()
    with pytest.raises(HostError, match="Cannot read"):
        tars.extract(job, tmp_path / "stage")


def test_progress_counts_file_bytes_and_can_stop(tmp_path: Path) -> None:
    tar = tars.archive(*(tars.file(f"backend/{n}", bytes(600_000)) for n in range(10)))
    seen: list[int] = []
    (tmp_path / "stage").mkdir()
    stage = open_directory(tmp_path / "stage")
    extract_layer(tars.job(tmp_path, tar, verified=True), stage, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 6_000_000
    assert len(set(seen)) >= 5
    os.close(stage)

    def stop(done: int) -> None:
        if done:
            raise CancelledError

    (tmp_path / "other").mkdir()
    other = open_directory(tmp_path / "other")
    with pytest.raises(CancelledError):
        extract_layer(tars.job(tmp_path, tar), other, stop)
    os.close(other)
    assert 0 < len(tars.tree(tmp_path / "other")) < 10
