"""How to talk to registries: what a caller may set, and what the environment sets."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from mr_core.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """Settings of a registry client; all times in seconds.

    Attributes:
        insecure_hosts: Registries, exactly as in references (``127.0.0.1:5000``), that are spoken to in plain http.
            Every other registry gets https with a verified certificate, loopback included, and is never downgraded.
        ca_bundle: Certificates to trust instead of the built-in ones, PEM.
        username: With ``password``, used instead of what the Docker configuration holds.
        password: See ``username``.
        connect_timeout: For making a connection.
        stall_timeout: Longest time without a byte while waiting for headers or a body.
        commit_timeout: Longest time a registry may take to confirm an uploaded blob.
        retry: When to ask again.
        user_agent: Sent with each request.
        docker_config: The Docker configuration directory, `None` for the default (``DOCKER_CONFIG``, ``~/.docker``).
        proxies: Proxy addresses for ``http``, ``https`` and ``all``.
        no_proxy: Hosts that are reached without a proxy: names, parent domains, ``host:port`` or ``*``, separated by
            commas; ranges of addresses are not known. Loopback never uses one.
    """

    insecure_hosts: frozenset[str] = frozenset()
    ca_bundle: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    commit_timeout: float = 300.0
    retry: RetryPolicy = RetryPolicy()  # noqa: RUF009 - frozen
    user_agent: str = "mr-backends"
    docker_config: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_proxy: str = ""

    def is_insecure(self, host: str) -> bool:
        """Whether ``host`` (with its port, when it has one) was named insecure."""
        return host.lower() in {named.lower() for named in self.insecure_hosts}

    def proxies_for(self, url: str) -> dict[str, str]:
        """Return the proxies to use for ``url``, in the form of `requests`."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if _is_loopback(host) or _is_listed(host, parts.netloc, self.no_proxy):
            return {}
        proxy = self.proxies.get(parts.scheme) or self.proxies.get("all")
        return {parts.scheme: proxy} if proxy else {}

    def with_environment(self, environment: Mapping[str, str]) -> RegistryOptions:
        """Return these options with what the usual environment variables say where nothing was set here.

        Known are ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` in both cases, ``SSL_CERT_FILE`` and
        ``REQUESTS_CA_BUNDLE``. In a CGI program (``REQUEST_METHOD`` is set) a client could set ``HTTP_PROXY``, so only
        the lower-case form counts there.
        """

        def read(name: str) -> str:
            return environment.get(name, "") or environment.get(name.upper(), "")

        found = {scheme: read(f"{scheme}_proxy") for scheme in ("http", "https", "all")}
        if "REQUEST_METHOD" in environment:
            found["http"] = environment.get("http_proxy", "")
        bundle = environment.get("SSL_CERT_FILE") or environment.get("REQUESTS_CA_BUNDLE")
        return replace(
            self,
            proxies=self.proxies or {scheme: proxy for scheme, proxy in found.items() if proxy},
            no_proxy=self.no_proxy or read("no_proxy"),
            ca_bundle=self.ca_bundle or (Path(bundle) if bundle else None),
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_listed(host: str, netloc: str, no_proxy: str) -> bool:
    """Whether a ``NO_PROXY`` list names a host, a parent domain of it, host and port, or everything."""
    for entry in (item.strip().lower().lstrip(".") for item in no_proxy.split(",")):
        if entry and (entry in {"*", host, netloc.lower()} or host.endswith(f".{entry}")):
            return True
    return False
