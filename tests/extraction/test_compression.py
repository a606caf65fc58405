"""Streams are read to their one proper end, and written the same way everywhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import subprocess

import pytest

from mr_core.compression import CHUNK_BYTES, open_compressor, open_decompressor
from mr_core.errors import IntegrityError, InternalError, UnsupportedError
from support.need import need
from support.tars import compress

KINDS = ("zstd", "gzip", "none")
WORDS = [hashlib.sha256(b"%d" % number).hexdigest().encode() for number in range(300)]
DATA = b" ".join(random.Random(7).choice(WORDS) for _ in range(40_000))


def decompress(kind: str, blob: bytes, step: int) -> bytes:
    decoder = open_decompressor(kind)
    found = []
    for start in range(0, len(blob), step):
        for chunk in decoder.feed(blob[start : start + step]):
            assert 0 < len(chunk) <= CHUNK_BYTES
            found.append(chunk)
    decoder.finish()
    return b"".join(found)


def rule_of(kind: str, blob: bytes, step: int = 1 << 16) -> object:
    with pytest.raises(IntegrityError) as caught:
        decompress(kind, blob, step)
    return caught.value.fields["rule"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [997, 1 << 16, 1 << 24])
def test_round_trip(kind: str, step: int) -> None:
    assert decompress(kind, compress(DATA, kind), step) == DATA
    assert decompress(kind, compress(b"", kind), step) == b""


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_round_trip_one_byte_at_a_time(kind: str) -> None:
    assert decompress(kind, compress(DATA[:5000], kind), 1) == DATA[:5000]


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_a_bomb_comes_in_small_chunks(kind: str) -> None:
    size = 30 << 20
    blob = compress(bytes(size), kind)
    assert len(blob) < size // 100
    assert len(decompress(kind, blob, 1 << 20)) == size


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_truncation_is_refused_at_every_length(kind: str) -> None:
    blob = compress(DATA[:3000], kind)
    for length in range(len(blob)):
        assert rule_of(kind, blob[:length]) == "stream-truncated"


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
@pytest.mark.parametrize("together", [True, False], ids=["in one part", "in two parts"])
def test_bytes_after_the_end_are_refused(kind: str, together: bool) -> None:
    blob = compress(DATA[:3000], kind)
    step = 1 << 16 if together else len(blob)
    assert rule_of(kind, blob + b"x", step) == "bytes-after-stream"
    assert rule_of(kind, blob + bytes(512), step) == "bytes-after-stream"
    assert rule_of(kind, blob + blob, step) == "second-stream"
    assert rule_of(kind, blob + compress(b"", kind), step) == "second-stream"


def test_skippable_zstd_frames_are_refused() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    blob = compress(DATA[:3000], "zstd")
    assert rule_of("zstd", skippable + blob) == "second-stream"
    assert rule_of("zstd", blob + skippable) == "bytes-after-stream"


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_every_flipped_byte_is_noticed_or_harmless(kind: str) -> None:
    blob = compress(DATA[:3000], kind)
    harmless = 0
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 0x41
        try:
            assert decompress(kind, bytes(changed), 1 << 16) == DATA[:3000]
            harmless += 1
        except IntegrityError as error:
            assert error.fields["rule"] in {"compressed-data", "stream-truncated", "window", "bytes-after-stream"}
    assert harmless <= 6, "only gzip's time, flags and system bytes mean nothing"


def test_window_above_the_limit_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    zstd = need("zstd")

    def wide(log: int) -> bytes:
        # Unknown size (a pipe), so that the frame header states the window that was asked for.
        command = [zstd, "-q", "-1", f"--zstd=wlog={log}", "--ultra", "-c"]
        return subprocess.run(command, input=DATA, stdout=subprocess.PIPE, check=True).stdout

    assert decompress("zstd", wide(27), 1 << 16) == DATA
    assert rule_of("zstd", wide(28)) == "window"


def test_unknown_compression_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="`bzip2`"):
        open_decompressor("bzip2")
    with pytest.raises(UnsupportedError, match="`bzip2`"):
        open_compressor("bzip2", size=0)


def with_threads(threads: int | None, step: int, level: int = 9) -> bytes:
    data = memoryview(DATA * 8)  # more than one job of a level with a small window
    encoder = open_compressor("zstd", size=len(data), level=level, threads=threads)
    parts = [encoder.compress(data[start : start + step]) for start in range(0, len(data), step)]
    return b"".join([*parts, encoder.finish()])


def test_zstd_output_does_not_depend_on_threads_or_parts() -> None:
    assert len(DATA) * 8 > 16 << 20
    want = with_threads(1, 1 << 20, level=1)
    assert {
        with_threads(threads, step, level=1) for threads in (0, 2, 3, 8, None) for step in (1 << 18, 5_000_003)
    } == {want}


@pytest.mark.parametrize("kind", KINDS)
def test_output_does_not_depend_on_parts(kind: str) -> None:
    def run(step: int) -> bytes:
        encoder = open_compressor(kind, size=len(DATA))
        return b"".join(encoder.compress(DATA[at : at + step]) for at in range(0, len(DATA), step)) + encoder.finish()

    assert run(10_000) == run(1 << 20)


def test_zstd_frame_states_size_and_checksum() -> None:
    blob = compress(DATA, "zstd")
    assert blob[4] & 0b100, "content checksum flag, RFC 8878 section 3.1.1.1.1"
    assert len(DATA).to_bytes(4, "little") in blob[5:18], "content size"
    program = need("zstd")
    assert subprocess.run([program, "-dc"], input=blob, stdout=subprocess.PIPE, check=True).stdout == DATA


def test_gzip_member_holds_neither_time_nor_system() -> None:
    blob = compress(DATA, "gzip")
    assert blob[3:10] == b"\0\0\0\0\0\0\xff"
    assert gzip.GzipFile(fileobj=io.BytesIO(blob)).read() == DATA


def test_wrong_announced_size_is_a_bug_of_ours() -> None:
    encoder = open_compressor("zstd", size=10)
    with pytest.raises(InternalError, match="more bytes"):
        encoder.compress(b"x" * 11)
    encoder = open_compressor("zstd", size=10)
    encoder.compress(b"x" * 9)
    with pytest.raises(InternalError, match="1 of the announced"):
        encoder.finish()
