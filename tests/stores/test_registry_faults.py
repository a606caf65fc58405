"""A registry store behind a wire that breaks, and with registries that misbehave."""

from __future__ import annotations

import re
import socket
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest

from mr_core.digest import Digest
from mr_core.errors import (
    AccessDeniedError,
    BundleError,
    CancelledError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
)
from mr_core.events import Cancel
from mr_core.memory import BytesStream
from mr_core.reader import VerifyingReader
from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.registry_options import RegistryOptions
from mr_core.resuming import ResumingStream
from mr_core.retry import RetryPolicy
from support.registry import QUICK, RealRegistry
from support.remote_blob import BLOB, CONTENT, HALF, connect, drain
from support.small_image import SmallImage, describe, small_image
from support.wire import Fault, FaultProxy

# --- broken connections


@pytest.mark.parametrize("fault", [{"reset_at": HALF}, {"cut_at": HALF}], ids=["reset", "cut"])
def test_a_broken_download_says_so_and_continues_where_it_stopped(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, fault: dict[str, Any]
) -> None:
    proxy.faults = [Fault(path="/blobs/", **fault)]
    pieces: list[bytes] = []
    with remote.open_blob(BLOB) as stream, pytest.raises(UnavailableError) as caught:
        pieces.extend(iter(lambda: stream.read(70_000), b""))
    got = b"".join(pieces)
    assert caught.value.exit_code == 7
    assert 0 < len(got) <= HALF
    assert got == CONTENT[: len(got)]
    rest = remote.open_blob(BLOB, len(got))
    assert rest.offset == len(got)
    assert got + drain(rest) == CONTENT


