"""Where credentials come from: explicit ones, Docker's configuration, and real helper programs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from mr_core.errors import AccessDeniedError, InvalidInputError, NotFoundError
from mr_core.reference import Reference
from mr_core.registry import RegistryStore
from mr_core.registry_auth import find_credentials
from mr_core.registry_options import RegistryOptions
from support.registry import RealRegistry

HOST = "127.0.0.1:5000"
Configure: TypeAlias = Callable[..., RegistryOptions]


def header(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write a Docker configuration and helpers, and return options that use them."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def write(content: object, **helpers: str) -> RegistryOptions:
        (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        for name, script in helpers.items():
            program = tmp_path / f"docker-credential-{name}"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        return RegistryOptions(docker_config=tmp_path)

    return write


def answer(user: str) -> str:
    return f"""read host; [ "$1" = get ] && printf '{{"ServerURL":"%s","Username":"{user}","Secret":"s"}}' "$host" """


def test_explicit_credentials_come_first(config: Configure) -> None:
    options = config({"auths": {HOST: {"auth": "eA=="}}})
    explicit = RegistryOptions(username="me", password="p:w", docker_config=options.docker_config)
    assert find_credentials(HOST, "a/b", explicit) == header("me", "p:w")
    assert "p:w" not in repr(explicit)


def test_the_order_is_helper_of_the_host_then_store_then_file(config: Configure) -> None:
    auths = {"auths": {HOST: {"auth": base64.b64encode(b"file:f").decode()}}}
    options = config(auths, mine=answer("helper"), all=answer("store"))
    assert find_credentials(HOST, "a/b", options) == header("file", "f")
    config({**auths, "credsStore": "all"})
    assert find_credentials(HOST, "a/b", options) == header("store", "s")
    config({**auths, "credsStore": "all", "credHelpers": {HOST: "mine"}})
    assert find_credentials(HOST, "a/b", options) == header("helper", "s")
    config({**auths, "credHelpers": {"other.example": "mine"}})
    assert find_credentials(HOST, "a/b", options) == header("file", "f")


def test_credentials_of_another_host_are_not_taken(config: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORAS_USER", "u")
    monkeypatch.setenv("ORAS_PASS", "p")
    options = config({"auths": {"registry.example": {"auth": "eDp5"}}})
    assert find_credentials(HOST, "registry.example/b", options) is None


def test_docker_config_of_the_environment_is_used(
    config: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config({"auths": {HOST: {"auth": "eDp5"}}})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert find_credentials(HOST, "a", RegistryOptions()) == "Basic eDp5"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    assert find_credentials(HOST, "a", RegistryOptions()) is None


def test_helpers_without_an_entry_or_without_a_program_mean_anonymous(config: Configure) -> None:
    options = config({"credsStore": "empty"}, empty="echo 'credentials not found in native keychain'; exit 1")
    assert find_credentials(HOST, "a", options) is None
    config({"credsStore": "notinstalled"})
    assert find_credentials(HOST, "a", options) is None


@pytest.mark.parametrize("script", ["exit 3", "echo no json", "echo '{}'"])
def test_a_broken_helper_is_reported(config: Configure, script: str) -> None:
    options = config({"credsStore": "broken"}, broken=script)
    with pytest.raises(AccessDeniedError, match="docker-credential-broken"):
        find_credentials(HOST, "a", options)


def test_a_helper_that_hangs_is_given_up(config: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr_core.registry_auth._HELPER_SECONDS", 0.2)
    options = config({"credsStore": "slow"}, slow="exec sleep 30")
    with pytest.raises(AccessDeniedError, match="did not answer"):
        find_credentials(HOST, "a", options)


def test_a_helper_is_never_a_path(config: Configure) -> None:
    with pytest.raises(AccessDeniedError, match="not a plain name"):
        find_credentials(HOST, "a", config({"credsStore": "../../bin/sh"}))


@pytest.mark.parametrize(
    "content", ["{", '{"auths": []}', '{"auths": {"h": {"auth": 3}}}', '{"credHelpers": {"h": 1}}']
)
def test_a_broken_configuration_is_named(config: Configure, content: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"config\.json"):
        find_credentials(HOST, "a", config(content))


def test_a_real_login_works(basic_registry: RealRegistry, config: Configure, repository: str) -> None:
    pair = base64.b64encode(f"{basic_registry.username}:{basic_registry.password}".encode()).decode()
    options = config({"auths": {basic_registry.host: {"auth": pair}}})
    settings = basic_registry.options(username="", password="", docker_config=options.docker_config)
    store = RegistryStore(Reference.parse(f"{basic_registry.host}/{repository}"), options=settings)
    with pytest.raises(NotFoundError):
        store.resolve("nothing")  # not found is an answer to somebody who was let in
    store.close()


def test_nothing_slow_is_imported_before_it_is_needed() -> None:
    code = """
        import sys
        import mr_core.open_store, mr_core.registry, mr_core.transfer
        slow = {"requests", "urllib3", "oras", "jsonschema", "http.client"} & set(sys.modules)
        assert not slow, slow
        from mr_core.location import parse_location
        mr_core.open_store.open_source(parse_location("docker://127.0.0.1:1/x"))
        assert "oras" not in sys.modules
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_proxies_are_chosen_by_scheme_and_host() -> None:
    environment = {
        "HTTPS_PROXY": "http://proxy.example:3128",
        "http_proxy": "http://plain.example:3128",
        "NO_PROXY": "inner.example, .dot.example,with-port.example:8443",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    options = RegistryOptions().with_environment(environment)
    assert options.ca_bundle == Path("/etc/ca.pem")
    assert options.proxies_for("https://registry.example/v2/") == {"https": "http://proxy.example:3128"}
    assert options.proxies_for("http://registry.example/v2/") == {"http": "http://plain.example:3128"}
    for direct in (
        "https://inner.example/",
        "https://a.inner.example/",
        "https://x.dot.example/",
        "https://with-port.example:8443/",
        "https://127.0.0.1:5000/",
        "https://localhost/",
        "https://[::1]:5000/",
    ):
        assert options.proxies_for(direct) == {}, direct
    assert options.proxies_for("https://notinner.example/") != {}
    assert RegistryOptions().proxies_for("https://registry.example/") == {}
    hostile = {"REQUEST_METHOD": "GET", "HTTP_PROXY": "http://attacker.example"}
    assert RegistryOptions().with_environment(hostile).proxies == {}


def test_a_user_without_a_home_is_anonymous() -> None:
    script = """
import os
from mr_core.registry_auth import find_credentials
from mr_core.registry_options import RegistryOptions
os.environ.pop("HOME", None)
os.environ.pop("DOCKER_CONFIG", None)
if os.getuid() == 0:
    os.setuid(54321)
else:
    import pwd
    def absent(uid):
        raise KeyError(uid)
    pwd.getpwuid = absent
print(find_credentials("r.example", "a", RegistryOptions()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_an_answer_that_is_nested_too_deep_is_no_answer(config: Configure) -> None:
    options = config({"credsStore": "deep"}, deep="head -c 200000 /dev/zero | tr '\\0' '['")
    with pytest.raises(AccessDeniedError, match="no valid answer"):
        find_credentials(HOST, "a", options)
