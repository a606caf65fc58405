"""Whom a registry client speaks to, and what it says to whom: redirects, TLS, credentials, proxies."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from mr_core.errors import (
    AccessDeniedError,
    BundleError,
    HostError,
    IntegrityError,
    UnavailableError,
)
from mr_core.memory import BytesStream
from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.registry_options import RegistryOptions
from support.registry import QUICK, RealRegistry, make_certificate
from support.remote_blob import BLOB, CONTENT, HALF, connect, drain
from support.small_image import SmallImage, describe, small_image
from support.wire import Fault, FaultProxy

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
def test_bad_redirects_are_refused(proxy: FaultProxy, remote: RegistryStore, image: SmallImage, target: str) -> None:
    proxy.faults = [Fault(path="/blobs/", status=302, headers={"Location": target.format(host=proxy.host)}, times=9)]
    with pytest.raises(UnavailableError) as caught:
        remote.open_blob(BLOB)
    assert "pw" not in caught.value.message


def test_redirects_in_a_circle_end(
    proxy: FaultProxy, remote: RegistryStore, repository: str, image: SmallImage
) -> None:
    proxy.faults = [Fault(path="/blobs/", status=302, headers={"Location": f"/v2/{repository}/blobs/x"}, times=99)]
    with pytest.raises(UnavailableError, match="redirects more than"):
        remote.open_blob(BLOB)
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


def test_a_bearer_challenge_is_explained(proxy: FaultProxy, remote: RegistryStore) -> None:
    challenge = 'Bearer realm="https://auth.example/token",service="x, basic y",scope="pull"'
    proxy.faults = [Fault(method="HEAD", status=401, headers={"WWW-Authenticate": challenge})]
    with pytest.raises(AccessDeniedError, match="token authentication"):
        remote.resolve("1.0")


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


def test_connections_are_reused(proxy: FaultProxy, remote: RegistryStore, image: SmallImage) -> None:
    before = proxy.connections
    for _ in range(5):
        remote.read_document(remote.resolve("1.0"))
        remote.has_blob(BLOB)
        assert drain(remote.open_blob(BLOB)) == CONTENT
    assert proxy.connections - before == 1


def test_a_wrong_size_in_a_manifest_is_caught_before_the_first_byte(remote: RegistryStore, image: SmallImage) -> None:
    with pytest.raises(IntegrityError, match="announces"):
        remote.open_blob(dataclasses.replace(BLOB, size=BLOB.size + 5))


@pytest.mark.parametrize(
    "location", ["http://[::1/x", "https://r.example:99999/x", "http://127.0.0.1:port/x", "ftp://h/"]
)
def test_a_bad_address_in_a_redirect_is_the_registrys_fault(
    proxy: FaultProxy, remote: RegistryStore, image: SmallImage, location: str
) -> None:
    proxy.faults = [Fault(path="/blobs/", status=307, headers={"Location": location})]
    before = len(proxy.seen)
    with pytest.raises(UnavailableError, match="redirects to a bad address") as caught:
        remote.open_blob(BLOB)
    assert caught.value.exit_code == 7
    assert len(proxy.seen) == before + 1, "asking again cannot help"
    proxy.faults = [Fault(method="POST", status=202, headers={"Location": location})]
    with pytest.raises(UnavailableError, match="redirects to a bad address"):
        remote.put_blob(describe(b"new"), BytesStream(b"new"))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_certificates_that_cannot_be_used_are_told_at_once(
    tls_registry: RealRegistry, plain_registry: RealRegistry, repository: str, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    options = RegistryOptions(insecure_hosts=frozenset({plain_registry.host})).with_environment(
        {"SSL_CERT_FILE": str(path)}
    )
    store = RegistryStore(Reference.parse(f"{tls_registry.host}/{repository}"), options=options)
    begin = time.monotonic()
    with pytest.raises(HostError, match=r"Cannot read certificates .*ca\.pem") as caught:
        store.resolve("1.0")
    store.close()
    assert time.monotonic() - begin < 0.4, "it was tried again"
    assert caught.value.exit_code == 9
    assert "SSL_CERT_FILE" in caught.value.hint
    plain = RegistryStore(Reference.parse(f"{plain_registry.host}/{repository}"), options=options)
    assert not plain.has_blob(BLOB), "plain http needs no certificates"
    plain.close()


def test_what_a_registry_says_cannot_steer_a_terminal(proxy: FaultProxy, remote: RegistryStore) -> None:
    proxy.faults = [Fault(path="/blobs/", status=307, headers={"Location": "ftp://h\x1b]0;t\x07/"})]
    with pytest.raises(UnavailableError) as caught:
        remote.open_blob(BLOB)
    assert caught.value.message.isprintable()
    proxy.faults = [Fault(path="/blobs/", status=307, headers={"Location": "ftp://h\x1bc/"})]
    with pytest.raises(UnavailableError) as caught:
        remote.open_blob(BLOB)
    assert caught.value.message.isprintable()