def test_a_resuming_stream_survives_many_breaks_and_asks_only_for_what_is_missing(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", reset_at=200_000, times=4)]
    with ResumingStream(remote, BLOB, policy=QUICK) as stream:
        reader = VerifyingReader(stream, BLOB.digest, BLOB.size)
        assert b"".join(iter(lambda: reader.read(70_000), b"")) == CONTENT
        reader.finish()
    starts = [int(re.findall(r"\d+", seen.headers.get("Range", "bytes=0-"))[0]) for seen in proxy.seen]
    assert len(starts) == 5
    assert starts == sorted(set(starts))


def test_a_resuming_stream_gives_up_without_progress(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", reset_at=0, times=99)]
    with ResumingStream(remote, BLOB, policy=QUICK) as stream, pytest.raises(UnavailableError):
        stream.read(1000)
    assert stream.gave_up
    assert proxy.count("GET", "/blobs/") == QUICK.attempts


@pytest.mark.parametrize(
    "wrong",
    [
        f"bytes 0-{BLOB.size - 1}/{BLOB.size}",
        f"bytes {HALF}-{BLOB.size}/{BLOB.size + 1}",
        f"bytes {HALF}-{HALF}/*",
        "x",
    ],
)
def test_an_inexact_range_is_not_believed(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, wrong: str
) -> None:
    proxy.faults = [Fault(path="/blobs/", content_range=wrong)]
    stream = remote.open_blob(BLOB, HALF)
    assert stream.offset == 0
    assert drain(stream) == CONTENT


@pytest.mark.parametrize("status", [416, 200])
def test_a_registry_without_ranges_is_read_from_the_start(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, status: int
) -> None:
    if status == 416:
        proxy.faults = [Fault(path="/blobs/", status=416)]
    else:
        proxy.ignore_ranges = True
    with ResumingStream(remote, BLOB, policy=QUICK) as stream:
        stream.position = HALF  # as after a break
        assert b"".join(iter(lambda: stream.read(70_000), b"")) == CONTENT[HALF:]


def test_the_end_of_a_blob_is_never_asked_for(proxy: FaultProxy, remote: RegistryStore, image: SmallImage) -> None:
    stream = remote.open_blob(BLOB, BLOB.size)
    assert (stream.offset, drain(stream)) == (BLOB.size, b"")
    assert proxy.seen == []


def test_a_stalled_download_fails_after_the_stall_timeout(
    proxy: FaultProxy, repository: str, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", stall_at=HALF, times=9)]
    store = connect(proxy.host, repository, stall_timeout=0.3)
    begin = time.monotonic()
    with pytest.raises(UnavailableError, match="stopped answering"):
        drain(store.open_blob(BLOB))
    assert time.monotonic() - begin < 3
    store.close()


@pytest.mark.parametrize("fault", [{"reset_at": 100}, {"cut_at": 100}], ids=["reset", "cut"])
def test_a_document_is_read_again_when_the_connection_breaks(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, fault: dict[str, Any]
) -> None:
    proxy.faults = [Fault(path="/manifests/", times=2, **fault)]
    assert remote.read_document(image.index_descriptor) == image.index
    assert proxy.count("GET", "/manifests/") == 3


# --- wrong bytes


def test_a_flipped_bit_in_a_document_is_fetched_once_more(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/manifests/", flip_at=10)]
    assert remote.read_document(image.index_descriptor) == image.index
    assert proxy.count("GET", "/manifests/") == 2
    assert proxy.seen[-1].headers["Cache-Control"] == "no-cache"


def test_bytes_that_stay_wrong_are_an_integrity_error_after_one_more_try(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(flip_at=10, times=99)]
    with pytest.raises(IntegrityError) as caught:
        remote.read_document(image.index_descriptor)
    assert caught.value.exit_code == 6
    assert proxy.count("GET", "/manifests/") == 2
    config, _ = image.blobs[0]
    with pytest.raises(IntegrityError):
        remote.read_blob(config)
    assert proxy.count("GET", "/blobs/") == 2


def test_a_flipped_bit_in_a_blob_is_caught_by_the_verifying_reader(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", flip_at=BLOB.size - 1)]
    pieces: list[bytes] = []
    with remote.open_blob(BLOB) as stream:
        reader = VerifyingReader(stream, BLOB.digest, BLOB.size)
        with pytest.raises(IntegrityError):
            pieces.extend(iter(lambda: reader.read(70_000), b""))
    assert 0 < len(b"".join(pieces)) < BLOB.size  # the last piece is not handed out


def test_damaged_blobs_on_the_registry_are_noticed(
    plain_registry: RealRegistry, repository: str, image: SmallImage
) -> None:
    direct = connect(plain_registry.host, repository)
    content = repository.encode() * 1000
    blob = describe(content)
    direct.put_blob(blob, BytesStream(content))
    plain_registry.blob_path(blob.digest).write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match="announces"):
        direct.open_blob(blob)
    assert not direct.has_blob(blob)
    direct.close()


def test_a_digest_that_the_registry_calls_otherwise_is_refused(
    plain_registry: RealRegistry, proxy: FaultProxy, remote: RegistryStore, image: SmallImage
) -> None:
    digest = str(Digest.of(image.index))
    other = {"Docker-Content-Digest": f"sha256:{'1' * 64}", "Content-Length": "10"}
    media = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    proxy.faults = [Fault(method="HEAD", status=200, headers={**other, **media})]
    with pytest.raises(IntegrityError, match="calls it"):
        remote.resolve(digest)


@pytest.mark.parametrize("gone", ["Docker-Content-Digest", "Content-Type"])
def test_a_head_that_says_too_little_is_completed_from_the_bytes(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, gone: str
) -> None:
    proxy.faults = [Fault(method="HEAD", drop_headers=(gone,))]
    found = remote.resolve("1.0")
    assert (found.digest, found.size, found.media_type) == (
        image.index_descriptor.digest,
        len(image.index),
        image.index_descriptor.media_type,
    )


# --- statuses and waiting


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_errors_are_tried_again(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, status: int
) -> None:
    proxy.faults = [Fault(method="HEAD", status=status, times=2), Fault(status=status, times=2)]
    assert remote.read_document(remote.resolve("1.0")) == image.index


def test_lasting_errors_end_as_unavailable(proxy: FaultProxy, remote: RegistryStore, image: SmallImage) -> None:
    proxy.faults = [Fault(method="HEAD", status=503, times=99)]
    with pytest.raises(UnavailableError, match=re.escape(proxy.host)) as caught:
        remote.resolve("1.0")
    assert caught.value.exit_code == 7
    assert proxy.count("HEAD") == QUICK.attempts


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_final_errors_are_not_tried_again(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, status: int
) -> None:
    proxy.faults = [Fault(status=status, times=99)]
    kind = {401: AccessDeniedError, 403: AccessDeniedError, 404: NotFoundError, 400: BundleError}[status]
    with pytest.raises(kind):
        remote.read_document(image.index_descriptor)
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(proxy: FaultProxy, remote: RegistryStore, image: SmallImage, form: str) -> None:
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    proxy.faults = [Fault(method="HEAD", status=429, headers={"Retry-After": value})]
    begin = time.monotonic()
    remote.resolve("1.0")
    assert 0.9 < time.monotonic() - begin < 4


def test_a_wait_can_be_cancelled(proxy: FaultProxy, repository: str, image: SmallImage) -> None:
    proxy.faults = [Fault(method="HEAD", status=429, headers={"Retry-After": "50"})]
    cancel = Cancel()
    options = RegistryOptions(insecure_hosts=frozenset({proxy.host}))
    store = RegistryStore(Reference.parse(f"{proxy.host}/{repository}"), options=options, cancel=cancel)
    threading.Timer(0.3, cancel.set).start()
    begin = time.monotonic()
    with pytest.raises(CancelledError):
        store.resolve("1.0")
    assert time.monotonic() - begin < 5
    store.close()


def test_refused_connections_take_at_most_five_seconds_with_the_real_policy(repository: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    store = connect(host, repository, retry=RetryPolicy())
    begin = time.monotonic()
    with pytest.raises(UnavailableError, match=f"`{re.escape(host)}` refuses connections"):
        store.resolve("1.0")
    assert time.monotonic() - begin < 5
    store.close()


def test_a_server_that_accepts_but_never_answers_is_unavailable(repository: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        store = connect(host, repository, stall_timeout=0.1)
        with pytest.raises(UnavailableError, match="stopped answering"):
            store.resolve("1.0")
        store.close()


def test_garbage_instead_of_http_is_unavailable(repository: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            for _ in range(QUICK.attempts):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        store = connect(host, repository)
        with pytest.raises(UnavailableError):
            store.resolve("1.0")
        store.close()
        thread.join(5)


# --- uploads


def test_a_broken_upload_is_unavailable_and_stores_nothing(
    proxy: FaultProxy, remote: RegistryStore, repository: str
) -> None:
    content = repository.encode() * 20_000
    blob = describe(content)
    proxy.faults = [Fault(method="PUT", path="/blobs/uploads/", reset_upload_at=HALF)]
    with pytest.raises(UnavailableError):
        remote.put_blob(blob, BytesStream(content))
    assert not remote.has_blob(blob)
    remote.put_blob(blob, BytesStream(content))
    assert remote.has_blob(blob)


def test_an_upload_sends_its_bytes_once_with_a_length(
    proxy: FaultProxy, remote: RegistryStore, repository: str
) -> None:
    content = repository.encode() * 1000
    remote.put_blob(describe(content), BytesStream(content))
    assert proxy.count("PUT") == 1
    headers = proxy.seen[-1].headers
    assert headers["Content-Length"] == str(len(content))
    assert "Transfer-Encoding" not in headers


def test_a_lost_reply_to_a_manifest_is_repeated(proxy: FaultProxy, remote: RegistryStore, image: SmallImage) -> None:
    proxy.faults = [Fault(method="PUT", path="/manifests/", lose_reply=True)]
    remote.put_document(image.index, image.index_descriptor.media_type, name="again")
    assert remote.resolve("again").digest == image.index_descriptor.digest


def test_a_manifest_whose_blobs_are_missing_is_refused_with_the_registrys_reason(remote: RegistryStore) -> None:
    image = small_image("never uploaded")
    with pytest.raises(BundleError, match="BLOB_UNKNOWN") as caught:
        remote.put_document(image.manifest, image.manifest_descriptor.media_type, name="1.0")
    assert caught.value.exit_code == 3
