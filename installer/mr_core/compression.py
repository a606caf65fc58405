"""Compress and decompress layer streams: the one module that knows the zstd library.

Reading is strict. One blob is one zstd frame or one gzip member: a stream that ends early, bytes after its end, and a
second frame or member are all refused, because readers disagree about them. (`zlib` drops a second gzip member without
a word, and some zstd bindings return short data for a cut stream.) A zstd window above 128 MiB is refused too.

Writing is deterministic: same bytes, same library version and same level give the same blob, whatever the machine.
zstd always runs with at least one worker thread, since the output is the same for every number of workers from one up
(jobs are cut by the level's window, not by the number of threads), but differs from that of the mode without workers.
Another library *version* may give other bytes, so the identity of content is its diffID, not the blob's digest.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from mr_core.errors import IntegrityError, InternalError, UnsupportedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 9
"""Default level of `open_compressor` for zstd: 352 MB of Python environment become 75 MB."""
CHUNK_BYTES = 1 << 20
"""Largest chunk that a decompressor yields, whatever a stream claims."""
FRAME_HEADER_BYTES = 18
"""Most bytes of a zstd frame header (RFC 8878, 3.1.1.1)."""
_WINDOW_LOG = 27  # 128 MiB, what `zstd -d` accepts without `--long`
_MOST_THREADS = 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC = b"\x1f\x8b"
# RFC 1952: deflate, no flags, no time, no extra flags, system "unknown", so that every build of zlib writes the same.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Decompressor(Protocol):
    """A push decoder of one stream."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what ``data`` decompresses to, in chunks of at most `CHUNK_BYTES`; exhaust it before the next call.

        Raises:
            IntegrityError: the stream is corrupt, needs too large a window, or goes on after its end; ``rule`` says.
        """

    def finish(self) -> None:
        """State that no more bytes come; raise `IntegrityError` unless the stream is complete."""


class Compressor(Protocol):
    """A push encoder of one stream."""

    def compress(self, data: bytes | memoryview) -> bytes:
        """Take bytes; return compressed ones as they become ready, often none."""

    def finish(self) -> bytes:
        """End the stream and return its last bytes."""


def open_decompressor(kind: str) -> Decompressor:
    """Return a decoder for ``zstd``, ``gzip`` or ``none``; raise `UnsupportedError` for anything else."""
    makers: dict[str, Callable[[], Decompressor]] = {"zstd": _Zstd, "gzip": _Gzip, "none": _Plain}
    if kind not in makers:
        raise UnsupportedError(f"Cannot decompress layer: the compression `{kind[:40]}` is not known")
    return makers[kind]()


def open_compressor(kind: str, *, size: int, level: int = LEVEL, threads: int | None = None) -> Compressor:
    """Return an encoder for ``zstd``, ``gzip`` or ``none``.

    Args:
        kind: zstd frames carry their content size and a checksum; gzip members carry neither a name nor a time.
        size: Bytes that will be fed, exactly; zstd's parameters and its frame header depend on it, nothing else does.
        level: 1 to 19 for zstd, 1 to 9 for gzip.
        threads: Worker threads for zstd, default one for each core; the output does not depend on it.

    Raises:
        UnsupportedError: unknown ``kind``, or a zstd library without threads, whose output would differ.
    """
    match kind:
        case "zstd":
            return _ZstdWriter(size, level, threads)
        case "gzip":
            return _GzipWriter(min(level, 9))
        case "none":
            return _PlainWriter()
        case _:
            raise UnsupportedError(f"Cannot compress layer: the compression `{kind[:40]}` is not known")


def stated_size(kind: str, head: bytes) -> int | None:
    """Return how many bytes a stream says it decompresses to, or `None` when it does not say; nobody has checked it.

    Args:
        kind: Only zstd frames can say it: a gzip member counts modulo 4 GiB, and at its end.
        head: The first `FRAME_HEADER_BYTES` of the stream, or all of a shorter one.

    Raises:
        IntegrityError: ``head`` is not the start of a zstd frame.
    """
    if kind != "zstd":
        return None
    try:
        return zstd.get_frame_info(head).decompressed_size
    except zstd.ZstdError as error:
        raise _refused("compressed-data", f"the zstd frame is corrupt ({error})") from error


def _refused(rule: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"Cannot decompress layer: {reason}", hint="fetch it again; if that fails too, tell its publisher", rule=rule
    )


def _refuse_rest(rest: bytes, magic: bytes, what: str) -> None:
    if rest.startswith(magic):
        raise _refused("second-stream", f"a second {what} follows the first")
    if rest:
        raise _refused("bytes-after-stream", f"bytes follow the end of the {what}")


class _Zstd:
    def __init__(self) -> None:
        self._decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})

    def feed(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        if self._ended():
            _refuse_rest(data, _ZSTD_MAGIC, "zstd frame")
            return
        while True:
            try:
                chunk = decoder.decompress(data, CHUNK_BYTES)
            except zstd.ZstdError as error:
                if "too much memory" in str(error):  # the library has no error code to test
                    raise _refused("window", "it needs a window above 128 MiB") from error
                raise _refused("compressed-data", f"the zstd frame is corrupt ({error})") from error
            if chunk:
                yield chunk
            if self._ended():
                _refuse_rest(decoder.unused_data, _ZSTD_MAGIC, "zstd frame")
                return
            if decoder.needs_input:
                return
            data = b""

    def finish(self) -> None:
        if not self._ended():
            raise _refused("stream-truncated", "the zstd frame is cut off")

    def _ended(self) -> bool:
        return self._decoder.eof


class _Gzip:
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        if self._ended():
            _refuse_rest(data, _GZIP_MAGIC, "gzip member")
            return
        while True:
            try:
                chunk = decoder.decompress(data, CHUNK_BYTES)
            except zlib.error as error:
                raise _refused("compressed-data", f"the gzip member is corrupt ({error})") from error
            if chunk:
                yield chunk
            if self._ended():
                _refuse_rest(decoder.unused_data, _GZIP_MAGIC, "gzip member")
                return
            data = decoder.unconsumed_tail
            # A full chunk may leave output inside zlib although all input is taken.
            if not data and len(chunk) < CHUNK_BYTES:
                return

    def finish(self) -> None:
        if not self._ended():
            raise _refused("stream-truncated", "the gzip member is cut off")

    def _ended(self) -> bool:
        return self._decoder.eof


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]

    def finish(self) -> None:
        return


class _ZstdWriter:
    def __init__(self, size: int, level: int, threads: int | None) -> None:
        parameter = zstd.CompressionParameter
        most = parameter.nb_workers.bounds()[1]
        if most < 1:
            raise UnsupportedError(
                "Cannot compress layer: this zstd library has no threads, so its output would differ",
                hint="use a Python whose zstd library is built with threads, or `backports.zstd`",
            )
        wanted = (os.cpu_count() or 1) if threads is None else threads
        self._left = size
        self._encoder = zstd.ZstdCompressor(
            options={
                parameter.compression_level: level,
                parameter.checksum_flag: 1,
                parameter.content_size_flag: 1,
                parameter.nb_workers: max(1, min(wanted, most, _MOST_THREADS)),
            }
        )
        self._encoder.set_pledged_input_size(size)

    def compress(self, data: bytes | memoryview) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise InternalError("Cannot compress layer: more bytes came than were announced")
        return self._encoder.compress(data)

    def finish(self) -> bytes:
        if self._left:
            raise InternalError(f"Cannot compress layer: {self._left} of the announced bytes did not come")
        return self._encoder.flush(zstd.ZstdCompressor.FLUSH_FRAME)


class _GzipWriter:
    def __init__(self, level: int) -> None:
        self._encoder = zlib.compressobj(level, zlib.DEFLATED, -15, 9)
        self._header = _GZIP_HEADER
        self._checksum = 0
        self._size = 0

    def compress(self, data: bytes | memoryview) -> bytes:
        self._checksum = zlib.crc32(data, self._checksum)
        self._size += len(data)
        header, self._header = self._header, b""
        return header + self._encoder.compress(data)

    def finish(self) -> bytes:
        header, self._header = self._header, b""
        return header + self._encoder.flush() + struct.pack("<LL", self._checksum, self._size & 0xFFFFFFFF)


class _PlainWriter:
    def compress(self, data: bytes | memoryview) -> bytes:
        return bytes(data)

    def finish(self) -> bytes:
        return b""
