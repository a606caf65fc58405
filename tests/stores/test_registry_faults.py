"""A registry store behind a wire that breaks, and with registries that misbehave."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
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
from mr_core.store import BlobStream
from support.registry import QUICK, RealRegistry, make_certificate
from support.small_image import SmallImage, describe, small_image
from support.wire import Fault, FaultProxy

CONTENT = bytes(range(251)) * 4000
BLOB = describe(CONTENT)
HALF = 500_000


@pytest.fixture
def image(plain_registry: RealRegistry, repository: str) -> SmallImage:
    """An image and the blob `CONTENT`, in the plain registry."""
    image = small_image()
    direct = connect(plain_registry.host, repository)
    image.write(direct, "1.0")
    direct.put_blob(BLOB, BytesStream(CONTENT))
    direct.close()
    return image


@pytest.fixture
def proxy(plain_registry: RealRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(plain_registry.host) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy, repository: str) -> Iterator[RegistryStore]:
    store = connect(proxy.host, repository)
    yield store
    store.close()


def connect(host: str, repository: str, **settings: Any) -> RegistryStore:
    settings = {"insecure_hosts": frozenset({host}), "retry": QUICK, **settings}
    options = RegistryOptions(**settings)
    return RegistryStore(Reference.parse(f"{host}/{repository}"), options=options)


def drain(stream: BlobStream) -> bytes:
    with stream:
        return b"".join(iter(lambda: stream.read(70_000), b""))


# --- broken connections


@pytest.mark.parametrize("fault", [{"reset_at": HALF}, {"cut_at": HALF}], ids=["reset", "cut"])
def test_a_broken_download_says_so_and_continues_where_it_stopped(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage, fault: dict[str, Any]
) -> None:
    proxy.faults = [Fault(path="/blobs/", **fault)]
    pieces: list[bytes] = []
    with store.open_blob(BLOB) as stream, pytest.raises(UnavailableError) as caught:
        pieces.extend(iter(lambda: stream.read(70_000), b""))
    got = b"".join(pieces)
    assert caught.value.exit_code == 7
    assert 0 < len(got) <= HALF
    assert got == CONTENT[: len(got)]
    rest = store.open_blob(BLOB, len(got))
    assert rest.offset == len(got)
    assert got + drain(rest) == CONTENT


def test_a_resuming_stream_survives_many_breaks_and_asks_only_for_what_is_missing(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", reset_at=200_000, times=4)]
    with ResumingStream(store, BLOB, policy=QUICK) as stream:
        reader = VerifyingReader(stream, BLOB.digest, BLOB.size)
        assert b"".join(iter(lambda: reader.read(70_000), b"")) == CONTENT
        reader.finish()
    starts = [int(re.findall(r"\d+", seen.headers.get("Range", "bytes=0-"))[0]) for seen in proxy.seen]
    assert len(starts) == 5
    assert starts == sorted(set(starts))


def test_a_resuming_stream_gives_up_without_progress(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", reset_at=0, times=99)]
    with ResumingStream(store, BLOB, policy=QUICK) as stream, pytest.raises(UnavailableError):
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
    proxy: FaultProxy, store: RegistryStore, image: SmallImage, wrong: str
) -> None:
    proxy.faults = [Fault(path="/blobs/", content_range=wrong)]
    stream = store.open_blob(BLOB, HALF)
    assert stream.offset == 0
    assert drain(stream) == CONTENT


@pytest.mark.parametrize("status", [416, 200])
def test_a_registry_without_ranges_is_read_from_the_start(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage, status: int
) -> None:
    if status == 416:
        proxy.faults = [Fault(path="/blobs/", status=416)]
    else:
        proxy.ignore_ranges = True
    with ResumingStream(store, BLOB, policy=QUICK) as stream:
        stream.position = HALF  # as after a break
        assert b"".join(iter(lambda: stream.read(70_000), b"")) == CONTENT[HALF:]


def test_the_end_of_a_blob_is_never_asked_for(proxy: FaultProxy, store: RegistryStore, image: SmallImage) -> None:
    stream = store.open_blob(BLOB, BLOB.size)
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
    proxy: FaultProxy, store: RegistryStore, image: SmallImage, fault: dict[str, Any]
) -> None:
    proxy.faults = [Fault(path="/manifests/", times=2, **fault)]
    assert store.read_document(image.index_descriptor) == image.index
    assert proxy.count("GET", "/manifests/") == 3


# --- wrong bytes


def test_a_flipped_bit_in_a_document_is_fetched_once_more(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/manifests/", flip_at=10)]
    assert store.read_document(image.index_descriptor) == image.index
    assert proxy.count("GET", "/manifests/") == 2
    assert proxy.seen[-1].headers["Cache-Control"] == "no-cache"


def test_bytes_that_stay_wrong_are_an_integrity_error_after_one_more_try(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(flip_at=10, times=99)]
    with pytest.raises(IntegrityError) as caught:
        store.read_document(image.index_descriptor)
    assert caught.value.exit_code == 6
    assert proxy.count("GET", "/manifests/") == 2
    config, _ = image.blobs[0]
    with pytest.raises(IntegrityError):
        store.read_blob(config)
    assert proxy.count("GET", "/blobs/") == 2


def test_a_flipped_bit_in_a_blob_is_caught_by_the_verifying_reader(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", flip_at=BLOB.size - 1)]
    pieces: list[bytes] = []
    with store.open_blob(BLOB) as stream:
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
    plain_registry: RealRegistry, proxy: FaultProxy, store: RegistryStore, image: SmallImage
) -> None:
    digest = str(Digest.of(image.index))
    other = {"Docker-Content-Digest": f"sha256:{'1' * 64}", "Content-Length": "10"}
    media = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    proxy.faults = [Fault(method="HEAD", status=200, headers={**other, **media})]
    with pytest.raises(IntegrityError, match="calls it"):
        store.resolve(digest)


@pytest.mark.parametrize("gone", ["Docker-Content-Digest", "Content-Type"])
def test_a_head_that_says_too_little_is_completed_from_the_bytes(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage, gone: str
) -> None:
    proxy.faults = [Fault(method="HEAD", drop_headers=(gone,))]
    found = store.resolve("1.0")
    assert (found.digest, found.size, found.media_type) == (
        image.index_descriptor.digest,
        len(image.index),
        image.index_descriptor.media_type,
    )


# --- statuses and waiting


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_errors_are_tried_again(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage, status: int
) -> None:
    proxy.faults = [Fault(method="HEAD", status=status, times=2), Fault(status=status, times=2)]
    assert store.read_document(store.resolve("1.0")) == image.index


def test_lasting_errors_end_as_unavailable(proxy: FaultProxy, store: RegistryStore, image: SmallImage) -> None:
    proxy.faults = [Fault(method="HEAD", status=503, times=99)]
    with pytest.raises(UnavailableError, match=re.escape(proxy.host)) as caught:
        store.resolve("1.0")
    assert caught.value.exit_code == 7
    assert proxy.count("HEAD") == QUICK.attempts


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_final_errors_are_not_tried_again(
    proxy: FaultProxy, store: RegistryStore, image: SmallImage, status: int
) -> None:
    proxy.faults = [Fault(status=status, times=99)]
    kind = {401: AccessDeniedError, 403: AccessDeniedError, 404: NotFoundError, 400: BundleError}[status]
    with pytest.raises(kind):
        store.read_document(image.index_descriptor)
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(proxy: FaultProxy, store: RegistryStore, image: SmallImage, form: str) -> None:
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    proxy.faults = [Fault(method="HEAD", status=429, headers={"Retry-After": value})]
    begin = time.monotonic()
    store.resolve("1.0")
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
    proxy: FaultProxy, store: RegistryStore, repository: str
) -> None:
    content = repository.encode() * 20_000
    blob = describe(content)
    proxy.faults = [Fault(method="PUT", path="/blobs/uploads/", reset_upload_at=HALF)]
    with pytest.raises(UnavailableError):
        store.put_blob(blob, BytesStream(content))
    assert not store.has_blob(blob)
    store.put_blob(blob, BytesStream(content))
    assert store.has_blob(blob)


def test_an_upload_sends_its_bytes_once_with_a_length(proxy: FaultProxy, store: RegistryStore, repository: str) -> None:
    content = repository.encode() * 1000
    store.put_blob(describe(content), BytesStream(content))
    assert proxy.count("PUT") == 1
    headers = proxy.seen[-1].headers
    assert headers["Content-Length"] == str(len(content))
    assert "Transfer-Encoding" not in headers


def test_a_lost_reply_to_a_manifest_is_repeated(proxy: FaultProxy, store: RegistryStore, image: SmallImage) -> None:
    proxy.faults = [Fault(method="PUT", path="/manifests/", lose_reply=True)]
    store.put_document(image.index, image.index_descriptor.media_type, name="again")
    assert store.resolve("again").digest == image.index_descriptor.digest


def test_a_manifest_whose_blobs_are_missing_is_refused_with_the_registrys_reason(store: RegistryStore) -> None:
    image = small_image("never uploaded")
    with pytest.raises(BundleError, match="BLOB_UNKNOWN") as caught:
        store.put_document(image.manifest, image.manifest_descriptor.media_type, name="1.0")
    assert caught.value.exit_code == 3


# --- redirects and secrets


def test_redirects_are_followed_and_credentials_stay_at_home(
    plain_registry: RealRegistry, basic_registry: RealRegistry, repository: str, image: SmallImage
) -> None:
    home = connect(basic_registry.host, repository, username=basic_registry.username, password=basic_registry.password)
    home.put_blob(BLOB, BytesStream(CONTENT))
    home.close()
    with FaultProxy(basic_registry.host) as first, FaultProxy(plain_registry.host) as second:
        target = f"http://{second.host}/v2/{repository}/blobs/{BLOB.digest}"
        options = basic_registry.options(insecure_hosts=frozenset({first.host, second.host}))
        store = RegistryStore(Reference.parse(f"{first.host}/{repository}"), options=options)
        assert store.has_blob(BLOB)  # from now on the credentials are known
        first.faults = [Fault(path="/blobs/", status=307, headers={"Location": target})]
        assert drain(store.open_blob(BLOB, HALF)) == CONTENT[HALF:]
        store.close()
        assert "Authorization" in first.seen[-1].headers
        assert "Authorization" not in second.seen[-1].headers
        assert second.seen[-1].headers["Range"] == f"bytes={HALF}-"


def test_an_upload_location_on_another_host_gets_no_credentials(
    plain_registry: RealRegistry, basic_registry: RealRegistry, repository: str
) -> None:
    content = repository.encode() * 50
    with FaultProxy(basic_registry.host) as first, FaultProxy(plain_registry.host) as second:
        options = basic_registry.options(insecure_hosts=frozenset({first.host, second.host}))
        store = RegistryStore(Reference.parse(f"{first.host}/{repository}"), options=options)
        location = {"Location": f"http://{second.host}/v2/{repository}/blobs/uploads/nowhere?_state=x"}
        assert not store.has_blob(describe(content))
        first.faults = [Fault(method="POST", status=202, headers=location)]
        with pytest.raises(BundleError):
            store.put_blob(describe(content), BytesStream(content))
        store.close()
        assert "Authorization" in first.seen[-1].headers
        (put,) = [seen for seen in second.seen if seen.method == "PUT"]
        assert "Authorization" not in put.headers
        assert "_state=x&digest=sha256" in put.path


def test_plain_http_to_a_host_not_named_insecure_is_refused(
    plain_registry: RealRegistry, proxy: FaultProxy, repository: str, image: SmallImage
) -> None:
    store = connect(proxy.host, repository)
    target = f"http://{plain_registry.host}/v2/{repository}/blobs/{BLOB.digest}"
    proxy.faults = [Fault(path="/blobs/", status=307, headers={"Location": target})]
    with pytest.raises(UnavailableError, match="redirects to plain http"):
        store.open_blob(BLOB)
    store.close()


def test_https_is_never_left_for_http(
    tls_registry: RealRegistry, plain_registry: RealRegistry, repository: str, image: SmallImage
) -> None:
    keys = (tls_registry.certificate, tls_registry.certificate.with_name("server.key"))
    with FaultProxy(plain_registry.host, tls=keys) as proxy:
        options = tls_registry.options(insecure_hosts=frozenset({plain_registry.host}))
        store = RegistryStore(Reference.parse(f"{proxy.host}/{repository}"), options=options)
        assert store.has_blob(BLOB)
        target = f"http://{plain_registry.host}/v2/{repository}/blobs/{BLOB.digest}"
        proxy.faults = [Fault(path="/blobs/", status=307, headers={"Location": target})]
        with pytest.raises(UnavailableError, match="redirects to plain http"):
            store.open_blob(BLOB)
        store.close()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://user:pw@{host}/x", "https:///x", "gopher://{host}/x"])
def test_bad_redirects_are_refused(proxy: FaultProxy, store: RegistryStore, image: SmallImage, target: str) -> None:
    proxy.faults = [Fault(path="/blobs/", status=302, headers={"Location": target.format(host=proxy.host)}, times=9)]
    with pytest.raises(UnavailableError) as caught:
        store.open_blob(BLOB)
    assert "pw" not in caught.value.message


def test_redirects_in_a_circle_end(proxy: FaultProxy, store: RegistryStore, repository: str, image: SmallImage) -> None:
    proxy.faults = [Fault(path="/blobs/", status=302, headers={"Location": f"/v2/{repository}/blobs/x"}, times=99)]
    with pytest.raises(UnavailableError, match="redirects more than"):
        store.open_blob(BLOB)
    assert proxy.count("GET") == 6


# --- who may speak to whom


def test_loopback_is_not_insecure_by_itself(plain_registry: RealRegistry, repository: str) -> None:
    store = RegistryStore(Reference.parse(f"{plain_registry.host}/{repository}"), options=RegistryOptions(retry=QUICK))
    with pytest.raises(UnavailableError, match="does not speak https") as caught:
        store.resolve("1.0")
    assert f"--insecure-registry {plain_registry.host}" in caught.value.hint
    store.close()


def test_an_unknown_certificate_is_refused_at_once(tls_registry: RealRegistry, repository: str) -> None:
    for options in (RegistryOptions(), RegistryOptions(insecure_hosts=frozenset({"127.0.0.1", "localhost:1"}))):
        store = RegistryStore(Reference.parse(f"{tls_registry.host}/{repository}"), options=options)
        begin = time.monotonic()
        with pytest.raises(UnavailableError, match="certificate is not trusted") as caught:
            store.resolve("1.0")
        assert "--ca" in caught.value.hint
        assert time.monotonic() - begin < 2
        store.close()


def test_http_on_a_tls_port_gives_the_right_hint(tls_registry: RealRegistry, repository: str) -> None:
    store = connect(tls_registry.host, repository)
    with pytest.raises(UnavailableError, match="speaks https"):
        store.read_document(small_image().index_descriptor)
    store.close()


def test_a_certificate_of_another_name_is_refused(
    plain_registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "other.crt", tmp_path / "other.key"
    make_certificate(certificate, key, names="DNS:other.example")
    with FaultProxy(plain_registry.host, tls=(certificate, key)) as proxy:
        options = RegistryOptions(ca_bundle=certificate, retry=QUICK)
        store = RegistryStore(Reference.parse(f"{proxy.host}/{repository}"), options=options)
        with pytest.raises(UnavailableError, match="certificate is not trusted"):
            store.resolve("1.0")
        store.close()


def test_missing_and_wrong_credentials_are_access_denied(
    basic_registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    anonymous = {"username": "", "password": "", "docker_config": tmp_path}
    for changes, words in (
        (anonymous, "none are known"),
        ({"username": "tester", "password": "wrong-secret"}, "denies access"),
    ):
        options = basic_registry.options(**changes)
        store = RegistryStore(Reference.parse(f"{basic_registry.host}/{repository}"), options=options)
        with pytest.raises(AccessDeniedError, match=words) as caught:
            store.resolve("1.0")
        assert caught.value.exit_code == 8
        assert "docker login" in caught.value.hint
        assert "wrong-secret" not in f"{caught.value!r}{caught.value.hint}{options!r}"
        store.close()


def test_a_bearer_challenge_is_explained(proxy: FaultProxy, store: RegistryStore) -> None:
    challenge = 'Bearer realm="https://auth.example/token",service="x, basic y",scope="pull"'
    proxy.faults = [Fault(method="HEAD", status=401, headers={"WWW-Authenticate": challenge})]
    with pytest.raises(AccessDeniedError, match="token authentication"):
        store.resolve("1.0")


def test_netrc_and_environment_do_not_interfere(
    basic_registry: RealRegistry, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login wrong password wrong\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    store = RegistryStore(Reference.parse(f"{basic_registry.host}/{repository}"), options=basic_registry.options())
    small_image().write(store, "1.0")
    assert store.resolve("1.0").digest == small_image().index_descriptor.digest
    assert "secret" not in store.describe()
    store.close()


def test_connections_are_reused(proxy: FaultProxy, store: RegistryStore, image: SmallImage) -> None:
    before = proxy.connections
    for _ in range(5):
        store.read_document(store.resolve("1.0"))
        store.has_blob(BLOB)
        assert drain(store.open_blob(BLOB)) == CONTENT
    assert proxy.connections - before == 1


def test_a_wrong_size_in_a_manifest_is_caught_before_the_first_byte(store: RegistryStore, image: SmallImage) -> None:
    with pytest.raises(IntegrityError, match="announces"):
        store.open_blob(dataclasses.replace(BLOB, size=BLOB.size + 5))
